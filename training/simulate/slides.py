"""Slides made of real patches, with labels that are true by construction.

A simulated slide is a mosaic: every cell of 512 px at 0.25 um/px is a crop of a real H&E patch,
turned or mirrored, and all cells of a slide share one stain style. It is positive when a share of
its cells shows metastasis by the pathologist's mask. What it does not have is the order of real
tissue, the variety of real patients and any finding that is not in a handful of patches: figures
on it say that the software works, and nothing about a clinic.

Development, calibration and held-out slides share no pixel: the patches of one real slide overlap,
so crops are told apart by where they lie in it. Without slides of its own to calibrate on, a
network that knows the pixels is far too sure of itself.
"""

from __future__ import annotations

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

from models.slide.stain import LabStatistics, reinhard
from training.errors import CohortError
from training.simulate.patches import (
    Patch,
    Split,
    background_patches,
    labelled_patches,
    read_styles,
)

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
    calibration_slides: int
    """Slides that stop the training and decide temperature and threshold."""
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
    """Real slide -> first and last row (level 0) of what development may use of it; calibration
    uses what lies before, held-out slides what lies after."""
    calibration_files: tuple[str, ...]
    """Background images, by name without suffix, that only calibration slides use."""
    held_out_files: tuple[str, ...]
    """Background images, by name without suffix, that only held-out slides use."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        counts = (self.slides, self.calibration_slides, self.held_out_slides, self.slides_per_case)
        if min(*counts, self.min_cells) < 1:
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
    split: Split
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
    patches = (
        *labelled_patches(data, settings.development_rows),
        *background_patches(
            data,
            calibration_files=settings.calibration_files,
            held_out_files=settings.held_out_files,
        ),
    )
    styles = read_styles(data)
    counts: dict[Split, int] = {
        "development": settings.slides,
        "calibration": settings.calibration_slides,
        "held_out": settings.held_out_slides,
    }
    slides: list[SimulatedSlide] = []
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([settings.seed, number])
        kinds = {
            is_tumour: _find_places(patches, is_tumour=is_tumour, split=split)
            for is_tumour in (False, True)
        }
        made: list[SimulatedSlide] = []
        cases = 0
        while len(made) < count:
            label = ("normal", "tumour")[cases % 2]
            wanted = int(rng.integers(1, settings.slides_per_case + 1))
            for _ in range(min(wanted, count - len(made))):
                name = (f"{split}_{len(made):04d}", f"{split}_case_{cases:04d}")
                made.append(
                    _simulate_one(rng, settings, kinds, styles, name=name, label=label, split=split)
                )
            cases += 1
        slides += made
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
    split: Split,
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
        split=split,
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
    patches: Sequence[Patch], *, is_tumour: bool, split: Split
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
            fits &= patch.split == split
        else:
            fits &= _is_of_split(tops, patch.rows, split)[:, np.newaxis]
        if fits.any():
            found.append((patch, np.argwhere(fits) * GRID_PX))
    if not found:
        kind = "tumour" if is_tumour else "normal"
        raise CohortError(f"the patches give no {kind} cell for {split} slides")
    return found


def _is_of_split(tops: NDArray[np.intp], rows: tuple[int, int], split: Split) -> NDArray[np.bool_]:
    """Whether crops that begin at these rows lie wholly within a split's part of the slide."""
    if split == "calibration":
        return np.asarray(tops + CELL_PX <= rows[0])
    if split == "held_out":
        return np.asarray(tops >= rows[1])
    return np.asarray((tops >= rows[0]) & (tops + CELL_PX <= rows[1]))


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
