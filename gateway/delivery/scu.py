"""Associations that we ask for: over TCP or TLS, with a reason when none comes about.

pynetdicom negotiates and keeps the state machine; it says nothing of why a connection failed and
waits for ever in the middle of a PDU. The socket that it is handed here remembers the error, closes
itself, and knows how long a peer may be silent. Its queue of fragments on their way out would hold
a whole file, and the wait for the answer would begin before the file is sent; here it holds a few.
Its thread for the peer's requests may take our answers, too; here it may not.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pynetdicom import AE, _config, build_role
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, P_DATA
from pynetdicom.presentation import PresentationContext

from gateway.delivery.routes import Destination
from gateway.delivery.statuses import rejection_words
from gateway.dicom.file_meta import IMPLEMENTATION_CLASS_UID
from gateway.dicom.tls import client_context, tls_fault
from gateway.errors import AssociationRefused, NoContextAccepted, TlsSettingsError
from gateway.settings import TlsSettings

_MAX_PDU_BYTES = 0x20000
_QUEUED_FRAGMENTS = 16
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What we ask a peer for."""

    calling_ae_title: str
    contexts: Sequence[PresentationContext]
    timeout_s: float
    """Longest silence while connecting, negotiating, and waiting for an answer."""
    answer_timeout_s: float = 0.0
    """Longest wait for the answer to one message, where it is another."""
    scp_roles: Sequence[str] = ()
    """SOP classes for which we propose to be SCP, by role selection (PS3.7 D.3.3.4)."""
    handlers: Sequence[Any] = ()
    """pynetdicom event handlers."""


def associate(destination: Destination, proposal: Proposal, tls: TlsSettings) -> Association:
    """Return an established association.

    Raises
    ------
    NoContextAccepted
        The peer answered and accepted none of the contexts.
    AssociationRefused
        It cannot be reached or rejects the association; the message says why, for an
        administrator.
    """
    ae = AE(ae_title=proposal.calling_ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = "LENTIGO"
    answer_timeout_s = proposal.answer_timeout_s or proposal.timeout_s
    _config.STORE_SEND_CHUNKED_DATASET = True  # a C-STORE of a path reads as it sends
    ae.connection_timeout = ae.acse_timeout = proposal.timeout_s
    ae.dimse_timeout = ae.network_timeout = answer_timeout_s
    line = _Line(peer_context(destination, tls), silence_s=answer_timeout_s)
    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            contexts=list(proposal.contexts),
            ae_title=destination.ae_title,
            max_pdu=_MAX_PDU_BYTES,
            ext_neg=[build_role(uid, scp_role=True) for uid in proposal.scp_roles],
            evt_handlers=list(proposal.handlers),
            tls_args=cast(Any, (line, destination.host)),
        )
    except OSError as exc:  # the name cannot be resolved, or no socket is to be had
        raise AssociationRefused(_unreachable(exc)) from exc
    if assoc.is_established:
        assoc.dul.to_provider_queue = _Fragments(assoc)
        keep_answers(assoc)
        return assoc
    raise _refusal(assoc, line.error)


class _Fragments(queue.Queue[Any]):
    """What is on its way out of an association, in bounded memory."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(_QUEUED_FRAGMENTS)
        self._assoc = assoc

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add a primitive, when there is room; what nobody would send any more is let go."""
        while not self._is_over(item):
            with contextlib.suppress(queue.Full):
                super().put(item, timeout=_LOOK_S)
                return

    def _is_over(self, item: Any) -> bool:
        if isinstance(item, P_DATA) and not self._assoc.is_established:
            return True
        return not self._assoc.dul.is_alive()


class _Messages(queue.Queue[Any]):
    """What came in on an association: an answer goes to the one who waits for it.

    pynetdicom's reactor serves what the peer asks (N-EVENT-REPORT), and is to pause while we wait
    for an answer; on a busy machine it may take one more turn after that, finds the answer, logs
    "unexpected service message", and the request waits for its time-out (pynetdicom issue 875).
    The reactor alone asks without waiting.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next message: to one who does not wait, only a request of the peer."""
        if block:
            return super().get(block, timeout)
        with self.mutex:
            if not self.queue or not _is_request(self.queue[0][1]):
                raise queue.Empty
            return self._get()


def _is_request(message: Any) -> bool:
    # None wakes the one who waits when the association has ended.
    return message is not None and getattr(message, "MessageIDBeingRespondedTo", None) is None


def keep_answers(assoc: Association) -> None:
    """Let no other thread of an association that we opened take what we are answered."""
    early, assoc.dimse.msg_queue = assoc.dimse.msg_queue, _Messages()
    with contextlib.suppress(queue.Empty):
        while True:
            assoc.dimse.msg_queue.put(early.get_nowait())


def peer_context(destination: Destination, tls: TlsSettings) -> ssl.SSLContext | None:
    """Return a fresh TLS context, so that a renewed certificate needs no restart.

    None for a destination that is spoken to in plain TCP.

    Raises
    ------
    AssociationRefused
        A certificate or CA file cannot be used; the message names it.
    """
    if not destination.is_tls:
        return None
    if not tls.ca:
        raise AssociationRefused("LENTIGO_TLS_CA names no file of CA certificates to trust")
    try:
        return client_context(
            Path(tls.ca),
            certificate=Path(tls.certificate) if tls.certificate else None,
            key=Path(tls.key) if tls.key else None,
            check_host_name=tls.check_host_name,
        )
    except TlsSettingsError as exc:
        raise AssociationRefused(str(exc)) from exc


def _refusal(assoc: Association, error: OSError | None) -> AssociationRefused:
    answer = answer_of(assoc)
    if isinstance(answer, A_ASSOCIATE) and answer.result:
        why = rejection_words(answer.result_source or 0, answer.diagnostic or 0)
        return AssociationRefused(f"the destination rejects the association: {why}")
    if assoc.rejected_contexts and not assoc.accepted_contexts:
        # It answered, and accepted nothing at all; pynetdicom then aborts.
        return NoContextAccepted("the destination accepts none of our presentation contexts")
    if error is not None:
        return AssociationRefused(_unreachable(error))
    if assoc.is_aborted and answer is not None:
        return AssociationRefused("the destination aborted the association")
    return AssociationRefused("the destination cannot be reached or does not answer")


def answer_of(assoc: Association) -> A_ASSOCIATE | A_ABORT | None:
    """Return what the peer said to our request; None where it said nothing.

    Of a peer that rejects at once, pynetdicom may notice that the connection is over before it
    looks for the answer, and leaves that in its queue.
    """
    answer = assoc.acceptor.primitive or assoc.dul.receive_pdu()
    while answer is not None and not isinstance(answer, (A_ASSOCIATE, A_ABORT)):
        answer = assoc.dul.receive_pdu()
    return answer


def _unreachable(error: OSError) -> str:
    fault = tls_fault(error)
    if fault is not None:
        return f"no TLS connection to the destination: {fault.value}"
    if isinstance(error, TimeoutError):
        return "the destination does not answer"
    if isinstance(error, socket.gaierror):
        return "the destination cannot be reached: its host name is not known"
    return f"the destination cannot be reached: {error.strerror or type(error).__name__}"


class _Peered:
    """What both kinds of socket have in common; a mixin in front of ``socket.socket``."""

    line: _Line | None = None

    def _heard(self, error: OSError) -> None:
        if self.line is not None and self.line.error is None:
            self.line.error = error

    def settimeout(self, value: float | None) -> None:
        """Set the time-out; none at all stands for the longest silence."""
        if value is None and self.line is not None:
            value = self.line.silence_s
        super().settimeout(value)  # type: ignore[misc]

    def connect(self, address: Any) -> None:
        """Connect; a socket that fails is closed, and its error remembered."""
        try:
            super().connect(address)  # type: ignore[misc]
        except OSError as exc:
            self._heard(exc)
            self.close()  # type: ignore[attr-defined]
            raise
        # With Nagle's algorithm on, every message waits about 40 ms for a delayed ACK.
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[attr-defined]

    def shutdown(self, how: int) -> None:
        """Shut down; a peer that has gone is no matter: pynetdicom would not close after it."""
        with contextlib.suppress(OSError):
            super().shutdown(how)  # type: ignore[misc]

    def recv(self, *args: Any) -> bytes:
        """Receive; in TLS 1.3 a peer says only here that it wants a certificate."""
        try:
            return cast(bytes, super().recv(*args))  # type: ignore[misc]
        except OSError as exc:
            self._heard(exc)
            raise


class _PlainSocket(_Peered, socket.socket):
    pass


class _TlsSocket(_Peered, ssl.SSLSocket):
    pass


class _Line:
    """Stands in for the TLS context that pynetdicom wraps its socket with."""

    def __init__(self, context: ssl.SSLContext | None, *, silence_s: float) -> None:
        self._context = context
        self.silence_s = silence_s
        self.error: OSError | None = None
        if context is not None:
            context.sslsocket_class = _TlsSocket

    def wrap_socket(
        self, sock: socket.socket, *, server_side: bool, server_hostname: str
    ) -> _PlainSocket | _TlsSocket:
        """Return the socket to use in the place of ``sock``."""
        wrapped: _PlainSocket | _TlsSocket
        if self._context is None:
            wrapped = _PlainSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        else:
            wrapped = cast(
                _TlsSocket,
                self._context.wrap_socket(
                    sock, server_side=server_side, server_hostname=server_hostname
                ),
            )
        wrapped.line = self
        return wrapped
