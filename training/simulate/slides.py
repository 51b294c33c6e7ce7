"""Slides made of real patches, with labels that are true by construction.

A simulated slide is a mosaic: every cell of 512 px at 0.25 um/px is a crop of a real H&E patch,
turned or mirrored, and all cells of a slide share one stain style. It is positive when a share of
its cells shows metastasis by the pathologist's mask. What it does not have is the order of real
tissue, the variety of real patients and any finding that is not in a handful of patches: figures
on it say that the software works, and nothing about a clinic.

Pixels of the development slides never occur in the held-out ones: the patches of one real slide
overlap, so crops are told apart by where they lie in it.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.stain import LabStatistics, lab_statistics, reinhard
from training.cohorts import find_file, read_image, read_mask
from training.errors import CohortError

CELL_PX = 512
"""Side of a cell: one tile of 256 px at 0.5 um/px."""
UM_PX = 0.25
"""Taken for all patches; CAMELYON16's is 0.243."""
DOWNSAMPLES = (1, 2, 32)
"""Levels of a simulated slide."""
MIN_TUMOUR = 0.5
"""Share of metastasis from which a crop is a tumour cell; normal cells have none at all."""
MIN_TISSUE = 0.3
"""Share of stained pixels below which a crop is glass."""
GRID_PX = 16  # crops begin on this grid
GLASS_LEVEL = 215
CELL_CACHE = 64


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """How many slides of what kind."""

    kind: Literal["simulated"]
    """Tells the sources apart."""
    seed: int
    """Seed of the slides."""
    slides: int
    """Slides for development."""
    held_out_slides: int
    """Slides for the held-out figures."""
    slides_per_case: int
    """Largest number of slides of one case; all have its label."""
    min_cells: int
    """Fewest cells of a slide."""
    max_cells: int
    """Most cells of a slide."""
    min_tumour_share: float
    """Smallest share of tumour cells of a positive slide, in (0, 1)."""
    max_tumour_share: float
    """Largest share, in (0, 1)."""
    style_strength: float
    """How far a slide's colours go towards those of a random reference, in [0, 1]."""
    development_rows: dict[str, tuple[int, ...]]
    """Real slide -> first and last row (level 0) of what development may use of it."""
    held_out_files: tuple[str, ...]
    """Background images, by name without suffix, that only held-out slides use."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if min(self.slides, self.held_out_slides, self.slides_per_case, self.min_cells) < 1:
            raise ValueError("counts must be positive")
        if self.max_cells < self.min_cells:
            raise ValueError("max_cells must not be below min_cells")
        if not 0 < self.min_tumour_share <= self.max_tumour_share < 1:
            raise ValueError("tumour shares must ascend within (0, 1)")
        if not 0 <= self.style_strength <= 1:
            raise ValueError("style_strength must lie in [0, 1]")
        if any(len(rows) != 2 or rows[0] >= rows[1] for rows in self.development_rows.values()):
            raise ValueError("development_rows must name a first and a last row")


@dataclass(frozen=True, eq=False)
class Patch:
    """One real image."""

    name: str
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, at least one cell large."""
    tumour: NDArray[np.bool_]
    """(H, W) metastasis."""
    rows: tuple[int, int] | None
    """Rows, relative to the patch, that belong to development; None: all or none, by ``name``."""
    colours: LabStatistics
    """Of the real slide it comes from."""
    is_held_out: bool
    """Whether, with ``rows`` None, only held-out slides use it."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One crop."""

    patch: Patch
    x: int
    y: int
    turn: int
    """Quarter turns; 4 more for mirrored."""
    is_tumour: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedSlide:
    """A mosaic that reads like a slide."""

    slide_id: str
    case: str
    label: str
    is_held_out: bool
    cells: dict[tuple[int, int], Cell]
    """(column, row) -> what is there."""
    columns: int
    rows: int
    style: LabStatistics
    """Colours of the slide."""
    um_px: float = UM_PX

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        sides = [CELL_PX // factor for factor in DOWNSAMPLES]
        return tuple((self.columns * side, self.rows * side) for side in sides)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a rectangle of a level, (height, width, 3) uint8 RGB; glass is white."""
        side = CELL_PX // DOWNSAMPLES[level]
        found = np.full((height, width, 3), 255, np.uint8)
        for row in range(max(0, y // side), min(self.rows, (y + height - 1) // side + 1)):
            for column in range(max(0, x // side), min(self.columns, (x + width - 1) // side + 1)):
                cell = self.cells.get((column, row))
                if cell is not None:
                    pixels = _render(cell, self.style, side)
                    _paste(found, pixels, column * side - x, row * side - y)
        return found

    def close(self) -> None:
        """Nothing to release."""

    @property
    def tumour_share(self) -> float:
        """Share of tumour cells."""
        return float(np.mean([cell.is_tumour for cell in self.cells.values()]))


@functools.lru_cache(maxsize=CELL_CACHE)
def _render(cell: Cell, style: LabStatistics, side: int) -> NDArray[np.uint8]:
    crop = cell.patch.pixels[cell.y : cell.y + CELL_PX, cell.x : cell.x + CELL_PX]
    reduced = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    turned = np.rot90(reduced, cell.turn % 4)
    mirrored = np.ascontiguousarray(turned[:, ::-1] if cell.turn >= 4 else turned)
    return reinhard(mirrored.astype(np.uint8), style, source=cell.patch.colours)


def _paste(target: NDArray[np.uint8], pixels: NDArray[np.uint8], x: int, y: int) -> None:
    height, width = pixels.shape[:2]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, target.shape[1]), min(y + height, target.shape[0])
    target[y0:y1, x0:x1] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]


def simulate_slides(
    settings: SimulationSettings, data: Path
) -> tuple[tuple[SimulatedSlide, ...], str]:
    """Make the slides of a cohort.

    Parameters
    ----------
    settings
        How many of what kind.
    data
        Folder with ``camelyon16_patches``, ``monuseg_test`` and ``stain_tiles``.

    Returns
    -------
    slides
        Development first; nothing is rendered yet.
    fingerprint
        Changes when settings or patches do.

    Raises
    ------
    CohortError
        If a table or an image is missing, or no crop of a kind can be found.
    """
    patches = (*_labelled_patches(settings, data), *_background(settings, data))
    styles = _styles(data)
    slides: list[SimulatedSlide] = []
    for is_held_out, count in ((False, settings.slides), (True, settings.held_out_slides)):
        rng = np.random.default_rng([settings.seed, is_held_out])
        kinds = {
            is_tumour: _find_places(patches, is_tumour=is_tumour, is_held_out=is_held_out)
            for is_tumour in (False, True)
        }
        cases = 0
        first = len(slides)
        while len(slides) - first < count:
            label = ("normal", "tumour")[cases % 2]
            left = count - (len(slides) - first)
            for _ in range(min(int(rng.integers(1, settings.slides_per_case + 1)), left)):
                prefix = "held_out" if is_held_out else "slide"
                slides.append(
                    _simulate_one(
                        rng,
                        settings,
                        kinds,
                        styles,
                        name=(f"{prefix}_{len(slides) - first:04d}", f"{prefix}_case_{cases:04d}"),
                        label=label,
                        is_held_out=is_held_out,
                    )
                )
            cases += 1
    hashed = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for patch in patches:
        hashed.update(patch.pixels.tobytes())
    return tuple(slides), hashed.hexdigest()


def _simulate_one(
    rng: np.random.Generator,
    settings: SimulationSettings,
    kinds: Mapping[bool, Sequence[tuple[Patch, NDArray[np.intp]]]],
    styles: Sequence[LabStatistics],
    *,
    name: tuple[str, str],
    label: str,
    is_held_out: bool,
) -> SimulatedSlide:
    count = int(rng.integers(settings.min_cells, settings.max_cells + 1))
    share = rng.uniform(settings.min_tumour_share, settings.max_tumour_share)
    tumour = max(1, round(share * count)) if label == "tumour" else 0
    columns = int(np.ceil(np.sqrt(1.5 * count)))
    rows = int(np.ceil(count / columns))
    places = [(1 + i % columns, 1 + i // columns) for i in range(count)]
    # A metastasis is one area: tumour cells are those nearest to a random place.
    centre = places[int(rng.integers(count))]
    places.sort(key=lambda place: (place[0] - centre[0]) ** 2 + (place[1] - centre[1]) ** 2)
    cells = {
        place: _draw_cell(rng, kinds[number < tumour], number < tumour)
        for number, place in enumerate(places)
    }
    reference, base = styles[int(rng.integers(len(styles)))], styles[0]
    weight = settings.style_strength * rng.uniform()
    return SimulatedSlide(
        slide_id=name[0],
        case=name[1],
        label=label,
        is_held_out=is_held_out,
        cells=cells,
        columns=columns + 2,
        rows=rows + 2,
        style=_mix(base, reference, weight),
    )


def _mix(first: LabStatistics, second: LabStatistics, weight: float) -> LabStatistics:
    def between(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float]:
        x, y, z = ((1 - weight) * i + weight * j for i, j in zip(a, b, strict=True))
        return (x, y, z)

    return LabStatistics(mean=between(first.mean, second.mean), std=between(first.std, second.std))


def _find_places(
    patches: Sequence[Patch], *, is_tumour: bool, is_held_out: bool
) -> list[tuple[Patch, NDArray[np.intp]]]:
    """Patches with the (row, column) corners of all crops of a kind.

    Raises
    ------
    CohortError
        If there is none.
    """
    found = []
    for patch in patches:
        share = _crop_means(patch.tumour)
        fits = share >= MIN_TUMOUR if is_tumour else share == 0
        darkest = cv2.min(cv2.min(*cv2.split(patch.pixels)[:2]), patch.pixels[..., 2])
        fits &= _crop_means(np.asarray(darkest < GLASS_LEVEL)) >= MIN_TISSUE
        tops = np.arange(share.shape[0]) * GRID_PX
        if patch.rows is None:
            fits &= patch.is_held_out == is_held_out
        elif is_held_out:
            fits &= ((tops + CELL_PX <= patch.rows[0]) | (tops >= patch.rows[1]))[:, np.newaxis]
        else:
            is_inside = (tops >= patch.rows[0]) & (tops + CELL_PX <= patch.rows[1])
            fits &= is_inside[:, np.newaxis]
        if fits.any():
            found.append((patch, np.argwhere(fits) * GRID_PX))
    if not found:
        kind = "tumour" if is_tumour else "normal"
        side = "held-out" if is_held_out else "development"
        raise CohortError(f"the patches give no {kind} cell for {side} slides")
    return found


def _crop_means(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of every crop whose corner lies on the grid of ``GRID_PX``."""
    sums = np.asarray(cv2.integral(mask.astype(np.uint8)))
    total = (
        sums[CELL_PX:, CELL_PX:]
        - sums[:-CELL_PX, CELL_PX:]
        - sums[CELL_PX:, :-CELL_PX]
        + sums[:-CELL_PX, :-CELL_PX]
    )
    return np.asarray(total[::GRID_PX, ::GRID_PX] / CELL_PX**2, np.float64)


def _draw_cell(
    rng: np.random.Generator, places: Sequence[tuple[Patch, NDArray[np.intp]]], is_tumour: bool
) -> Cell:
    patch, corners = places[int(rng.integers(len(places)))]
    y, x = corners[int(rng.integers(len(corners)))]
    return Cell(patch, int(x), int(y), int(rng.integers(8)), is_tumour)


def _labelled_patches(settings: SimulationSettings, data: Path) -> list[Patch]:
    folder = data / "camelyon16_patches"
    try:
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as handle:
            records = list(csv.DictReader(handle))
        wanted = [(r["name"], r["slide"], r["label"], int(r["y_level0"])) for r in records]
    except (OSError, KeyError, ValueError) as exc:
        raise CohortError(f"{folder / 'labels.csv'} cannot be read as a table of patches") from exc
    images = {name: _read(folder / "images", name) for name, *_ in wanted}
    colours = {
        slide: _statistics([images[name] for name, where, *_ in wanted if where == slide])
        for slide in {where for _, where, *_ in wanted}
    }
    patches = []
    for name, slide, label, y_level0 in wanted:
        if slide not in settings.development_rows:
            raise CohortError(f"development_rows names no rows of {slide}")
        first, last = settings.development_rows[slide]
        image = images[name]
        tumour = np.zeros(image.shape[:2], np.bool_)
        mask = find_file(folder / "masks", name)
        if mask is not None:
            tumour = read_mask(mask) > 0
        elif label == "tumor":
            raise CohortError(f"{name} has no mask")
        if tumour.shape != image.shape[:2]:
            raise CohortError(f"{name}: mask {tumour.shape} does not fit image {image.shape[:2]}")
        rows = (first - y_level0, last - y_level0)
        patches.append(Patch(name, image, tumour, rows, colours[slide], is_held_out=False))
    return patches


def _background(settings: SimulationSettings, data: Path) -> list[Patch]:
    """Tissue of other organs and laboratories, none of it a metastasis in a lymph node."""
    patches = []
    for path in sorted((data / "monuseg_test" / "images").glob("*")):
        image = _read(path.parent, path.stem)
        none = np.zeros(image.shape[:2], np.bool_)
        is_held_out = path.stem in settings.held_out_files
        patches.append(Patch(path.stem, image, none, None, _statistics([image]), is_held_out))
    return patches


def _styles(data: Path) -> tuple[LabStatistics, ...]:
    """Colours of real laboratories; the first is the patches' own."""
    folders = ("camelyon16_patches/images", "monuseg_test/images", "stain_tiles")
    paths = [path for folder in folders for path in sorted((data / folder).glob("*.[jp][pn]g"))]
    if not paths:
        raise CohortError(f"{data} holds no patches")
    return tuple(_statistics([_read(path.parent, path.stem)]) for path in paths)


def _statistics(images: Sequence[NDArray[np.uint8]]) -> LabStatistics:
    # Every fourth pixel of each: enough for a mean and a deviation.
    pixels = np.concatenate([image[::4, ::4].reshape(-1, 1, 3) for image in images])
    return lab_statistics(pixels)


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    path = find_file(folder, name)
    if path is None:
        raise CohortError(f"{name}: no image in {folder}")
    return read_image(path)
