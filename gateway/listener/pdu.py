"""Protocol data units of the DICOM upper layer (PS3.8 9.3), as bytes; pure.

Headers, P-DATA-TF and the short PDUs are read and written here. What A-ASSOCIATE holds is
``gateway.listener.negotiation``'s, what a PDV holds ``gateway.listener.commands``'s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from gateway.errors import ProtocolError

HEADER_BYTES = 6
PDV_HEADER_BYTES = 6
"""Length, presentation context id and message control header of a PDV (PS3.8 9.3.5.1)."""

_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_P_DATA_HEADER = struct.Struct(">BxIIBB")
_COMMAND_FRAGMENT = 0x01  # PS3.8 E.2, message control header
_LAST_FRAGMENT = 0x02
_SHORT_PDU_BYTES = 4


class PduType(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortReason(IntEnum):
    """Why the upper-layer service provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNISED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


_SHORT_PDUS = frozenset(
    (PduType.ASSOCIATE_RJ, PduType.RELEASE_RQ, PduType.RELEASE_RP, PduType.ABORT)
)
_TYPES = frozenset(int(kind) for kind in PduType)


class PduHeader(NamedTuple):
    """Type and length of a PDU."""

    kind: int
    length: int
    """Bytes that follow the header."""


class Pdv(NamedTuple):
    """One presentation data value: a fragment of a command set or of a data set."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


def decode_header(data: bytes | bytearray | memoryview) -> PduHeader:
    """Return the header at the start of ``data``, which holds 6 bytes or more.

    Raises
    ------
    ProtocolError
        No such PDU type, or a length that its type cannot have.
    """
    kind, length = _HEADER.unpack_from(data)
    if kind not in _TYPES:
        raise ProtocolError(f"no PDU has the type {kind:02X}H", AbortReason.UNRECOGNISED_PDU)
    if kind in _SHORT_PDUS and length != _SHORT_PDU_BYTES:
        raise ProtocolError(
            f"a PDU of the type {kind:02X}H with {length} bytes", AbortReason.INVALID_PARAMETER
        )
    return PduHeader(kind, length)


def decode_pdvs(body: memoryview) -> list[Pdv]:
    """Return the presentation data values of a P-DATA-TF PDU (PS3.8 9.3.5), header left out.

    Raises
    ------
    ProtocolError
        The lengths do not add up, or there is no value at all.
    """
    found: list[Pdv] = []
    position, end = 0, len(body)
    while position < end:
        if end - position < PDV_HEADER_BYTES:
            raise ProtocolError("a PDV without a whole header", AbortReason.INVALID_PARAMETER)
        length, context_id, control = _PDV_HEADER.unpack_from(body, position)
        following = position + 4 + length
        if length < 2 or following > end:
            raise ProtocolError("a PDV of impossible length", AbortReason.INVALID_PARAMETER)
        found.append(
            Pdv(
                context_id,
                control & _COMMAND_FRAGMENT != 0,
                control & _LAST_FRAGMENT != 0,
                body[position + PDV_HEADER_BYTES : following],
            )
        )
        position = following
    if not found:
        raise ProtocolError("a P-DATA-TF PDU without a value", AbortReason.INVALID_PARAMETER)
    return found


def encode_p_data(
    context_id: int, data: bytes, *, is_command: bool, max_pdu_bytes: int
) -> Iterator[bytes]:
    """Yield P-DATA-TF PDUs that carry ``data`` as one PDV each.

    Parameters
    ----------
    max_pdu_bytes
        Largest PDU that the peer takes, header left out (PS3.8 D.1); 0 for no limit. One that has
        no room for a PDV header is taken as 7: a byte a PDU.
    """
    room = max(1, max_pdu_bytes - PDV_HEADER_BYTES) if max_pdu_bytes else max(1, len(data))
    kind = _COMMAND_FRAGMENT if is_command else 0
    for start in range(0, max(1, len(data)), room):
        piece = data[start : start + room]
        control = kind | (_LAST_FRAGMENT if start + room >= len(data) else 0)
        yield (
            _P_DATA_HEADER.pack(
                PduType.P_DATA_TF,
                len(piece) + PDV_HEADER_BYTES,
                len(piece) + 2,
                context_id,
                control,
            )
            + piece
        )


def encode_release_reply() -> bytes:
    """Return an A-RELEASE-RP PDU (PS3.8 9.3.7)."""
    return _HEADER.pack(PduType.RELEASE_RP, _SHORT_PDU_BYTES) + bytes(4)


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ PDU (PS3.8 Table 9-21)."""
    return _HEADER.pack(PduType.ASSOCIATE_RJ, _SHORT_PDU_BYTES) + bytes((0, result, source, reason))


def encode_abort(reason: AbortReason | None) -> bytes:
    """Return an A-ABORT PDU (PS3.8 Table 9-26).

    Parameters
    ----------
    reason
        Of the service provider, for what the peer did wrong; None aborts as service user.
    """
    source = 0 if reason is None else 2
    return _HEADER.pack(PduType.ABORT, _SHORT_PDU_BYTES) + bytes((0, 0, source, reason or 0))
