"""Received whole-slide instances as slides that can be read, by their headers and mapped files.

One slide is what shares a Pyramid UID or, without one, series and container; frames of reference
part it only where its instances cannot be levels of one pyramid, since some converters give every
level one of its own. Levels in series of their own are joined by frame of reference and container.
Only instances of the flavour VOLUME belong to it: labels and overview
photographs show names. Frames are found through the offset tables and decoded one by one, so that
memory does not depend on the slide's size; what a header promises is checked against the file
before it is believed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset

from models.errors import SlideError
from models.slide.tiles import check_spacing
from workers.adapters.slide_header import (
    PYRAMID,
    Layout,
    SlideHeader,
    layout_of,
    read_slide_header,
    reading,
    volume_um,
)
from workers.adapters.slide_pyramid import (
    CACHE_BYTES,
    Level,
    OpenInstance,
    Pyramid,
    open_instance,
)
from workers.errors import InstanceMissing, StorageUnavailable, Undecodable
from workers.slide.source import FoundSlide, FoundSlides

MAX_SIDE_MM = 200.0
"""Longer side of a slide; the largest glass in use has 178 mm."""
ASPECT_TOLERANCE = 0.02
"""Relative difference of a level's shape from the finest's; small levels differ by rounding."""
SPACING_TOLERANCE = 0.05
"""Relative difference of two statements about one slide's resolution."""

_HEX = frozenset("0123456789abcdef")
_Member = tuple[str, Dataset]


class SpoolSlides:
    """Slides of the spool; implements ``workers.slide.source.SlideSource``."""

    def __init__(self, spool: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._spool = spool
        self._cache_bytes = cache_bytes

    def find(self, paths: Sequence[str]) -> FoundSlides:
        """Sort instances into slides by their headers."""
        groups: dict[tuple[str, ...], list[_Member]] = {}
        others, unreadable = [], []
        for path in paths:
            try:
                with self._opened(path) as descriptor:
                    header = read_slide_header(descriptor)
                if header.flavour == PYRAMID:
                    groups.setdefault(_key(header.dataset), []).append((path, header.dataset))
                else:
                    others.append(header.dataset)
            except Undecodable as exc:
                unreadable.append(str(exc))
        slides = []
        for members in _joined(_parted(groups.values())):
            members.sort(key=lambda member: _size(member[1]), reverse=True)
            slides.append(
                FoundSlide(
                    paths=tuple(path for path, _ in members),
                    headers=tuple(dataset for _, dataset in members),
                )
            )
        return FoundSlides(slides=tuple(slides), others=tuple(others), unreadable=tuple(unreadable))

    def open(self, found: FoundSlide) -> Pyramid:
        """Open one slide; levels that cannot be used are left out and remarked on."""
        remarks: list[str] = []
        levels = []
        for parts in _by_size(self._instances(found, remarks)):
            try:
                levels.append(Level(parts))
            except Undecodable as exc:
                remarks.append(_left_out(parts[0].layout, exc))
        if not levels:
            raise Undecodable("no level of the slide can be read: " + "; ".join(remarks))
        levels = _consistent(levels, remarks)
        _check_extent(levels[0], remarks)
        return Pyramid(levels, remarks, cache_bytes=self._cache_bytes)

    def _instances(self, found: FoundSlide, remarks: list[str]) -> Iterator[OpenInstance]:
        for path in found.paths:
            header: SlideHeader | None = None
            try:
                with self._opened(path) as descriptor:
                    header = read_slide_header(descriptor)
                    with reading("its pixel data cannot be found"):
                        instance = open_instance(header, descriptor, _digest(path, descriptor))
            except Undecodable as exc:
                remarks.append(_left_out(None if header is None else _layout(header), exc))
                continue
            yield instance

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        try:
            descriptor = os.open(self._spool / path, os.O_RDONLY)
        except FileNotFoundError as exc:
            raise InstanceMissing("a received file is not in the spool any more") from exc
        except OSError as exc:
            raise StorageUnavailable(f"the spool cannot be read ({exc.strerror})") from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _key(dataset: Dataset) -> tuple[str, ...]:
    """What the instances of one slide share."""
    pyramid = _text(dataset, "PyramidUID")
    keywords = ("SeriesInstanceUID", "ContainerIdentifier")
    return (pyramid,) if pyramid else tuple(_text(dataset, keyword) for keyword in keywords)


def _parted(groups: Iterable[list[_Member]]) -> Iterator[list[_Member]]:
    """Part a group by frame of reference where it cannot be one pyramid."""
    for members in groups:
        frames: dict[str, list[_Member]] = {}
        for member in members:
            frames.setdefault(_text(member[1], "FrameOfReferenceUID"), []).append(member)
        parts = list(frames.values())
        if _are_levels(parts):
            yield members
        else:
            yield from parts


def _joined(groups: Iterable[list[_Member]]) -> Iterator[list[_Member]]:
    """Join levels that came in series of their own: one frame of reference, one container."""
    glasses: dict[tuple[str, ...], list[list[_Member]]] = {}
    for number, members in enumerate(groups):
        keywords = ("FrameOfReferenceUID", "ContainerIdentifier")
        glass = tuple(_text(members[0][1], keyword) for keyword in keywords)
        is_told = all(glass) and not _text(members[0][1], "PyramidUID")
        glasses.setdefault(glass if is_told else (str(number),), []).append(members)
    for parts in glasses.values():
        if _are_levels(parts):
            yield [member for members in parts for member in members]
        else:
            yield from parts


def _are_levels(parts: Sequence[Sequence[_Member]]) -> bool:
    """Whether the parts can be levels of one pyramid: one shape, and no size in two of them."""
    sizes = [{_size(dataset) for _, dataset in part} for part in parts]
    union = set[tuple[int, int]]().union(*sizes)
    finest = max(union)
    return len(union) == sum(map(len, sizes)) and all(_fits(size, finest) for size in union)


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        with reading("its header cannot be read"):
            return str(dataset.get(keyword) or "")
    except Undecodable:
        return ""


def _size(dataset: Dataset) -> tuple[int, int]:
    keywords = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows")
    try:
        with reading("its header cannot be read"):
            width, height = (int(dataset.get(keyword) or 0) for keyword in keywords)
    except Undecodable:
        return 0, 0
    return width, height


def _fits(size: tuple[int, int], finest: tuple[int, int]) -> bool:
    """Whether a level has the shape of the finest, whole pixels considered."""
    if min(*size, *finest) < 1:
        return False
    off_px = abs(size[0] - size[1] * finest[0] / finest[1])
    return off_px <= max(2.0, ASPECT_TOLERANCE * size[0])


def _digest(path: str, descriptor: int) -> str:
    """Digest of a file; the spool names its files by it."""
    name = Path(path).stem
    if len(name) == 64 and _HEX.issuperset(name):
        return name
    with open(descriptor, "rb", closefd=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _layout(header: SlideHeader) -> Layout | None:
    try:
        return layout_of(header.dataset)
    except Undecodable:
        return None


def _left_out(layout: Layout | None, exc: Undecodable) -> str:
    what = "an instance" if layout is None else f"the level of {layout.width} x {layout.height} px"
    return f"{what} was left out: {exc}"


def _by_size(instances: Iterator[OpenInstance]) -> list[list[OpenInstance]]:
    """Instances of one level together, levels finest first."""
    found: dict[tuple[int, int], list[OpenInstance]] = {}
    for instance in instances:
        size = (instance.layout.width, instance.layout.height)
        found.setdefault(size, []).append(instance)
    return [found[size] for size in sorted(found, reverse=True)]


def _consistent(levels: list[Level], remarks: list[str]) -> list[Level]:
    """Leave out levels of another shape; remark on spacings that contradict the sizes."""
    finest = levels[0]
    kept = [finest]
    for level in levels[1:]:
        width, height = level.size
        if not _fits(level.size, finest.size) or width == kept[-1].size[0]:
            remarks.append(
                f"the level of {width} x {height} px was left out: its shape is not that of the "
                "finest level"
            )
            continue
        kept.append(level)
        expected = finest.size[0] / width
        stated = _ratio(level.spacing_um[0], finest.spacing_um[0])
        is_small = min(level.size) < 64  # rounded to whole pixels, or to a power of two
        if stated and not is_small and abs(stated / expected - 1) > SPACING_TOLERANCE:
            remarks.append("the pixel spacings of its levels do not agree; the finest's was used")
    return kept


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _check_extent(finest: Level, remarks: list[str]) -> None:
    """Compare the size that the spacing gives with that of the imaged volume and of a slide."""
    try:
        um_px = check_spacing(*finest.spacing_um)
    except SlideError:  # the slide says it when it is asked for its resolution
        return
    extent_um = [side * um_px for side in finest.size]
    if max(extent_um) > MAX_SIDE_MM * 1000:
        raise Undecodable(
            f"a slide of {extent_um[0] / 1000:.3g} x {extent_um[1] / 1000:.3g} mm is implausible: "
            "its pixel spacing or its size is wrong"
        )
    stated = volume_um(finest.parts[0].dataset)
    if stated is None:
        return
    if any(abs(a / b - 1) > SPACING_TOLERANCE for a, b in zip(extent_um, stated, strict=True)):
        remarks.append(
            "the size of its imaged volume does not agree with its pixel spacing, which was used"
        )
