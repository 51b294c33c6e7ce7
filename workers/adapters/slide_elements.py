"""Elements of a little-endian data set in mapped memory, and the places of a slide's frames.

A sparse slide of 40 gigapixels has an item for each of its 150,000 frames, some 25 elements each;
pydicom needs minutes and gigabytes for them. Here only the few values that say where a frame lies
are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.errors import Undecodable

Buffer = memoryview

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5
UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 32

# PS3.5 Table 7.1-1: VRs with a 32-bit length after two reserved bytes.
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
# PS3.3 C.8.12.6.1 (plane position), C.8.12.6.2 (optical path)
_PLANE_POSITION = 0x0048021A
_COLUMN, _ROW, _Z_OFFSET = 0x0048021E, 0x0048021F, 0x0040074A
_PATH_SEQUENCE, _PATH_IDENTIFIER = 0x00480207, 0x00480106

_TAG = struct.Struct("<HH")
_SHORT = struct.Struct("<H")
_LONG = struct.Struct("<I")
_SIGNED = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Value:
    """Where the value of an element lies; ``length`` is ``UNDEFINED`` where it is delimited."""

    tag: int
    start: int
    length: int


def read_head(data: Buffer, position: int, is_implicit: bool) -> Value:
    """Read the tag and length of the element at a position.

    Raises
    ------
    struct.error
        The data ends there.
    """
    group, element = _TAG.unpack_from(data, position)
    tag = group << 16 | element
    if is_implicit or group == 0xFFFE:
        return Value(tag, position + 8, _LONG.unpack_from(data, position + 4)[0])
    if bytes(data[position + 4 : position + 6]) in _LONG_VRS:
        return Value(tag, position + 12, _LONG.unpack_from(data, position + 8)[0])
    return Value(tag, position + 8, _SHORT.unpack_from(data, position + 6)[0])


def end_of(data: Buffer, value: Value, is_implicit: bool, depth: int = 0) -> int:
    """Return where the element after a value begins.

    Raises
    ------
    Undecodable
        Sequences are nested too deep, or broken.
    struct.error
        The data ends inside.
    """
    if value.length != UNDEFINED:
        return value.start + value.length
    if depth > _MAX_DEPTH:
        raise Undecodable("its sequences are nested too deep")
    position = value.start
    while True:
        item = read_head(data, position, is_implicit)
        if item.tag == SEQUENCE_END:
            return item.start
        if item.tag != ITEM:
            raise Undecodable("one of its sequences is broken")
        position = item.start + item.length
        if item.length == UNDEFINED:
            _, position = read_item(data, item, is_implicit, (), depth + 1)


def read_item(
    data: Buffer, item: Value, is_implicit: bool, wanted: Collection[int], depth: int = 0
) -> tuple[dict[int, Value], int]:
    """Return the wanted elements of an item, and where what follows it begins."""
    found: dict[int, Value] = {}
    position = item.start
    end = None if item.length == UNDEFINED else item.start + item.length
    while position != end:
        value = read_head(data, position, is_implicit)
        if value.tag == ITEM_END:
            return found, value.start
        if value.tag in wanted:
            found[value.tag] = value
        position = end_of(data, value, is_implicit, depth)
        if end is not None and position > end:
            raise Undecodable("an item of one of its sequences is broken")
    return found, position


@dataclass(frozen=True, kw_only=True)
class FramePlaces:
    """Where the frames of one instance lie in the total pixel matrix."""

    columns: NDArray[np.int64]
    """(F,) column of the upper left pixel, 0-based."""
    rows: NDArray[np.int64]
    """(F,) row of the upper left pixel, 0-based."""
    z_um: NDArray[np.float64]
    """(F,) height of the focal plane; 0 where it is not stated."""
    paths: tuple[str, ...]
    """F optical path identifiers; empty text where it is not stated."""


def read_places(
    data: Buffer, sequence: Value, is_implicit: bool, frames: int
) -> tuple[FramePlaces | None, int]:
    """Read Per-Frame Functional Groups Sequence.

    Returns
    -------
    places
        None when the first item states no position, as in TILED_FULL.
    end
        Where the element after the sequence begins.

    Raises
    ------
    Undecodable
        There are not as many items as frames, or one states no position.
    struct.error
        The data ends inside.
    """
    stated: list[tuple[int, int, float, str]] = []
    position, limit = sequence.start, sequence.start + sequence.length
    while sequence.length == UNDEFINED or position < limit:
        item = read_head(data, position, is_implicit)
        if item.tag == SEQUENCE_END:
            position = item.start
            break
        if item.tag != ITEM:
            raise Undecodable("its list of frames is broken")
        groups, position = read_item(data, item, is_implicit, (_PLANE_POSITION, _PATH_SEQUENCE))
        place = _place(data, groups, is_implicit)
        if place is None:
            if stated:
                raise Undecodable("it does not say where all of its frames lie")
            return None, end_of(data, sequence, is_implicit)
        stated.append(place)
        if len(stated) > frames:
            break
    if len(stated) != frames:
        raise Undecodable("its list of frames has not as many items as it has frames")
    columns, rows, z_um, paths = zip(*stated, strict=True)
    return (
        FramePlaces(
            columns=np.array(columns, np.int64) - 1,
            rows=np.array(rows, np.int64) - 1,
            z_um=np.array(z_um, np.float64),
            paths=paths,
        ),
        position,
    )


def _place(
    data: Buffer, groups: dict[int, Value], is_implicit: bool
) -> tuple[int, int, float, str] | None:
    if _PLANE_POSITION not in groups:
        return None
    plane = _first_item(data, groups[_PLANE_POSITION], is_implicit, (_COLUMN, _ROW, _Z_OFFSET))
    if _COLUMN not in plane or _ROW not in plane:
        return None
    path = ""
    if _PATH_SEQUENCE in groups:
        within = _first_item(data, groups[_PATH_SEQUENCE], is_implicit, (_PATH_IDENTIFIER,))
        path = _text(data, within.get(_PATH_IDENTIFIER))
    return (
        _SIGNED.unpack_from(data, plane[_COLUMN].start)[0],
        _SIGNED.unpack_from(data, plane[_ROW].start)[0],
        _number(_text(data, plane.get(_Z_OFFSET))),
        path,
    )


def _first_item(
    data: Buffer, sequence: Value, is_implicit: bool, wanted: Collection[int]
) -> dict[int, Value]:
    if sequence.length == 0:
        return {}
    item = read_head(data, sequence.start, is_implicit)
    return read_item(data, item, is_implicit, wanted)[0] if item.tag == ITEM else {}


def _text(data: Buffer, value: Value | None) -> str:
    if value is None or value.length > 64:
        return ""
    raw = bytes(data[value.start : value.start + value.length])
    return raw.decode("latin-1").strip(" \0")


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if np.isfinite(found) else 0.0
