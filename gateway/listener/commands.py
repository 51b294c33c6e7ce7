"""Command sets (PS3.7 6.3.1 and Annex E), as bytes; pure.

A C-STORE comes by the thousand, so its request is read and its response written here, without a
Dataset. Other messages are decoded and encoded by pynetdicom (``gateway.listener.dispatch``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import ProtocolError
from gateway.listener.pdu import AbortReason

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RSP = 0x8100
NORMALISED_REQUESTS = frozenset((0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150))
"""N-EVENT-REPORT, N-GET, N-SET, N-ACTION, N-CREATE and N-DELETE."""
COMPOSITE_QUERIES = frozenset((0x0010, 0x0020, 0x0021))
"""C-GET, C-FIND and C-MOVE."""
RESPONSE = 0x8000
NO_DATA_SET = 0x0101
UNRECOGNISED_OPERATION = 0x0211  # PS3.7 C.5.23
MAX_COMMENT_CHARACTERS = 64  # PS3.7 C.4.2, Error Comment (0000,0902) is LO

_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_MOVE_ORIGINATOR_AE_TITLE = 0x1030

_ELEMENT = struct.Struct("<HHI")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command set, as far as every message has the same fields."""

    field: int
    """Command Field (0000,0100)."""
    has_data_set: bool
    elements: Mapping[int, bytes]
    """Values by element number, group 0000."""
    encoded: bytes
    """As received."""

    @property
    def message_id(self) -> int:
        """Message ID (0000,0110).

        Raises
        ------
        ProtocolError
            It is missing: nothing can be answered.
        """
        return self.number(_MESSAGE_ID)

    @property
    def message_id_responded_to(self) -> int:
        """Message ID Being Responded To (0000,0120), of a response."""
        return self.number(_MESSAGE_ID_RESPONDED_TO)

    @property
    def status(self) -> int:
        """Status (0000,0900), of a response."""
        return self.number(_STATUS)

    @property
    def affected_sop_class_uid(self) -> str:
        """Affected SOP Class UID (0000,0002); empty when missing."""
        return self.text(_AFFECTED_SOP_CLASS_UID)

    @property
    def affected_sop_instance_uid(self) -> str:
        """Affected SOP Instance UID (0000,1000); empty when missing."""
        return self.text(_AFFECTED_SOP_INSTANCE_UID)

    @property
    def move_originator_ae_title(self) -> str:
        """Move Originator AE Title (0000,1030); empty when no C-MOVE is behind it."""
        return self.text(_MOVE_ORIGINATOR_AE_TITLE)

    def text(self, number: int) -> str:
        """Return a UID or an AE title without its padding."""
        return self.elements.get(number, b"").decode("ascii", "replace").strip("\0 ")

    def number(self, number: int) -> int:
        """Return a value of VR US.

        Raises
        ------
        ProtocolError
            It is missing or of another length.
        """
        value = self.elements.get(number, b"")
        if len(value) != 2:
            raise ProtocolError(
                f"a command set without (0000,{number:04X})", AbortReason.INVALID_PARAMETER
            )
        return int.from_bytes(value, "little")


def decode_command(encoded: bytes) -> Command:
    """Return a command set, which is implicit VR little endian (PS3.7 6.3.1).

    Group length and the order of the elements are not relied on: devices get them wrong.

    Raises
    ------
    ProtocolError
        It cannot be read, or lacks Command Field or Command Data Set Type.
    """
    elements: dict[int, bytes] = {}
    position, end = 0, len(encoded)
    while position < end:
        if end - position < _ELEMENT.size:
            raise ProtocolError("a command set cut off", AbortReason.INVALID_PARAMETER)
        group, number, length = _ELEMENT.unpack_from(encoded, position)
        position += _ELEMENT.size
        if group or length > end - position:
            raise ProtocolError("something else than a command set", AbortReason.INVALID_PARAMETER)
        elements[number] = encoded[position : position + length]
        position += length
    found = elements.get(_COMMAND_FIELD, b""), elements.get(_DATA_SET_TYPE, b"")
    if len(found[0]) != 2 or len(found[1]) != 2:
        raise ProtocolError(
            "a command set without command field or data set type", AbortReason.INVALID_PARAMETER
        )
    return Command(
        field=int.from_bytes(found[0], "little"),
        has_data_set=int.from_bytes(found[1], "little") != NO_DATA_SET,
        elements=elements,
        encoded=encoded,
    )


def encode_response(request: Command, status: int, comment: str = "") -> bytes:
    """Return the command set of a response without a data set.

    It repeats Message ID, SOP class and SOP instance of the request as they came.

    Parameters
    ----------
    comment
        Error Comment (0000,0902); cut to 64 ASCII characters.
    """
    body = bytearray()
    elements = request.elements
    if _AFFECTED_SOP_CLASS_UID in elements:
        body += _element(_AFFECTED_SOP_CLASS_UID, elements[_AFFECTED_SOP_CLASS_UID])
    body += _element(_COMMAND_FIELD, (request.field | RESPONSE).to_bytes(2, "little"))
    body += _element(_MESSAGE_ID_RESPONDED_TO, request.message_id.to_bytes(2, "little"))
    body += _element(_DATA_SET_TYPE, NO_DATA_SET.to_bytes(2, "little"))
    body += _element(_STATUS, status.to_bytes(2, "little"))
    if comment:
        text = comment.encode("ascii", "replace").replace(b"\\", b"/")[:MAX_COMMENT_CHARACTERS]
        body += _element(_ERROR_COMMENT, text + b" " * (len(text) % 2))
    if _AFFECTED_SOP_INSTANCE_UID in elements:
        body += _element(_AFFECTED_SOP_INSTANCE_UID, elements[_AFFECTED_SOP_INSTANCE_UID])
    return _element(_GROUP_LENGTH, len(body).to_bytes(4, "little")) + bytes(body)


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value
