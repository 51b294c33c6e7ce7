"""The tile grid of a slide, and the manifest of the model that reads its tiles.

Everything starts from micrometres per pixel: a tile is a square of so many pixels at so many
micrometres, whatever levels the slide's pyramid has (CLAM asks for a level, and a 40x slide then
gives tiles of another scale than a 20x one). Coordinates are (x, y), in pixels of level 0, of a
tile's upper left corner, as slide readers and DICOM's total pixel matrix count them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import SlideError
from models.manifest import Manifest
from models.slide.tissue import PRESETS, Tissue

TILE_PX = 256
"""Side of a tile in pixels (CLAM, PanDerm)."""
TILE_UM_PX = 0.5
"""Resolution of a tile in micrometres per pixel: 20x."""
PLAUSIBLE_UM_PX = (0.05, 50.0)
"""Level-0 resolutions of microscopes; a TIFF in the wrong unit lies far outside."""
MAX_ANISOTROPY = 0.02
"""Relative difference of the spacings of rows and columns up to which pixels count as square."""
SNAP = 0.02
"""A level within this relative distance of the wanted resolution is read as it is: resampling by
less blurs and shows nothing more."""
MAX_ENLARGEMENT = 1.15
"""How much coarser than the tile the finest level may be; beyond it detail is missing."""
MAX_INK_SHARE = 0.5
"""Share of ink from which a tile is left out."""


@dataclass(frozen=True, kw_only=True)
class SlideGeometry:
    """What of a slide's pyramid matters for its tiles."""

    um_px: float
    """Resolution of level 0 in micrometres per pixel."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each level in pixels, finest first."""

    def __post_init__(self) -> None:
        """Refuse a pyramid that cannot be one."""
        if not self.sizes or min(min(size) for size in self.sizes) < 1:
            raise SlideError("a slide needs at least one level, each of at least one pixel")
        widths = [width for width, _ in self.sizes]
        if widths != sorted(widths, reverse=True):
            raise SlideError("the levels of a slide must come finest first")
        check_spacing(self.um_px, self.um_px)

    def downsample(self, level: int) -> float:
        """Pixels of level 0 per pixel of this level."""
        return self.sizes[0][0] / self.sizes[level][0]

    def level_um_px(self, level: int) -> float:
        """Resolution of this level in micrometres per pixel."""
        return self.um_px * self.downsample(level)


def check_spacing(x_um_px: float | None, y_um_px: float | None) -> float:
    """Resolution of a slide from its two spacings.

    Parameters
    ----------
    x_um_px, y_um_px
        Micrometres per pixel along a row and along a column, None where the file does not say.

    Returns
    -------
    float
        Their mean.

    Raises
    ------
    SlideError
        If a spacing is missing or implausible, or the pixels are not square: a guessed
        resolution would show the model tissue at the wrong scale.
    """
    if x_um_px is None or y_um_px is None:
        raise SlideError("the slide does not state its pixel spacing")
    low, high = PLAUSIBLE_UM_PX
    for value in (x_um_px, y_um_px):
        if not low <= value <= high:  # nan fails too
            raise SlideError(f"a pixel spacing of {value:g} um is not that of a microscope")
    if abs(x_um_px - y_um_px) > MAX_ANISOTROPY * max(x_um_px, y_um_px):
        raise SlideError(f"pixels of {x_um_px:g} by {y_um_px:g} um are not square")
    return (x_um_px + y_um_px) / 2


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """From which level to read, and what to make of it."""

    level: int
    """Number of the level, 0 the finest."""
    factor: float
    """Pixels of that level per pixel wanted; 1 means no resampling."""
    um_px: float
    """Resolution that comes out, in micrometres per pixel."""


def plan_read(geometry: SlideGeometry, um_px: float) -> ReadPlan:
    """Choose the coarsest level that is at least as fine as wanted.

    Parameters
    ----------
    geometry
        The slide's pyramid.
    um_px
        Wanted resolution in micrometres per pixel.

    Raises
    ------
    SlideError
        If even level 0 is too coarse.

    Examples
    --------
    >>> plan_read(SlideGeometry(um_px=0.25, sizes=((1000, 1000), (250, 250))), 0.5)
    ReadPlan(level=0, factor=2.0, um_px=0.5)
    """
    fine = [
        level
        for level in range(len(geometry.sizes))
        if geometry.level_um_px(level) <= um_px * (1 + SNAP)
    ]
    level = max(fine, default=0)
    found = geometry.level_um_px(level)
    if abs(found / um_px - 1) <= SNAP:
        return ReadPlan(level=level, factor=1.0, um_px=found)
    if found > um_px * MAX_ENLARGEMENT:
        raise SlideError(f"the slide has {found:g} um/px, {um_px:g} um/px or finer is needed")
    return ReadPlan(level=level, factor=um_px / found, um_px=um_px)


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """The tiles of one slide that hold tissue."""

    coordinates: NDArray[np.int64]
    """(N, 2) upper left corner, x and y in pixels of level 0, row by row."""
    side: int
    """Side of a tile in pixels of level 0."""
    tile_px: int
    """Side of a tile as the model sees it, in pixels."""
    plan: ReadPlan
    """How tiles are read."""
    slide_size: tuple[int, int]
    """(width, height) of level 0 in pixels."""

    def __len__(self) -> int:
        return len(self.coordinates)


def lay_grid(
    geometry: SlideGeometry,
    tissue: Tissue,
    *,
    tile_px: int = TILE_PX,
    um_px: float = TILE_UM_PX,
) -> TileGrid:
    """Lay a grid over the slide and keep the tiles with tissue.

    Parameters
    ----------
    geometry
        The slide's pyramid.
    tissue
        What ``find_tissue`` found on the slide's overview.
    tile_px
        Side of a tile in pixels.
    um_px
        Its resolution in micrometres per pixel.

    Returns
    -------
    TileGrid
        Tiles do not overlap. One is kept when any of four points (centre plus or minus a quarter
        of its side) lies within a part's outline and the centre lies in no hole (CLAM's
        ``four_pt`` rule), its centre lies on the slide, and less than half of it is ink.

    Raises
    ------
    SlideError
        If the slide is too coarse.

    Notes
    -----
    One grid from the slide's corner, where CLAM begins one in each part's bounding box: a
    re-encoded slide whose outline moves by a pixel then keeps its tiles, and parts that lie side
    by side share none. Points are looked up on the overview (8 um), not in the polygons.
    """
    plan = plan_read(geometry, um_px)
    step = tile_px * plan.um_px / geometry.um_px
    width, height = geometry.sizes[0]
    columns, rows = (max(1, math.floor(extent / step + 0.5)) for extent in (width, height))
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    centres = np.asarray((grid + 0.5) * step, np.float64)
    inside = ((centres < (width, height)).all(axis=1)) & is_tile_kept(
        tissue, centres, step=step, slide_size=(width, height)
    )
    coordinates = np.rint(grid[inside] * step).astype(np.int64)
    return TileGrid(
        coordinates=coordinates,
        side=max(1, round(step)),
        tile_px=tile_px,
        plan=plan,
        slide_size=(width, height),
    )


def is_tile_kept(
    tissue: Tissue, centres: NDArray[np.float64], *, step: float, slide_size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Apply the four-point rule and the guards against holes and ink.

    Parameters
    ----------
    tissue
        What ``find_tissue`` found.
    centres
        (N, 2) x and y of tile centres in pixels of level 0.
    step
        Side of a tile in pixels of level 0.
    slide_size
        (width, height) of level 0 in pixels.

    Returns
    -------
    ndarray
        (N,) bool.
    """
    scale = np.array(tissue.outer.shape[::-1]) / slide_size
    shift = int(step / 2 * 0.5)
    kept = np.zeros(len(centres), np.bool_)
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            corner = np.array([sign_x, sign_y]) * shift
            kept |= _look_up(tissue.outer, (centres + corner) * scale)
    kept &= ~_look_up(tissue.holes, centres * scale)
    return kept & (_ink_share(tissue.ink, centres, step, scale) < MAX_INK_SHARE)


def _look_up(mask: NDArray[np.bool_], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Value of the mask's pixel that holds each (x, y); False outside."""
    x, y = np.floor(points).astype(np.int64).T
    height, width = mask.shape
    is_on = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    found = np.zeros(len(points), np.bool_)
    found[is_on] = mask[y[is_on], x[is_on]]
    return found


def _ink_share(
    ink: NDArray[np.bool_], centres: NDArray[np.float64], step: float, scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of ink of each tile, from sums over rectangles."""
    sums = np.asarray(cv2.integral(ink.astype(np.uint8)))
    limit = np.array(ink.shape[::-1])
    low = np.clip(np.floor((centres - step / 2) * scale), 0, limit - 1).astype(np.int64)
    high = np.clip(np.ceil((centres + step / 2) * scale), 1, limit).astype(np.int64)
    (x0, y0), (x1, y1) = low.T, high.T
    total = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return np.asarray(total / np.maximum((x1 - x0) * (y1 - y0), 1))


def read_size(grid: TileGrid) -> int:
    """Side in pixels of the level that is read for one tile."""
    return max(1, round(grid.tile_px * grid.plan.factor))


def resample_tile(pixels: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    """Bring what was read to the tile's size: area average when smaller, bilinear when larger.

    Parameters
    ----------
    pixels
        (h, w, 3) uint8 RGB as read from the plan's level.
    tile_px
        Side of the tile in pixels.

    Returns
    -------
    ndarray
        (tile_px, tile_px, 3) uint8 RGB.
    """
    if pixels.shape[:2] == (tile_px, tile_px):
        return pixels
    is_smaller = max(pixels.shape[:2]) > tile_px
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (tile_px, tile_px), interpolation=how), np.uint8)


@dataclass(frozen=True, kw_only=True)
class AbmilShape:
    """The numbers that rebuild the attention network."""

    features: int = 1280
    """Width E of a tile's embedding."""
    width: int = 512
    """Width after the first layer."""
    attention: int = 384
    """Width of the attention's two branches."""
    labels: int = 2
    """Number of labels C."""
    is_branched: bool = False
    """One attention score a label (CLAM-MB) in place of one for all."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        if min(self.features, self.width, self.attention) < 1 or self.labels < 2:
            raise ValueError("widths must be positive, and there must be at least two labels")

    @property
    def scores(self) -> int:
        """Number of attention scores S a tile."""
        return self.labels if self.is_branched else 1


@dataclass(frozen=True, kw_only=True)
class SlideManifest(Manifest):
    """What travels with the weights of a slide model."""

    labels: dict[str, str]
    """Label -> full name, in the order of the logits."""
    positive_labels: tuple[str, ...]
    """Labels whose summed probability is compared with ``decision_threshold``."""
    architecture: AbmilShape
    encoder_digest: str
    """SHA-256 of the encoder whose embeddings the model reads; others mean nothing to it."""
    tile_px: int
    """Side of a tile in pixels."""
    tile_um_px: float
    """Resolution of a tile in micrometres per pixel."""
    tissue_preset: str
    """Name in ``models.slide.tissue.PRESETS``."""
    temperature: float
    """Divides the logits before the softmax, positive."""
    decision_threshold: float
    """Probability in (0, 1) of the positive labels from which a slide is called positive."""
    decision_threshold_meaning: str
    """What the threshold was chosen for."""
    min_tiles: int
    """Fewest tiles of tissue for an assessment."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        labels, positive = self.labels, self.positive_labels
        return {
            "labels": lambda: (
                len(labels) == self.architecture.labels and all(map(_is_text, labels))
            ),
            "positive_labels": lambda: (
                0 < len(set(positive)) == len(positive) < len(labels)
                and set(positive) <= set(labels)
            ),
            "encoder_digest": lambda: (
                len(self.encoder_digest) == 64
                and set(self.encoder_digest) <= set("0123456789abcdef")
            ),
            "tile_px": lambda: self.tile_px > 0,
            "tile_um_px": lambda: PLAUSIBLE_UM_PX[0] <= self.tile_um_px <= PLAUSIBLE_UM_PX[1],
            "tissue_preset": lambda: self.tissue_preset in PRESETS,
            "temperature": lambda: 0 < self.temperature < math.inf,
            "decision_threshold": lambda: 0 < self.decision_threshold < 1,
            "decision_threshold_meaning": lambda: _is_text(self.decision_threshold_meaning),
            "min_tiles": lambda: self.min_tiles > 0,
        }


def _is_text(text: str) -> bool:
    return bool(text.strip())


def top_tiles(scores: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Numbers of the tiles with the highest scores, highest first; ties in the grid's order.

    Raises
    ------
    ValueError
        If the scores are not one finite number a tile.
    """
    check_scores(scores)
    return np.argsort(-scores, kind="stable")[: max(count, 0)]


def check_scores(scores: NDArray[np.floating] | Sequence[float]) -> None:
    """Refuse scores that are not one finite number a tile."""
    values = np.asarray(scores)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite and of shape (N,), not {values.shape}")
