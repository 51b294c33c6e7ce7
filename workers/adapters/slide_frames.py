"""Where the encoded frames of one instance lie in its file: offset tables, fragments, raw frames.

Tables are believed only where they agree with the file; else the fragments are counted once
(PS3.5 A.4; PS3.3 C.7.6.3.1.8 for the extended table).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from workers.adapters.slide_elements import (
    ITEM,
    SEQUENCE_END,
    UNDEFINED,
    Buffer,
    Value,
    read_head,
)
from workers.errors import Undecodable

_STARTS = (b"\xff\xd8", b"\xff\x4f")  # SOI of JPEG and JPEG-LS, SOC of JPEG 2000


class RawFrames:
    """Frames without compression, one after the other."""

    def __init__(self, data: Buffer, pixel_data: Value, count: int, frame_bytes: int) -> None:
        available = len(data) - pixel_data.start
        if pixel_data.length != UNDEFINED:
            available = min(available, pixel_data.length)
        if pixel_data.length == UNDEFINED or count * frame_bytes > available:
            raise Undecodable("its pixel data is shorter than its frames")
        self._data = data
        self._start = pixel_data.start
        self._frame_bytes = frame_bytes

    def read(self, number: int) -> Buffer:
        """Return the bytes of a frame."""
        start = self._start + number * self._frame_bytes
        return self._data[start : start + self._frame_bytes]


class EncapsulatedFrames:
    """Compressed frames in fragments.

    Parameters
    ----------
    data
        The file.
    pixel_data
        The element.
    count
        Number of frames.
    extended
        Values of Extended Offset Table; None without one.

    Raises
    ------
    Undecodable
        It is no encapsulated pixel data, or its fragments do not make as many frames.
    """

    def __init__(
        self, data: Buffer, pixel_data: Value, count: int, extended: Value | None = None
    ) -> None:
        if pixel_data.length != UNDEFINED:
            raise Undecodable("its compressed pixel data is not encapsulated")
        self._data = data
        try:
            table = read_head(data, pixel_data.start, is_implicit=True)
            if table.tag != ITEM or table.length == UNDEFINED:
                raise Undecodable("its compressed pixel data has no offset table item")
            first = table.start + table.length
            offsets = self._extended(extended, count)
            if offsets is None:
                offsets = self._basic(table, count)
            if offsets is not None and self._are_items(offsets + first):
                self._starts: NDArray[np.int64] = offsets + first
            else:
                self._starts = self._scan(first, count)
        except struct.error as exc:
            raise Undecodable("its compressed pixel data ends early") from exc

    def read(self, number: int) -> Buffer | bytes:
        """Return the bytes of a frame; fragments are joined.

        Raises
        ------
        Undecodable
            Its fragments are broken.
        """
        position = int(self._starts[number])
        is_last = number + 1 == len(self._starts)
        limit = len(self._data) if is_last else int(self._starts[number + 1])
        pieces: list[Buffer] = []
        try:
            while position < limit:
                item = read_head(self._data, position, is_implicit=True)
                if item.tag != ITEM:
                    break
                position = item.start + item.length
                if position > limit:
                    raise Undecodable("a frame is cut off")
                pieces.append(self._data[item.start : position])
        except struct.error as exc:
            raise Undecodable("a frame is cut off") from exc
        if not pieces:
            raise Undecodable("a frame is empty")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _extended(self, extended: Value | None, count: int) -> NDArray[np.int64] | None:
        if extended is None or extended.length != 8 * count:
            return None
        return _checked(np.frombuffer(self._data, "<u8", count, extended.start))

    def _basic(self, table: Value, count: int) -> NDArray[np.int64] | None:
        if table.length != 4 * count:
            return None
        return _checked(np.frombuffer(self._data, "<u4", count, table.start))

    def _are_items(self, starts: NDArray[np.int64]) -> bool:
        """Whether the first and the last frame of a table begin with an item's tag."""
        return all(
            position + 8 <= len(self._data)
            and read_head(self._data, position, is_implicit=True).tag == ITEM
            for position in (int(starts[0]), int(starts[-1]))
        )

    def _scan(self, first: int, count: int) -> NDArray[np.int64]:
        """Walk the fragments: one a frame, or as many as follow until another image begins."""
        items: list[int] = []
        position = first
        while position < len(self._data):
            item = read_head(self._data, position, is_implicit=True)
            if item.tag == SEQUENCE_END:
                break
            if item.tag != ITEM or item.start + item.length > len(self._data):
                raise Undecodable("its compressed pixel data is broken")
            items.append(position)
            position = item.start + item.length
        if count == 1 and items:
            items = items[:1]
        elif len(items) > count:
            items = [at for at in items if bytes(self._data[at + 8 : at + 10]) in _STARTS]
        if len(items) != count:
            raise Undecodable(
                f"its pixel data holds {len(items)} images, its header says {count} frames"
            )
        return np.array(items, np.int64)


def _checked(offsets: NDArray[np.unsignedinteger]) -> NDArray[np.int64] | None:
    """Offsets that begin at 0 and rise; a 32-bit table of a file over 4 GiB does not."""
    if offsets[0] != 0 or offsets[-1] > 2**62:
        return None
    found = offsets.astype(np.int64)
    return found if (np.diff(found) > 0).all() else None
