"""The application entity that answers C-ECHO and C-STORE; it translates and decides nothing.

Who may call and what is accepted is ``gateway.listener.acceptance``'s, what becomes of an instance
``gateway.listener.filing``'s, how its bytes reach the disk ``gateway.listener.reception``'s.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import traceback
import uuid

import pynetdicom
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID
from gateway.errors import GatewayError, ListenerError, SpoolError
from gateway.listener import acceptance
from gateway.listener.acceptance import ACCEPTED_SOP_CLASSES, StoreStatus
from gateway.listener.filing import InstanceFiler, StoreCommand, StoreOutcome
from gateway.listener.ports import AssociationInfo, InstanceRecord
from gateway.listener.reception import (
    MAX_PDU_BYTES,
    ListenerServer,
    SpoolingProvider,
)
from gateway.settings import ListenerSettings
from gateway.spool import IncomingFile, Spool

log = logging.getLogger(__name__)

IMPLEMENTATION_VERSION_NAME = "LENTIGO"
_ACSE_TIMEOUT_S = 30.0
_POLL_S = 0.1
_MAX_COMMENT_CHARACTERS = 64  # PS3.7 C.4.2, Error Comment (0000,0902) is LO

# PS3.8 Table 9-21: result, source, reason.
_REJECT_CALLING = (0x01, 0x01, 0x03)  # permanent, calling AE title not recognised
_REJECT_CALLED = (0x01, 0x01, 0x07)  # permanent, called AE title not recognised
_REJECT_FAULT = (0x02, 0x01, 0x01)  # transient, no reason given


class Listener:
    """The DICOM listener: Verification and Storage as SCP.

    Parameters
    ----------
    settings
        Address, AE title, allow-list and limits.
    record
        Where instances, refusals and associations are committed.
    spool
        Where their bytes go.
    tls
        Server context; without one the listener speaks plain TCP.

    Raises
    ------
    PeerSyntaxError
        An entry of the allow-list cannot be read.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        record: InstanceRecord,
        spool: Spool,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._record = record
        self._spool = spool
        self._tls = tls
        self._peers = acceptance.parse_peers(
            settings.allow_entries, admit_loopback=settings.admit_loopback
        )
        self._filer = InstanceFiler(record, spool)
        self._server: ListenerServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port in use; meaningful while the listener runs."""
        return int(self._server.server_address[1]) if self._server else self._settings.port

    def start(self) -> None:
        """Sweep the spool, bind, and answer from threads of our own.

        Raises
        ------
        SpoolError
            The spool cannot be used.
        ListenerError
            The address cannot be bound.
        """
        # Query identifiers are personal data, and pynetdicom logs them unless told not to.
        pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
        pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
        swept = self._spool.prepare()
        try:
            server = ListenerServer(
                self._application_entity(),
                (self._settings.bind, self._settings.port),
                spool=self._spool,
                # Room for those that still negotiate: one over the limit must hear so (PS3.8).
                max_connections=2 * self._settings.max_associations + 8,
                handlers=(
                    (evt.EVT_REQUESTED, self._on_requested),
                    (evt.EVT_ACCEPTED, self._on_accepted),
                    (evt.EVT_REJECTED, self._on_rejected),
                    (evt.EVT_RELEASED, self._on_released),
                    (evt.EVT_ABORTED, self._on_aborted),
                    (evt.EVT_CONN_CLOSE, self._on_closed),
                    (evt.EVT_C_STORE, self._on_c_store),
                ),
                tls=self._tls,
            )
        except OSError as exc:
            raise ListenerError(
                f"cannot listen on {self._settings.bind}:{self._settings.port}: {exc.strerror}; "
                "choose another LENTIGO_LISTENER_PORT or LENTIGO_LISTENER_BIND"
            ) from exc
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="listener", daemon=True
        )
        self._thread.start()
        log.info(
            "the listener is ready",
            extra={"action": "listener.ready", "port": self.port, "swept": swept},
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no more associations, let the open ones finish for a while, abort the rest."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        if self._thread is not None:
            self._thread.join()
        for assoc in server.active_associations:
            if not assoc.is_established:
                _cut(assoc)  # a connection that never asked for anything
        _wait_until_none(server, grace_s)
        for assoc in server.active_associations:
            assoc.abort(block=False)
        _wait_until_none(server, 1.0)
        for assoc in server.active_associations:
            _cut(assoc)
        _wait_until_none(server, 5.0)
        log.info("the listener has stopped", extra={"action": "listener.stopped"})

    def _application_entity(self) -> AE:
        ae = AE(ae_title=self._settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = MAX_PDU_BYTES
        ae.maximum_associations = self._settings.max_associations
        ae.acse_timeout = min(_ACSE_TIMEOUT_S, self._settings.network_timeout_s)
        ae.dimse_timeout = self._settings.network_timeout_s
        ae.network_timeout = self._settings.network_timeout_s
        ae.add_supported_context(
            acceptance.VERIFICATION,
            [acceptance.EXPLICIT_VR_LITTLE_ENDIAN, acceptance.IMPLICIT_VR_LITTLE_ENDIAN],
        )
        for accepted in ACCEPTED_SOP_CLASSES.values():
            ae.add_supported_context(accepted.uid, list(accepted.transfer_syntaxes))
        return ae

    def _on_requested(self, event: evt.Event) -> None:
        """Reject an association that policy does not allow, before anything is negotiated."""
        rejection: tuple[int, int, int] | None = _REJECT_FAULT
        try:
            info = _association_info(event.assoc)
            _provider(event.assoc).association = info
            rejection = self._rejection(info)
        finally:
            # Also on a fault of ours: pynetdicom only logs it, and would go on to accept.
            if rejection is not None:
                event.assoc.acse.send_reject(*rejection)
        if rejection is not None:
            self._note(event.assoc, "rejected")
            event.assoc.kill()

    def _rejection(self, info: AssociationInfo) -> tuple[int, int, int] | None:
        if not acceptance.is_allowed(
            info.calling_ae_title, info.peer_address, self._peers, _resolve
        ):
            return _REJECT_CALLING
        must_match = self._settings.require_called_ae_title
        if must_match and info.called_ae_title != self._settings.ae_title.strip():
            return _REJECT_CALLED
        return None

    def _on_accepted(self, event: evt.Event) -> None:
        self._note(event.assoc, "accepted")

    def _on_rejected(self, event: evt.Event) -> None:
        self._note(event.assoc, "rejected")  # by pynetdicom: too many associations

    def _on_released(self, event: evt.Event) -> None:
        self._note(event.assoc, "released")

    def _on_aborted(self, event: evt.Event) -> None:
        self._note(event.assoc, "aborted")

    def _on_closed(self, event: evt.Event) -> None:
        _provider(event.assoc).abandon()

    def _note(self, assoc: Association, outcome: str) -> None:
        info = _provider(assoc).association
        if info is None:
            return  # closed before it asked for anything
        try:
            self._record.register_association(info, outcome=outcome)
        except GatewayError as exc:
            log.warning(
                "an association could not be recorded",
                extra={"action": "association.unrecorded", "outcome": outcome, "error": str(exc)},
            )

    def _on_c_store(self, event: evt.Event) -> Dataset | int:
        received = getattr(event.request, "received", None)
        try:
            outcome = self._answer(event, received)
        except Exception as exc:  # the SCP handler: one instance must not cost its siblings theirs
            # The message may quote values of the data set, so only the kind and place are logged.
            log.error(
                "an instance could not be filed",
                extra={
                    "action": "instance.failed",
                    "error": type(exc).__name__,
                    "frames": "".join(traceback.format_tb(exc.__traceback__)),
                },
            )
            outcome = StoreOutcome(
                status=StoreStatus.PROCESSING_FAILURE, reason="a fault of the receiver"
            )
        finally:
            if isinstance(received, IncomingFile):
                received.discard()
        return _response(outcome)

    def _answer(self, event: evt.Event, received: IncomingFile | SpoolError | None) -> StoreOutcome:
        association = _provider(event.assoc).association
        assert association is not None
        if isinstance(received, SpoolError):
            return self._filer.out_of_resources(received, association)
        if received is None:
            return StoreOutcome(
                status=StoreStatus.CANNOT_UNDERSTAND, reason="C-STORE without a data set"
            )
        request = event.request
        assert isinstance(request, C_STORE)
        command = StoreCommand(
            affected_sop_class_uid=str(request.AffectedSOPClassUID),
            affected_sop_instance_uid=str(request.AffectedSOPInstanceUID),
            is_fetched=self._is_ours(request.MoveOriginatorApplicationEntityTitle),
        )
        return self._filer.file(received, command, association)

    def _is_ours(self, move_originator: str | None) -> bool:
        """Return whether a C-MOVE of this installation's workers asked for an instance."""
        return str(move_originator or "").strip() == self._settings.ae_title.strip()


def _response(outcome: StoreOutcome) -> Dataset | int:
    if not outcome.reason:
        return int(outcome.status)
    response = Dataset()
    response.Status = int(outcome.status)
    comment = outcome.reason.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    response.ErrorComment = comment[:_MAX_COMMENT_CHARACTERS]
    return response


def _provider(assoc: Association) -> SpoolingProvider:
    provider = assoc.dimse
    assert isinstance(provider, SpoolingProvider)
    return provider


def _association_info(assoc: Association) -> AssociationInfo:
    request = assoc.requestor.primitive
    assert request is not None
    return AssociationInfo(
        association_id=uuid.uuid4().hex,
        calling_ae_title=str(request.calling_ae_title).strip(),
        called_ae_title=str(request.called_ae_title).strip(),
        peer_address=str(assoc.requestor.address),
    )


def _resolve(host_name: str) -> set[str]:
    """Return the addresses of a host name now; none when it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host_name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(entry[4][0]) for entry in found}


def _wait_until_none(server: ListenerServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while server.active_associations and time.monotonic() < deadline:
        time.sleep(_POLL_S / 10)


def _cut(assoc: Association) -> None:
    """Close the connection under an association that does not end by itself."""
    transport = assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport._shutdown_socket()
    if assoc.requestor.primitive is None:
        # pynetdicom would go on waiting for the request; nothing in the queue means a time-out.
        assoc.dul.to_user_queue.put(None)
