"""Attention of a slide's tiles as ranks and as a picture.

Ranks are **within a slide**: two slides cannot be compared by them, and a benign slide has tiles
of high rank too. Raw scores are kept beside them for that reason.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from models.slide.tiles import TileGrid, check_scores

MAX_SIDE_PX = 2048
"""Longest side of a heat map: 17 MB of sums and counts, whatever the slide."""
OPACITY = 0.4
"""Weight of the colour over the slide (CLAM)."""


def percentile_ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of the slide's tiles that score no higher, ties counted half way.

    Parameters
    ----------
    scores
        (N,) raw attention of the slide's own non-overlapping tiles.

    Returns
    -------
    ndarray
        (N,) in (0, 1].

    Raises
    ------
    ValueError
        If the scores are not one finite number a tile.

    References
    ----------
    Lu et al., Nature Biomedical Engineering 5, 2021, methods, "Visualization".

    Examples
    --------
    >>> percentile_ranks(np.array([3.0, 1.0, 2.0, 2.0])).tolist()
    [1.0, 0.25, 0.625, 0.625]
    """
    # Here, since it takes as long to import as all else of a worker's start.
    from scipy.stats import rankdata

    check_scores(scores)
    if not len(scores):
        return np.zeros(0)
    return np.asarray(rankdata(scores, method="average") / len(scores), np.float64)


def attention_map(
    grid: TileGrid, values: NDArray[np.floating], *, max_side_px: int = MAX_SIDE_PX
) -> NDArray[np.float32]:
    """Paint one value a tile onto a small picture of the slide.

    Parameters
    ----------
    grid
        Where the tiles lie; they may overlap, and are averaged where they do.
    values
        (N,) one value a tile, e.g. ranks.
    max_side_px
        Longest side of the picture: it bounds the memory.

    Returns
    -------
    ndarray
        (h, w) float32, nan where there is no tile.

    Raises
    ------
    ValueError
        If the values are not one finite number a tile.
    """
    check_scores(values)
    if len(values) != len(grid):
        raise ValueError(f"{len(values)} values for {len(grid)} tiles")
    width, height = grid.slide_size
    scale = min(1.0, max_side_px / max(width, height))
    shape = (max(1, math.ceil(height * scale)), max(1, math.ceil(width * scale)))
    sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    low = np.floor(grid.coordinates * scale).astype(np.int64)
    high = np.maximum(np.floor((grid.coordinates + grid.side) * scale).astype(np.int64), low + 1)
    for (x0, y0), (x1, y1), value in zip(low, high, values, strict=True):
        sums[y0:y1, x0:x1] += value
        counts[y0:y1, x0:x1] += 1
    found = np.full(shape, np.nan, np.float32)
    np.divide(sums, counts, out=found, where=counts > 0)
    return found


def colour_map(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours of values in [0, 1] on a scale of rising lightness; nan is black.

    Returns
    -------
    ndarray
        (h, w, 3) uint8 RGB. The scale (viridis) keeps its order for the colour-blind and in grey.
    """
    levels = np.nan_to_num(np.clip(values, 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    colours[np.isnan(values)] = 0
    return np.asarray(colours, np.uint8)


def overlay(
    overview: NDArray[np.uint8], values: NDArray[np.float32], *, opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """Lay a map over the slide's overview.

    Parameters
    ----------
    overview
        (H, W, 3) uint8 RGB of the whole slide.
    values
        (h, w) in [0, 1], nan where the slide is to be seen as it is.
    opacity
        Weight of the colour in [0, 1].

    Returns
    -------
    ndarray
        (H, W, 3) uint8 RGB.
    """
    height, width = overview.shape[:2]
    fitted = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST)
    colours = colour_map(fitted.astype(np.float32))
    mixed = cv2.addWeighted(overview, 1 - opacity, colours, opacity, 0)
    return np.where(np.isnan(fitted)[..., np.newaxis], overview, mixed).astype(np.uint8)
