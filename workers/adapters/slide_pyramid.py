"""The pyramid of one slide: its levels from open instances, and the pixels of any rectangle."""

from __future__ import annotations

import hashlib
import mmap
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.slide.reading import WHITE
from models.slide.tiles import check_spacing
from workers.adapters.slide_codecs import RAW, Decode, decoder
from workers.adapters.slide_elements import (
    Buffer,
    FramePlaces,
    Value,
    end_of,
    read_head,
    read_places,
)
from workers.adapters.slide_frames import EncapsulatedFrames, RawFrames
from workers.adapters.slide_header import Layout, SlideHeader, layout_of
from workers.adapters.slide_tiles import FullGrid, PlacedTiles, TileIndex
from workers.errors import Undecodable

CACHE_BYTES = 96 * 1024 * 1024
"""Decoded frames that are kept: a row of tiles shares its frames with the row below."""
_PER_FRAME_GROUPS = 0x52009230
_EXTENDED_OFFSETS = 0x7FE00001
_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, kw_only=True)
class OpenInstance:
    """One instance with its file mapped."""

    dataset: Dataset
    digest: str
    """Digest of the file's bytes."""
    layout: Layout
    frames: RawFrames | EncapsulatedFrames
    decode: Decode
    places: FramePlaces | None
    """Where its frames lie; None where their order says it."""


def open_instance(header: SlideHeader, descriptor: int, digest: str) -> OpenInstance:
    """Map one instance and find its frames.

    Raises
    ------
    Undecodable
        It contradicts itself, is damaged, or is encoded as no slide is read.
    """
    layout = layout_of(header.dataset)
    decode = decoder(header.transfer_syntax_uid, layout.form)
    try:
        data = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        places, extended, pixel_data = _find_values(data, header, layout.frames)
    except struct.error as exc:
        raise Undecodable("its file ends early") from exc
    frames: RawFrames | EncapsulatedFrames
    if header.transfer_syntax_uid in RAW:
        frames = RawFrames(data, pixel_data, layout.frames, layout.form.raw_bytes)
    else:
        frames = EncapsulatedFrames(data, pixel_data, layout.frames, extended)
    return OpenInstance(
        dataset=header.dataset,
        digest=digest,
        layout=layout,
        frames=frames,
        decode=decode,
        places=places,
    )


def _find_values(
    data: Buffer, header: SlideHeader, frames: int
) -> tuple[FramePlaces | None, Value | None, Value]:
    places, extended, position = None, None, header.rest_offset
    while position + 8 <= len(data):
        value = read_head(data, position, header.is_implicit)
        if value.tag == _PIXEL_DATA:
            return places, extended, value
        if value.tag == _PER_FRAME_GROUPS:
            places, position = read_places(data, value, header.is_implicit, frames)
            continue
        if value.tag == _EXTENDED_OFFSETS:
            extended = value
        position = end_of(data, value, header.is_implicit)
    raise Undecodable("it holds no pixel data")


class Level:
    """One level of a pyramid, in one instance or several.

    Raises
    ------
    Undecodable
        The instances contradict each other, or do not make a level.
    """

    def __init__(self, parts: Sequence[OpenInstance]) -> None:
        first = parts[0].layout
        forms = {(part.layout.form.rows, part.layout.form.columns) for part in parts}
        if len(forms) > 1:
            raise Undecodable("its parts have frames of different size")
        self.size = (first.width, first.height)
        self.tile = (first.form.columns, first.form.rows)
        self.spacing_um = first.spacing_um
        self.remarks: list[str] = []
        if all(part.places is not None for part in parts):
            self.parts = tuple(parts)
            self.index: TileIndex = self._placed()
        else:
            self.parts = self._in_order(parts)
            self.index = self._full()
        counts = [part.layout.frames for part in self.parts]
        self._starts = [sum(counts[:number]) for number in range(len(counts))]
        digests = "".join(part.digest for part in self.parts)
        self.digest = hashlib.sha256(digests.encode()).hexdigest()

    def decode(self, number: int) -> NDArray[np.uint8]:
        """Decode one frame, counted over all parts."""
        at = bisect_right(self._starts, number) - 1
        part = self.parts[at]
        return part.decode(part.frames.read(number - self._starts[at]))

    def _in_order(self, parts: Sequence[OpenInstance]) -> tuple[OpenInstance, ...]:
        """Parts of one concatenation in order; of complete copies only the first."""
        name = parts[0].layout.concatenation
        if not name:
            if len(parts) > 1:
                self.remarks.append(f"{len(parts)} instances show one level; the first was read")
            return (parts[0],)
        own = sorted(
            (part for part in parts if part.layout.concatenation == name),
            key=lambda part: (part.layout.first_frame or 0, part.layout.part),
        )
        start = 0
        for part in own:
            if part.layout.first_frame not in (None, start):
                raise Undecodable("a part of its concatenation is missing")
            start += part.layout.frames
        return tuple(own)

    def _full(self) -> FullGrid:
        layout = self.parts[0].layout
        if layout.organisation not in ("TILED_FULL", ""):
            raise Undecodable("it does not say where its frames lie")
        frames = sum(part.layout.frames for part in self.parts)
        (width, height), (across, down) = self.size, self.tile
        plane = -(-width // across) * -(-height // down)
        if frames != plane * layout.planes * layout.paths:
            raise Undecodable(
                f"it has {frames} frames, a matrix of {self.size[0]} x {self.size[1]} pixels "
                f"needs {plane * layout.planes * layout.paths}"
            )
        if layout.planes > 1:
            self.remarks.append(f"of {layout.planes} focal planes the middle one was read")
        if layout.paths > 1:
            self.remarks.append(f"of {layout.paths} optical paths the first was read")
        return FullGrid(width=self.size[0], tile=self.tile, first=layout.planes // 2 * plane)

    def _placed(self) -> PlacedTiles:
        places = [part.places for part in self.parts if part.places is not None]
        columns = np.concatenate([place.columns for place in places])
        rows = np.concatenate([place.rows for place in places])
        kept = self._chosen_plane(places)
        (width, height), (across, down) = self.size, self.tile
        on_matrix = (columns > -across) & (columns < width) & (rows > -down) & (rows < height)
        if not (kept & on_matrix).any():
            raise Undecodable("none of its frames lies on the slide")
        if not on_matrix.all():
            self.remarks.append("frames that lie off the slide were left out")
        kept &= on_matrix
        numbers = np.flatnonzero(kept)
        return PlacedTiles(numbers, columns[kept], rows[kept], tile=self.tile)

    def _chosen_plane(self, places: Sequence[FramePlaces]) -> NDArray[np.bool_]:
        paths = np.array([path for place in places for path in place.paths])
        heights = np.concatenate([place.z_um for place in places])
        kept = paths == paths[0]
        if not kept.all():
            self.remarks.append(f"of {len(np.unique(paths))} optical paths the first was read")
        planes = np.unique(heights[kept])
        if len(planes) > 1:
            kept &= heights == planes[len(planes) // 2]
            self.remarks.append(f"of {len(planes)} focal planes the middle one was read")
        return np.asarray(kept)


class Pyramid:
    """Levels of one slide, for several threads; implements ``workers.slide.source.Slide``.

    Parameters
    ----------
    levels
        At least one, finest first.
    remarks
        What was found while they were put together.
    cache_bytes
        Decoded frames that are kept, in bytes.
    """

    def __init__(
        self, levels: Sequence[Level], remarks: Sequence[str], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._levels = list(levels)
        self._cache: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._cache_left = cache_bytes
        self._lock = threading.Lock()
        self.sizes = tuple(level.size for level in levels)
        self.headers = tuple(part.dataset for level in levels for part in level.parts)
        self.remarks = (*remarks, *dict.fromkeys(r for level in levels for r in level.remarks))

    @property
    def um_px(self) -> float:
        """Resolution of level 0 in micrometres per pixel; ``SlideError`` where unknown."""
        return check_spacing(*self._levels[0].spacing_um)

    def digest(self, level: int) -> str:
        """Digest of the bytes that hold a level."""
        return self._levels[level].digest

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a rectangle of a level, (height, width, 3) uint8 RGB; what is not there is white.

        The result may be read-only.

        Raises
        ------
        Undecodable
            A frame under it is damaged.
        """
        return self._read(level, (x, y, width, height), None)

    def salvage(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[NDArray[np.uint8], int]:
        """Read a rectangle; what cannot be decoded is white and counted."""
        lost: list[int] = []
        pixels = self._read(level, (x, y, width, height), lost)
        return pixels, sum(lost)

    def close(self) -> None:
        """Release the files; a mapping goes with the last array that shows it."""
        self._cache.clear()
        self._levels.clear()

    def _read(
        self, number: int, rectangle: tuple[int, int, int, int], lost: list[int] | None
    ) -> NDArray[np.uint8]:
        level = self._levels[number]
        x, y, width, height = rectangle
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level.size[0]), min(y + height, level.size[1])
        found: NDArray[np.uint8] | None = None
        frames = level.index.under(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else []
        for frame in frames:
            left, right = max(frame.column, x0), min(frame.column + level.tile[0], x1)
            top, bottom = max(frame.row, y0), min(frame.row + level.tile[1], y1)
            inside = (
                slice(top - frame.row, bottom - frame.row),
                slice(left - frame.column, right - frame.column),
            )
            try:
                part = self._frame(number, frame.number, inside)
            except Undecodable:
                if lost is None:
                    raise
                lost.append((right - left) * (bottom - top))
                continue
            if len(frames) == 1 and part.shape[:2] == (height, width):
                return part  # the common case, without a copy
            if found is None:
                found = np.full((height, width, 3), WHITE, np.uint8)
            found[top - y : bottom - y, left - x : right - x] = part
        return np.full((height, width, 3), WHITE, np.uint8) if found is None else found

    def _frame(self, level: int, number: int, inside: tuple[slice, slice]) -> NDArray[np.uint8]:
        pixels = self._decoded(level, number)
        if pixels.shape[0] < inside[0].stop or pixels.shape[1] < inside[1].stop:
            raise Undecodable("a frame is smaller than its place")
        return pixels[inside]

    def _decoded(self, level: int, number: int) -> NDArray[np.uint8]:
        key = (level, number)
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                return known
        pixels = self._levels[level].decode(number)
        pixels.flags.writeable = False
        with self._lock:
            if key not in self._cache:
                self._cache[key] = pixels
                self._cache_left -= pixels.nbytes
            while self._cache_left < 0:
                _, oldest = self._cache.popitem(last=False)
                self._cache_left += oldest.nbytes
        return pixels
