"""Hands DIMSE messages other than C-STORE to the services that plug into the listener.

Decoding and encoding of their command sets is pynetdicom's (PS3.7 10.3), of their data sets
pydicom's.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import (
    N_ACTION_RSP,
    N_CREATE_RSP,
    N_DELETE_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    N_GET_RSP,
    N_SET_RSP,
    DIMSEMessage,
)
from pynetdicom.dimse_primitives import (
    N_ACTION,
    N_CREATE,
    N_DELETE,
    N_EVENT_REPORT,
    N_GET,
    N_SET,
)
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu_primitives import P_DATA

from gateway.errors import ProtocolError
from gateway.listener.acceptance import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from gateway.listener.commands import MAX_COMMENT_CHARACTERS
from gateway.listener.negotiation import AcceptedContext
from gateway.listener.pdu import AbortReason
from gateway.listener.ports import AssociationInfo
from gateway.listener.reception import Message
from gateway.listener.services import DimseService, FollowUp, ServiceAnswer, ServiceRequest

log = logging.getLogger(__name__)

PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.17

_RESPONSES: dict[type, type[DIMSEMessage]] = {
    N_ACTION: N_ACTION_RSP,
    N_CREATE: N_CREATE_RSP,
    N_DELETE: N_DELETE_RSP,
    N_EVENT_REPORT: N_EVENT_REPORT_RSP,
    N_GET: N_GET_RSP,
    N_SET: N_SET_RSP,
}
_REPLIES: dict[type, str] = {
    N_ACTION: "ActionReply",
    N_CREATE: "AttributeList",
    N_EVENT_REPORT: "EventReply",
    N_GET: "AttributeList",
    N_SET: "AttributeList",
}


@dataclass(frozen=True, kw_only=True)
class EncodedMessage:
    """A message ready for fragmentation; ``data_set`` is empty for none."""

    command_set: bytes
    data_set: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The response to a request, and what to report after it."""

    message: EncodedMessage
    service: DimseService
    follow_up: FollowUp | None = None


class Dispatcher:
    """Finds the service of a presentation context and asks it."""

    def __init__(self, services: Sequence[DimseService]) -> None:
        self._services = {
            context.abstract_syntax: service for service in services for context in service.contexts
        }

    def serves(self, context: AcceptedContext) -> bool:
        """Return whether a service answers on this presentation context."""
        return context.abstract_syntax in self._services

    def answer(
        self, message: Message, context: AcceptedContext, association: AssociationInfo
    ) -> Reply:
        """Return the response to one normalised request.

        Raises
        ------
        ProtocolError
            The command set cannot be read.
        """
        service = self._services[context.abstract_syntax]
        request = _decode_request(message)
        try:
            data_set = _decode_data_set(message.data_set, context) if message.data_set else None
            answer = service.answer(request, data_set, association)
            encoded = _encode_answer(request, answer, context)
        except Exception as exc:  # the SCP's edge: a service's fault is answered, not passed on
            _log_fault(exc)
            failure = ServiceAnswer(status=PROCESSING_FAILURE, comment="a fault of the receiver")
            return Reply(message=_encode_answer(request, failure, context), service=service)
        return Reply(message=encoded, service=service, follow_up=answer.follow_up)


def encode_follow_up(
    follow_up: FollowUp, message_id: int, context: AcceptedContext
) -> EncodedMessage:
    """Return an N-EVENT-REPORT-RQ (PS3.7 10.1.1)."""
    request = N_EVENT_REPORT()
    request.MessageID = message_id
    request.AffectedSOPClassUID = follow_up.affected_sop_class_uid
    request.AffectedSOPInstanceUID = follow_up.affected_sop_instance_uid
    request.EventTypeID = follow_up.event_type_id
    request.EventInformation = BytesIO(_encode_data_set(follow_up.event_information, context))
    return _encode(N_EVENT_REPORT_RQ(), request)


def hand_back(
    reply: Reply, follow_up: FollowUp, status: int | None, association: AssociationInfo
) -> None:
    """Tell a service what became of its follow-up."""
    try:
        reply.service.followed_up(follow_up, status, association)
    except Exception as exc:  # the SCP's edge, as above: the association goes on
        _log_fault(exc)


def _decode_request(message: Message) -> ServiceRequest:
    values: list[Any] = [[message.context_id, b"\x03" + message.command.encoded]]
    if message.command.has_data_set:
        values.append([message.context_id, b"\x02" + message.data_set])
    primitive = P_DATA()
    decoded = DIMSEMessage()
    try:
        primitive.presentation_data_value_list = values
        decoded.decode_msg(primitive)
        request = decoded.message_to_primitive()
    except Exception as exc:  # whatever pynetdicom and pydicom raise on a malformed command set
        raise ProtocolError(
            f"a command set that cannot be read ({type(exc).__name__})",
            AbortReason.INVALID_PARAMETER,
        ) from exc
    if not isinstance(request, ServiceRequest) or request.MessageID is None:
        raise ProtocolError("a request without its fields", AbortReason.INVALID_PARAMETER)
    return request


def _is_implicit(context: AcceptedContext) -> bool:
    return context.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN


def _decode_data_set(data: bytes, context: AcceptedContext) -> Dataset:
    is_little = context.transfer_syntax != EXPLICIT_VR_BIG_ENDIAN
    data_set = decode(BytesIO(data), _is_implicit(context), is_little)
    for _ in data_set.iterall():
        pass  # pydicom reads values when they are asked for: have its errors now
    return data_set


def _encode_data_set(data_set: Dataset, context: AcceptedContext) -> bytes:
    is_little = context.transfer_syntax != EXPLICIT_VR_BIG_ENDIAN
    encoded = encode(data_set, _is_implicit(context), is_little)
    if encoded is None:
        raise ValueError("a data set of a service that cannot be encoded")
    return encoded


def _encode_answer(
    request: ServiceRequest, answer: ServiceAnswer, context: AcceptedContext
) -> EncodedMessage:
    response: Any = type(request)()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPClassUID = _named(request, "SOPClassUID")
    response.AffectedSOPInstanceUID = _named(request, "SOPInstanceUID")
    for keyword in ("ActionTypeID", "EventTypeID"):
        if getattr(request, keyword, None) is not None:
            setattr(response, keyword, getattr(request, keyword))
    response.Status = answer.status
    if answer.comment:
        comment = answer.comment.encode("ascii", "replace").decode("ascii")
        response.ErrorComment = comment.replace("\\", "/")[:MAX_COMMENT_CHARACTERS]
    if answer.data_set is not None and type(request) in _REPLIES:
        encoded = BytesIO(_encode_data_set(answer.data_set, context))
        setattr(response, _REPLIES[type(request)], encoded)
    return _encode(_RESPONSES[type(request)](), response)


def _named(request: ServiceRequest, what: str) -> Any:
    """Return the affected or requested SOP class or instance, which the response repeats."""
    affected = getattr(request, f"Affected{what}", None)
    return affected if affected is not None else getattr(request, f"Requested{what}", None)


def _encode(message: DIMSEMessage, primitive: Any) -> EncodedMessage:
    message.primitive_to_message(primitive)
    parts = {True: b"", False: b""}
    for p_data in message.encode_msg(1, 0):  # 0: no limit, so one fragment for each part
        for _, value in p_data.presentation_data_value_list:
            parts[bool(value[0] & 1)] += value[1:]
    return EncodedMessage(command_set=parts[True], data_set=parts[False])


def _log_fault(exc: Exception) -> None:
    # The message may quote values of a data set, so only the kind and place are logged.
    log.error(
        "a service of the listener failed",
        extra={
            "action": "service.failed",
            "error": type(exc).__name__,
            "frames": "".join(traceback.format_tb(exc.__traceback__)),
        },
    )
