"""The DICOM listener: its sockets, its threads, and what they share.

One thread accepts on each address, one serves each connection. What is said on a connection is
``gateway.listener.association``'s.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pynetdicom

from gateway.errors import ListenerError
from gateway.listener import acceptance
from gateway.listener.admission import Admission, Slots
from gateway.listener.association import Association, AssociationLimits, Collaborators
from gateway.listener.certificates import Certificates
from gateway.listener.dispatch import Dispatcher
from gateway.listener.filing import AdmitSize, InstanceFiler
from gateway.listener.negotiation import Acceptor
from gateway.listener.ports import InstanceRecord
from gateway.listener.reception import MessageLimits
from gateway.listener.services import DimseService
from gateway.listener.stream import TICK_S
from gateway.settings import ListenerSettings
from gateway.spool import Spool

log = logging.getLogger(__name__)

_BACKLOG = 128
_POLL_S = 0.01
_PAUSE_S = 0.1  # after a failed accept, e.g. for want of file descriptors


@dataclass(kw_only=True)
class _Place:
    """One open connection."""

    connection: socket.socket
    association: Association | None = None

    @property
    def is_established(self) -> bool:
        """Whether an association stands on it."""
        return self.association is not None and self.association.is_established


class Listener:
    """The DICOM listener: Verification, Storage and what plugs in, as acceptor.

    Parameters
    ----------
    settings
        Addresses, AE titles, allow-list, TLS and limits.
    record
        Where instances, refusals and associations are committed.
    spool
        Where their bytes go.
    tls
        Server context of ``settings.port``; without one it speaks plain TCP.
    services
        What is offered beside Verification and Storage.
    admit
        Asked before an instance is kept, for quotas.

    Raises
    ------
    PeerSyntaxError
        An entry of the allow-list cannot be read.
    TlsSettingsError
        A certificate, key or CA file cannot be used.
    SettingsError
        An AE title or an additional SOP class is none.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        record: InstanceRecord,
        spool: Spool,
        *,
        tls: ssl.SSLContext | None = None,
        services: Sequence[DimseService] = (),
        admit: AdmitSize | None = None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._tls = tls
        self._certificates = Certificates.of(settings)
        ae_titles = acceptance.parse_ae_titles(settings.ae_title, settings.ae_titles)
        self._limits = _limits(settings)
        self._uses = Collaborators(
            record=record,
            spool=spool,
            filer=InstanceFiler(record, spool, admit),
            acceptor=Acceptor(
                max_pdu_bytes=settings.max_pdu_bytes,
                storage=acceptance.storage_classes(settings.more_sop_classes).values(),
                services=services,
            ),
            admission=Admission(
                peers=acceptance.parse_peers(
                    settings.allow_entries, admit_loopback=settings.admit_loopback
                ),
                ae_titles=ae_titles,
                require_called_ae_title=settings.require_called_ae_title,
                max_associations=settings.max_associations,
                max_associations_per_peer=settings.max_associations_per_peer,
            ),
            dispatcher=Dispatcher(services),
            is_ours=frozenset(ae_titles).__contains__,
        )
        # Room for those that still negotiate: one over the limit must hear so (PS3.8).
        per_peer = settings.max_associations_per_peer
        self._slots = Slots(2 * settings.max_associations + 8, 2 * per_peer + 8 if per_peer else 0)
        self._doors: list[socket.socket] = []
        self._ports: list[int] = []
        self._threads: list[threading.Thread] = []
        self._open: dict[threading.Thread, _Place] = {}
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()

    @property
    def port(self) -> int:
        """The TCP port in use; meaningful while the listener runs."""
        return self._ports[0] if self._ports else self._settings.port

    @property
    def tls_port(self) -> int | None:
        """The port for TLS beside it; None without one."""
        return self._ports[1] if len(self._ports) > 1 else None

    def start(self) -> None:
        """Sweep the spool, bind, and answer from threads of our own.

        Raises
        ------
        SpoolError
            The spool cannot be used.
        ListenerError
            An address cannot be bound.
        """
        # Query identifiers are personal data, and pynetdicom logs them unless told not to.
        pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
        pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
        swept = self._spool.prepare()
        settings = self._settings
        with contextlib.ExitStack() as stack:
            is_all_tls = self._certificates is not None and settings.tls_port is None
            doors = [(self._bind(settings.port, "PORT"), is_all_tls)]
            stack.callback(doors[0][0].close)
            if settings.tls_port is not None:
                doors.append((self._bind(settings.tls_port, "TLS_PORT"), True))
                stack.callback(doors[1][0].close)
            restored = self._spool.open_journal()
            stack.pop_all()
        self._doors = [door for door, _ in doors]
        self._ports = [int(door.getsockname()[1]) for door in self._doors]
        for door, is_tls in doors:
            thread = threading.Thread(
                target=self._accept, args=(door, is_tls), name="listener", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        log.info(
            "the listener is ready",
            extra={
                "action": "listener.ready",
                "port": self.port,
                "swept": swept,
                "restored": restored,
            },
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no more associations, let the open ones finish for a while, abort the rest."""
        if not self._doors:
            return
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()
        for door in self._doors:
            door.close()
        self._doors, self._threads = [], []
        for place in self._places():
            if place.association is not None:
                place.association.stop_when_idle()
        self._cut(only_waiting=True)
        self._wait_until_none(grace_s)
        for place in self._places():
            if place.association is not None:
                place.association.stop_now()
        self._wait_until_none(4 * TICK_S)
        self._cut(only_waiting=False)
        self._wait_until_none(5.0)
        self._spool.close()
        self._ports = []
        log.info("the listener has stopped", extra={"action": "listener.stopped"})

    def _bind(self, port: int, setting: str) -> socket.socket:
        bind = self._settings.bind
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        door = socket.socket(family, socket.SOCK_STREAM)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((bind, port))
            door.listen(_BACKLOG)
            door.settimeout(TICK_S)
        except OSError as exc:
            door.close()
            raise ListenerError(
                f"cannot listen on {bind}:{port}: {exc.strerror}; "
                f"choose another LENTIGO_LISTENER_{setting} or LENTIGO_LISTENER_BIND"
            ) from exc
        return door

    def _accept(self, door: socket.socket, is_tls: bool) -> None:
        while not self._is_stopping.is_set():
            try:
                connection, address = door.accept()
            except TimeoutError:
                continue
            except OSError as exc:
                log.error(
                    "a connection could not be accepted",
                    extra={"action": "connection.failed", "error": exc.strerror},
                )
                self._is_stopping.wait(_PAUSE_S)
                continue
            peer_address = str(address[0])
            if not self._slots.take(peer_address):
                # Turned away before it costs a thread.
                log.warning(
                    "too many connections; one was closed", extra={"action": "connection.refused"}
                )
                connection.close()
                continue
            self._start(connection, peer_address, is_tls)

    def _start(self, connection: socket.socket, peer_address: str, is_tls: bool) -> None:
        thread = threading.Thread(
            target=self._serve,
            args=(connection, peer_address, is_tls),
            name="association",
            daemon=True,
        )
        with self._lock:
            self._open[thread] = _Place(connection=connection)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            log.error("no thread for a connection", extra={"action": "connection.failed"})
            connection.close()
            self._end(thread, peer_address)

    def _serve(self, connection: socket.socket, peer_address: str, is_tls: bool) -> None:
        place = self._open[threading.current_thread()]
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.settimeout(self._limits.request_timeout_s)
            context = self._tls_context(is_tls)
            if context is not None:
                connection = place.connection = context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                place.connection.do_handshake()
            connection.settimeout(TICK_S)
        except OSError as exc:
            log.warning(
                "a connection failed before its association",
                extra={"action": "connection.failed", "error": _describe(exc)},
            )
        else:
            place.association = Association(connection, peer_address, self._limits, self._uses)
            place.association.serve()
        finally:
            connection.close()
            self._end(threading.current_thread(), peer_address)

    def _tls_context(self, is_tls: bool) -> ssl.SSLContext | None:
        """Return what the connections of a door begin with; None for plain TCP."""
        if self._tls is not None and not is_tls:
            return self._tls
        if is_tls and self._certificates is not None:
            return self._certificates.context()
        return None

    def _end(self, thread: threading.Thread, peer_address: str) -> None:
        self._slots.give_back(peer_address)
        with self._lock:
            self._open.pop(thread, None)

    def _places(self) -> list[_Place]:
        with self._lock:
            return list(self._open.values())

    def _cut(self, *, only_waiting: bool) -> None:
        for place in self._places():
            if not (only_waiting and place.is_established):
                # It may have ended by itself.
                with contextlib.suppress(OSError):
                    place.connection.shutdown(socket.SHUT_RDWR)

    def _wait_until_none(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._places() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _limits(settings: ListenerSettings) -> AssociationLimits:
    return AssociationLimits(
        max_pdu_bytes=settings.max_pdu_bytes,
        message=MessageLimits(data_set_bytes=settings.max_instance_bytes),
        request_timeout_s=min(settings.request_timeout_s, settings.network_timeout_s),
        silence_s=settings.network_timeout_s,
        min_bytes_per_s=settings.min_bytes_per_s,
    )


def _describe(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the peer was silent"
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return str(reason or error.strerror or type(error).__name__)
