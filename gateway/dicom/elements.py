"""Walks the data elements of an encoded data set, element by element, in bounded memory.

It reads headers and skips values, so that a data set of many gigabytes costs what its structure
costs. What the elements mean is left to ``gateway.dicom.part10``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gateway.errors import Truncated, Unreadable

ITEM = 0xFFFEE000  # PS3.5 7.5
ITEM_DELIMITATION = 0xFFFEE00D
SEQUENCE_DELIMITATION = 0xFFFEE0DD
UNDEFINED_LENGTH = 0xFFFFFFFF

# PS3.5 Table 7.1-1: VRs with a 32-bit length after two reserved bytes.
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
# PS3.5 Table 7.1-2: VRs with a 16-bit length.
_SHORT_VRS = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT")
) | frozenset((b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"))
_FRAGMENT_VRS = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV"))
_MAX_DEPTH = 256
_WINDOW_BYTES = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How element headers are encoded (PS3.5 7.1)."""

    is_implicit: bool
    byte_order: Literal["little", "big"]
    is_guess: bool = False
    """Inside UN: said to be implicit, left explicit by some writers."""


IMPLICIT_LITTLE = Encoding(is_implicit=True, byte_order="little")
EXPLICIT_LITTLE = Encoding(is_implicit=False, byte_order="little")
EXPLICIT_BIG = Encoding(is_implicit=False, byte_order="big")
# PS3.5 6.2.2: UN of undefined length holds a sequence in implicit VR little endian.
_INSIDE_UNKNOWN = Encoding(is_implicit=True, byte_order="little", is_guess=True)


@dataclass(frozen=True, slots=True)
class Element:
    """One data element: where its value lies and where the next element starts.

    ``length`` is None for an undefined length; ``fragments`` counts the items of encapsulated
    pixel data, its offset table not included, and is None for anything else.
    """

    tag: int
    vr: bytes
    offset: int
    length: int | None
    end: int
    fragments: int | None = None


class ByteSource:
    """Random access to an open file through a small window."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._start = 0
        self._window = b""

    def peek(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes at ``offset``; fewer at the end of the file."""
        relative = offset - self._start
        if relative < 0 or relative + count > len(self._window):
            self._start = offset
            self._window = os.pread(self._descriptor, max(count, _WINDOW_BYTES), offset)
            relative = 0
        return self._window[relative : relative + count]

    def read_exactly(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes at ``offset`` past the window, for sparse reads.

        Raises
        ------
        Truncated
            The file ends earlier.
        """
        data = os.pread(self._descriptor, count, offset)
        if len(data) < count:
            raise Truncated(f"ends at byte {self.size}, inside an item")
        return data


def walk(source: ByteSource, start: int, encoding: Encoding) -> Iterator[Element]:
    """Yield the top-level elements from ``start`` to the end of the file.

    Raises
    ------
    Truncated
        An element says it is longer than the file, or a sequence is not closed.
    Unreadable
        There is something else where an element or an item should start.
    """
    position = start
    while position < source.size:
        if _is_padding(source, position):
            return
        element = read_element(source, position, encoding)
        yield element
        position = element.end


def _is_padding(source: ByteSource, position: int) -> bool:
    """Return whether only zero bytes follow, which some writers leave after the data set."""
    head = source.peek(position, 8)
    if head.strip(b"\0"):
        return False
    while position < source.size:
        chunk = source.peek(position, _WINDOW_BYTES)
        if chunk.strip(b"\0"):
            return False
        position += len(chunk)
    return True


def read_element(source: ByteSource, position: int, encoding: Encoding) -> Element:
    """Read one element header at ``position`` and find where the element ends."""
    header = _read_header(source, position, encoding)
    if header.length is not None:
        if header.offset + header.length > source.size:
            raise Truncated(
                f"element {_name(header.tag)} needs {header.length} bytes, "
                f"{max(0, source.size - header.offset)} are there"
            )
        return header
    if header.vr in _FRAGMENT_VRS:
        return _end_of_fragments(source, header, encoding)
    return Element(
        header.tag, header.vr, header.offset, None, _end_of_sequence(source, header, encoding)
    )


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _read_header(source: ByteSource, position: int, encoding: Encoding) -> Element:
    raw = source.peek(position, 12)
    if len(raw) < 8:
        raise Truncated(f"ends at byte {source.size}, inside an element header")
    order = encoding.byte_order
    tag = int.from_bytes(raw[0:2], order) << 16 | int.from_bytes(raw[2:4], order)
    if tag >> 16 == 0x0000:
        raise Unreadable(f"element {_name(tag)} at byte {position} cannot be in a data set")
    vr = raw[4:6]
    implicit = _element(tag, b"", position + 8, int.from_bytes(raw[4:8], order))
    if encoding.is_implicit or tag >> 16 == 0xFFFE:
        return implicit
    short = _element(tag, vr, position + 8, int.from_bytes(raw[6:8], order))
    if vr in _SHORT_VRS:
        return short
    if not _looks_like_vr(vr):
        # Known faults of devices: a header without VR in an explicit data set, or blanks for it.
        is_short = not _leads_on(source, implicit, order) and _leads_on(source, short, order)
        return short if is_short else implicit
    if vr not in _LONG_VRS and raw[6:8] != b"\0\0":
        return short
    if len(raw) < 12:
        raise Truncated(f"ends at byte {source.size}, inside an element header")
    return _element(tag, vr, position + 12, int.from_bytes(raw[8:12], order))


def _leads_on(source: ByteSource, element: Element, order: Literal["little", "big"]) -> bool:
    """Return whether the data set ends after ``element`` or goes on with a higher tag."""
    if element.end > source.size:
        return False
    raw = source.peek(element.end, 4)
    following = int.from_bytes(raw[0:2], order) << 16 | int.from_bytes(raw[2:4], order)
    return not raw or (len(raw) == 4 and element.tag < following)


def _element(tag: int, vr: bytes, offset: int, length: int) -> Element:
    if length == UNDEFINED_LENGTH:
        return Element(tag, vr, offset, None, offset)
    return Element(tag, vr, offset, length, offset + length)


def _looks_like_vr(vr: bytes) -> bool:
    return len(vr) == 2 and all(0x41 <= byte <= 0x5A for byte in vr)


def _end_of_fragments(source: ByteSource, header: Element, encoding: Encoding) -> Element:
    """Walk encapsulated pixel data to its delimiter (PS3.5 A.4), fragment by fragment."""
    order = encoding.byte_order
    position, items = header.offset, 0
    while True:
        raw = source.read_exactly(position, 8)
        tag = int.from_bytes(raw[0:2], order) << 16 | int.from_bytes(raw[2:4], order)
        length = int.from_bytes(raw[4:8], order)
        position += 8
        if tag == SEQUENCE_DELIMITATION:
            return Element(header.tag, header.vr, header.offset, None, position, max(0, items - 1))
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise Unreadable(f"no fragment of {_name(header.tag)} at byte {position - 8}")
        if position + length > source.size:
            raise Truncated(f"fragment {items} of {_name(header.tag)} is cut off")
        position += length
        items += 1


@dataclass(slots=True)
class _Level:
    """One open sequence (``holds_items``) or one open item on the way down."""

    holds_items: bool
    encoding: Encoding


def _end_of_sequence(source: ByteSource, header: Element, encoding: Encoding) -> int:
    """Return where a sequence of undefined length ends; nested levels are kept on a stack."""
    position = header.offset
    levels = [_Level(True, _inner_encoding(header.vr, encoding))]
    while levels:
        if len(levels) > _MAX_DEPTH:
            raise Unreadable(f"sequences nested deeper than {_MAX_DEPTH}")
        level = levels[-1]
        if level.holds_items:
            position = _step_items(source, position, levels)
        else:
            position = _step_elements(source, position, levels, level.encoding)
    return position


def _inner_encoding(vr: bytes, encoding: Encoding) -> Encoding:
    return _INSIDE_UNKNOWN if vr == b"UN" and not encoding.is_implicit else encoding


def _step_items(source: ByteSource, position: int, levels: list[_Level]) -> int:
    encoding = levels[-1].encoding
    item = _read_header(source, position, encoding)
    if item.tag == SEQUENCE_DELIMITATION:
        levels.pop()
        return position + 8
    if item.tag != ITEM:
        raise Unreadable(f"no item at byte {position} of a sequence")
    if item.length is None:
        levels.append(_Level(False, _item_encoding(source, item.offset, encoding)))
        return item.offset
    return _checked_end(source, item)


def _step_elements(
    source: ByteSource, position: int, levels: list[_Level], encoding: Encoding
) -> int:
    element = _read_header(source, position, encoding)
    if element.tag == ITEM_DELIMITATION:
        levels.pop()
        return position + 8
    if element.length is not None:
        return _checked_end(source, element)
    if element.vr in _FRAGMENT_VRS:
        return _end_of_fragments(source, element, encoding).end
    levels.append(_Level(True, _inner_encoding(element.vr, encoding)))
    return element.offset


def _item_encoding(source: ByteSource, position: int, encoding: Encoding) -> Encoding:
    vr = source.peek(position, 6)[4:6]
    if encoding.is_guess and (vr in _SHORT_VRS or vr in _LONG_VRS):
        return EXPLICIT_LITTLE
    return encoding


def _checked_end(source: ByteSource, element: Element) -> int:
    if element.end > source.size:
        raise Truncated(f"element {_name(element.tag)} of a sequence is cut off")
    return element.end
