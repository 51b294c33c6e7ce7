"""File Meta Information (PS3.10 7.1): reading it, writing it, and guessing it where it is missing.

What the data set behind it holds is for ``gateway.dicom.part10`` to inspect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gateway.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ByteSource,
    Encoding,
    read_element,
    walk,
)
from gateway.dicom.text import decode_text
from gateway.errors import Unreadable
from gateway.listener.acceptance import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

PREAMBLE_BYTES = 128
IMPLEMENTATION_CLASS_UID = "2.25.236650633377139600266647351214658933298"  # made once

_META_START = PREAMBLE_BYTES + 4
_MAX_VALUE_BYTES = 4096
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_PIXEL_DATA = 0x7FE00010

# PS3.5 9.1. Leading zeros in a component are illegal yet met in the field, and harmless here.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID_CHARACTERS = 64


@dataclass(frozen=True, kw_only=True)
class FileMeta:
    """File Meta Information (PS3.10 7.1): what a file says of itself before its data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    """Byte at which the data set starts."""


def is_uid(text: str) -> bool:
    """Return whether ``text`` can serve as a UID (PS3.5 9.1, leading zeros tolerated)."""
    return 0 < len(text) <= _MAX_UID_CHARACTERS and _UID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class DataSetIdentity:
    """What a sender must know of a file; UIDs are '' when absent or invalid."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


def identify(path: Path) -> DataSetIdentity:
    """Return what a file holds, reading no further than its SOP Instance UID.

    The UIDs are those of the data set, or of the File Meta Information where the data set has
    none or is deflated. A bare data set, without preamble and meta information, is taken if its
    first element says that it is one; its transfer syntax is then read off its encoding.

    Raises
    ------
    Unreadable, Truncated
        It does not look like a DICOM file.
    """
    with path.open("rb") as file:
        source = ByteSource(file.fileno())
        if source.peek(PREAMBLE_BYTES, 4) == b"DICM":
            meta = read_meta(source)
        else:
            meta = _guess_meta(source)
        found = dict.fromkeys((_SOP_CLASS_UID, _SOP_INSTANCE_UID), "")
        if meta.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            encoding = encoding_of(meta.transfer_syntax_uid)
            for element in walk(source, meta.data_set_offset, encoding):
                if element.tag in found:
                    raw = source.peek(element.offset, min(element.length or 0, _MAX_VALUE_BYTES))
                    found[element.tag] = decode_text(raw, ("ascii",))
                if element.tag >= _SOP_INSTANCE_UID:
                    break
    sop_class_uid = found[_SOP_CLASS_UID] or meta.sop_class_uid
    sop_instance_uid = found[_SOP_INSTANCE_UID] or meta.sop_instance_uid
    return DataSetIdentity(
        sop_class_uid=sop_class_uid if is_uid(sop_class_uid) else "",
        sop_instance_uid=sop_instance_uid if is_uid(sop_instance_uid) else "",
        transfer_syntax_uid=meta.transfer_syntax_uid,
        data_set_offset=meta.data_set_offset,
    )


def _guess_meta(source: ByteSource) -> FileMeta:
    """Return the meta information that a file without DICM prefix would have.

    Taken for DICOM is what starts with an element of group 0002 or of the first ones of group
    0008 (PS3.6), in one of the three native encodings.
    """
    head = source.peek(0, 8)
    if head[:2] == b"\x02\x00" and head[4:6] in (b"UL", b"OB", b"UI"):
        return read_meta(source, start=0)
    if head[:2] == b"\x08\x00" and head[3:4] == b"\0" and len(head) == 8:
        is_explicit = head[4:6].isalpha() and head[4:6].isupper()
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else IMPLICIT_VR_LITTLE_ENDIAN
    elif head[:3] == b"\x00\x08\x00" and head[4:6].isalpha() and head[4:6].isupper():
        syntax = EXPLICIT_VR_BIG_ENDIAN
    else:
        raise Unreadable("not a DICOM file")
    for element in walk(source, 0, encoding_of(syntax)):
        if element.tag == _PIXEL_DATA and element.length is None:
            raise Unreadable("compressed, and no File Meta Information says how")
    return FileMeta(
        sop_class_uid="", sop_instance_uid="", transfer_syntax_uid=syntax, data_set_offset=0
    )


def encode_file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """Return preamble, prefix and File Meta Information (PS3.10 7.1) to put before a data set.

    It depends on the arguments alone, not on the release or the sender, so that the same data set
    received twice is the same file.
    """
    body = _meta_element(0x0001, b"OB", b"\0\1")
    for number, uid in (
        (0x0002, sop_class_uid),
        (0x0003, sop_instance_uid),
        (0x0010, transfer_syntax_uid),
        (0x0012, IMPLEMENTATION_CLASS_UID),
    ):
        body += _meta_element(number, b"UI", uid.encode("ascii", "replace"))
    length = _meta_element(0x0000, b"UL", len(body).to_bytes(4, "little"))
    return bytes(PREAMBLE_BYTES) + b"DICM" + length + body


def _meta_element(number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    head = b"\x02\x00" + number.to_bytes(2, "little") + vr
    if vr == b"OB":
        return head + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def read_meta(source: ByteSource, start: int = _META_START) -> FileMeta:
    """Return the File Meta Information of a DICOM file.

    Raises
    ------
    Unreadable
        No DICM prefix, no Transfer Syntax UID, or no element can be read.
    Truncated
        The file ends inside its meta information.
    """
    if start and source.peek(PREAMBLE_BYTES, 4) != b"DICM":
        raise Unreadable("no DICM prefix: not a DICOM file")
    values: dict[int, str] = {}
    position = start
    while source.peek(position, 2) == b"\x02\x00":
        element = read_element(source, position, EXPLICIT_LITTLE)
        raw = source.peek(element.offset, min(element.length or 0, _MAX_VALUE_BYTES))
        values[element.tag] = decode_text(raw, ("ascii",))
        position = element.end
    if not is_uid(values.get(0x00020010, "")):
        raise Unreadable("no Transfer Syntax UID in the File Meta Information")
    return FileMeta(
        sop_class_uid=values.get(0x00020002, ""),
        sop_instance_uid=values.get(0x00020003, ""),
        transfer_syntax_uid=values[0x00020010],
        data_set_offset=position,
    )


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return how the data set's element headers are encoded (PS3.5 Annex A).

    Raises
    ------
    Unreadable
        The data set is deflated.
    """
    if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return EXPLICIT_BIG
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        raise Unreadable("deflated data sets are not read")
    return EXPLICIT_LITTLE  # PS3.5 A.4: every encapsulated syntax is explicit VR little endian
