"""One association as acceptor: the upper-layer state machine of PS3.8 9.2, on a blocking thread.

It reads PDUs, answers them in order and decides nothing: who may call is ``admission``'s, what
becomes of an instance ``filing``'s, what a service says its own. We never release an association
ourselves, so that a release collision cannot come about; an A-RELEASE-RP is an unexpected PDU.
"""

from __future__ import annotations

import logging
import socket
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import (
    GatewayError,
    InstanceError,
    PeerLost,
    ProtocolError,
    SpoolError,
)
from gateway.faults import failpoint
from gateway.listener import commands
from gateway.listener.acceptance import VERIFICATION, StoreStatus
from gateway.listener.admission import Admission
from gateway.listener.dispatch import (
    Dispatcher,
    EncodedMessage,
    Reply,
    encode_follow_up,
    hand_back,
)
from gateway.listener.filing import InstanceFiler, StoreCommand, StoreOutcome
from gateway.listener.negotiation import AcceptedContext, Acceptor, decode_request
from gateway.listener.pdu import (
    AbortReason,
    PduType,
    decode_pdvs,
    encode_abort,
    encode_p_data,
    encode_reject,
    encode_release_reply,
)
from gateway.listener.ports import AssociationInfo, InstanceRecord
from gateway.listener.reception import Message, MessageAssembler, MessageLimits
from gateway.listener.services import FollowUp
from gateway.listener.stream import TICK_S, PduStream, linger, send
from gateway.spool import IncomingFile, Spool

log = logging.getLogger(__name__)

_LINGER_S = 2.0
_IDLE_BEFORE_STOP_S = 1.0
_SUCCESS = 0x0000


@dataclass(frozen=True, kw_only=True)
class AssociationLimits:
    """Bounds of one association; times in seconds."""

    max_pdu_bytes: int
    message: MessageLimits
    request_timeout_s: float
    """From the connection to a whole A-ASSOCIATE-RQ (ARTIM, PS3.8 9.1.5)."""
    silence_s: float
    min_bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Collaborators:
    """What every association of a listener uses."""

    record: InstanceRecord
    spool: Spool
    filer: InstanceFiler
    acceptor: Acceptor
    admission: Admission
    dispatcher: Dispatcher
    is_ours: Callable[[str], bool]
    """Whether an AE title is one of ours, e.g. as Move Originator."""


class _Stopping(Exception):
    """The listener stops and the association has nothing under way."""


@dataclass(kw_only=True)
class _Pending:
    """A follow-up that was sent and not answered yet."""

    follow_up: FollowUp
    reply: Reply


class Association:
    """Serves one connection from its first byte to its last.

    Parameters
    ----------
    connection
        Accepted, its TLS handshake done.
    peer_address
        IP address of the requestor.
    """

    def __init__(
        self,
        connection: socket.socket,
        peer_address: str,
        limits: AssociationLimits,
        uses: Collaborators,
    ) -> None:
        self._connection = connection
        self._peer_address = peer_address
        self._limits = limits
        self._uses = uses
        self._info: AssociationInfo | None = None
        self._contexts: dict[int, AcceptedContext] = {}
        self._peer_max_pdu_bytes = 0
        self._assembler: MessageAssembler | None = None
        self._pending: dict[int, _Pending] = {}
        self._next_message_id = 1
        self._is_admitted = False
        self._is_stopping = False
        self._is_aborting = False
        self._stream = PduStream(
            connection,
            max_pdu_bytes=limits.max_pdu_bytes,
            silence_s=limits.request_timeout_s,
            on_tick=self._on_tick,
        )

    @property
    def is_established(self) -> bool:
        """Whether the association was accepted and has not ended."""
        return self._is_admitted

    def stop_when_idle(self) -> None:
        """End the association as soon as nothing has been under way for a moment."""
        self._is_stopping = True

    def stop_now(self) -> None:
        """Abort the association at the next opportunity."""
        self._is_aborting = True

    def serve(self) -> None:
        """Serve the association until it ends; never raises."""
        try:
            self._serve()
        except ProtocolError as exc:
            self._note("aborted", exc)
            self._abort(AbortReason(exc.reason))
        except PeerLost as exc:
            self._note("aborted", exc)
            if self._is_admitted:
                self._abort(None)
        except _Stopping:
            self._note("aborted", None)
            self._abort(None)
        except Exception as exc:  # the SCP's edge: a fault of ours must not end in silence
            _log_fault(exc, "an association failed", "association.failed")
            self._note("aborted", None)
            self._abort(None)
        finally:
            self._finish()

    def _finish(self) -> None:
        if self._assembler is not None:
            self._assembler.abandon()
        if self._info is not None:
            for pending in self._pending.values():
                hand_back(pending.reply, pending.follow_up, None, self._info)
        if self._is_admitted:
            self._is_admitted = False
            self._uses.admission.leave(self._peer_address)
        self._connection.close()

    def _on_tick(self, silence_s: float) -> None:
        if self._is_aborting:
            raise _Stopping
        if (
            self._is_stopping
            and silence_s >= _IDLE_BEFORE_STOP_S
            and not self._stream.is_within_message
        ):
            raise _Stopping

    def _serve(self) -> None:
        if not self._negotiate():
            return
        while True:
            kind, body = self._stream.next()
            if kind == PduType.P_DATA_TF:
                self._take(body)
            elif kind == PduType.RELEASE_RQ:
                self._note("released", None)
                self._send(encode_release_reply())
                linger(self._connection, _LINGER_S)
                return
            elif kind == PduType.ABORT:
                self._note("aborted", None)
                return
            else:
                raise ProtocolError(
                    f"a PDU of the type {kind:02X}H within an association",
                    AbortReason.UNEXPECTED_PDU,
                )

    def _negotiate(self) -> bool:
        """Settle the association; return whether it stands."""
        kind, body = self._stream.next()
        if kind == PduType.ABORT:
            return False
        if kind != PduType.ASSOCIATE_RQ:
            raise ProtocolError("no association yet", AbortReason.UNEXPECTED_PDU)
        request = decode_request(body)
        self._info = info = AssociationInfo(
            association_id=uuid.uuid4().hex,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            peer_address=self._peer_address,
        )
        rejection = self._uses.admission.enter(request, info)
        if rejection is not None:
            self._note("rejected", None)
            self._send(encode_reject(*rejection))
            linger(self._connection, _LINGER_S)
            return False
        self._is_admitted = True
        agreement = self._uses.acceptor.accept(request)
        self._contexts = agreement.contexts
        self._peer_max_pdu_bytes = request.max_pdu_bytes
        self._assembler = MessageAssembler(
            self._uses.spool,
            {number: each.transfer_syntax for number, each in agreement.contexts.items()},
            frozenset(
                number for number, each in agreement.contexts.items() if self._is_storage(each)
            ),
            self._limits.message,
        )
        self._stream.expect_messages(self._limits.silence_s, self._limits.min_bytes_per_s)
        self._note("accepted", None)
        failpoint("listener.associated")
        self._send(agreement.pdu)
        return True

    def _is_storage(self, context: AcceptedContext) -> bool:
        return context.abstract_syntax != VERIFICATION and not self._uses.dispatcher.serves(context)

    def _take(self, body: memoryview) -> None:
        assembler = self._assembler
        assert assembler is not None
        for pdv in decode_pdvs(body):
            message = assembler.take(pdv)
            if message is not None:
                self._answer(message)
        self._stream.is_within_message = assembler.is_within_message

    def _answer(self, message: Message) -> None:
        field = message.command.field
        if field == commands.C_STORE_RQ:
            self._answer_store(message)
        elif field == commands.C_ECHO_RQ:
            self._respond(message, _SUCCESS)
        elif field == commands.C_CANCEL_RQ:
            return  # of an operation that has ended: it has no response (PS3.7 9.3.2.3)
        elif field == commands.N_EVENT_REPORT_RSP:
            self._take_report_response(message)
        elif field in commands.NORMALISED_REQUESTS | commands.COMPOSITE_QUERIES:
            self._answer_service(message)
        else:
            raise ProtocolError(
                f"a message with the command field {field:04X}H", AbortReason.INVALID_PARAMETER
            )

    def _answer_store(self, message: Message) -> None:
        try:
            outcome = self._file(message)
        except Exception as exc:  # the SCP handler: one instance must not cost its siblings theirs
            _log_fault(exc, "an instance could not be filed", "instance.failed")
            outcome = StoreOutcome(
                status=StoreStatus.PROCESSING_FAILURE, reason="a fault of the receiver"
            )
        finally:
            if isinstance(message.received, IncomingFile):
                message.received.discard()
        self._respond(message, int(outcome.status), outcome.reason)

    def _file(self, message: Message) -> StoreOutcome:
        info, received, command = self._info, message.received, message.command
        assert info is not None
        if isinstance(received, SpoolError):
            return self._uses.filer.out_of_resources(received, info)
        if isinstance(received, InstanceError):
            return self._uses.filer.refuse(received, info)
        if received is None:
            return StoreOutcome(
                status=StoreStatus.CANNOT_UNDERSTAND, reason="C-STORE without a data set"
            )
        return self._uses.filer.file(
            received,
            StoreCommand(
                affected_sop_class_uid=command.affected_sop_class_uid,
                affected_sop_instance_uid=command.affected_sop_instance_uid,
                is_fetched=self._uses.is_ours(command.move_originator_ae_title),
            ),
            info,
        )

    def _answer_service(self, message: Message) -> None:
        context = self._contexts[message.context_id]
        is_served = message.command.field in commands.NORMALISED_REQUESTS
        if not is_served or not self._uses.dispatcher.serves(context):
            self._respond(message, commands.UNRECOGNISED_OPERATION)
            return
        assert self._info is not None
        reply = self._uses.dispatcher.answer(message, context, self._info)
        self._send_message(message.context_id, reply.message)
        if reply.follow_up is not None:
            self._follow_up(message.context_id, context, reply, reply.follow_up)

    def _follow_up(
        self, context_id: int, context: AcceptedContext, reply: Reply, follow_up: FollowUp
    ) -> None:
        message_id = self._next_message_id
        self._next_message_id = message_id % 0xFFFF + 1
        self._pending[message_id] = _Pending(follow_up=follow_up, reply=reply)
        self._send_message(context_id, encode_follow_up(follow_up, message_id, context))

    def _take_report_response(self, message: Message) -> None:
        pending = self._pending.pop(message.command.message_id_responded_to, None)
        if pending is None:
            raise ProtocolError(
                "a response to nothing that we asked", AbortReason.INVALID_PARAMETER
            )
        assert self._info is not None
        hand_back(pending.reply, pending.follow_up, message.command.status, self._info)

    def _respond(self, message: Message, status: int, comment: str = "") -> None:
        response = commands.encode_response(message.command, status, comment)
        self._send_message(message.context_id, EncodedMessage(command_set=response))

    def _send_message(self, context_id: int, message: EncodedMessage) -> None:
        limit = self._peer_max_pdu_bytes
        pdus = list(
            encode_p_data(context_id, message.command_set, is_command=True, max_pdu_bytes=limit)
        )
        if message.data_set:
            pdus += encode_p_data(
                context_id, message.data_set, is_command=False, max_pdu_bytes=limit
            )
        self._send(b"".join(pdus))

    def _send(self, data: bytes) -> None:
        send(self._connection, data, max(self._limits.silence_s, TICK_S))

    def _abort(self, reason: AbortReason | None) -> None:
        try:
            send(self._connection, encode_abort(reason), _LINGER_S)
        except PeerLost:
            return  # it has gone already
        linger(self._connection, _LINGER_S)

    def _note(self, outcome: str, error: GatewayError | None) -> None:
        if error is not None:
            log.warning(
                "an association was ended",
                extra={
                    "action": "association.ended",
                    "reason": str(error),
                    "association_id": self._info.association_id if self._info else "",
                },
            )
        if self._info is None:
            return  # closed before it asked for anything
        try:
            self._uses.record.register_association(self._info, outcome=outcome)
        except GatewayError as exc:
            log.warning(
                "an association could not be recorded",
                extra={"action": "association.unrecorded", "outcome": outcome, "error": str(exc)},
            )


def _log_fault(exc: Exception, message: str, action: str) -> None:
    # The message may quote values of the data set, so only the kind and place are logged.
    log.error(
        message,
        extra={
            "action": action,
            "error": type(exc).__name__,
            "frames": "".join(traceback.format_tb(exc.__traceback__)),
        },
    )
