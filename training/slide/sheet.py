"""The quality sheet of a slide: what was taken for tissue, for ink and for tiles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.slide.tiles import TileGrid
from models.slide.tissue import Tissue

MIN_SIDE_PX, MAX_SIDE_PX = 700, 1600
LINE_PX = 24
TISSUE, HOLE, INK, TILE = (0, 150, 0), (200, 0, 0), (0, 60, 255), (90, 90, 90)
LEGEND = (("tissue", TISSUE), ("hole", HOLE), ("ink", INK), ("tile", TILE))


def draw_sheet(
    overview: NDArray[np.uint8], tissue: Tissue, grid: TileGrid, facts: Sequence[str]
) -> NDArray[np.uint8]:
    """Draw the slide as it is and, beside it, with the outlines and the tiles.

    Parameters
    ----------
    overview
        (H, W, 3) uint8 RGB of the whole slide.
    tissue
        What was found on it.
    grid
        The tiles that were kept.
    facts
        Lines of text below.

    Returns
    -------
    ndarray
        (h, w, 3) uint8 RGB.
    """
    longer = max(overview.shape[:2])
    scale = max(1.0, MIN_SIDE_PX / longer) if longer < MAX_SIDE_PX else MAX_SIDE_PX / longer
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    plain = np.asarray(cv2.resize(overview, size, interpolation=cv2.INTER_AREA), np.uint8)
    drawn = plain.copy()
    _draw_tiles(drawn, grid)
    for mask, colour in ((tissue.outer, TISSUE), (tissue.holes, HOLE), (tissue.ink, INK)):
        large = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, outlines, -1, colour, 2)
    gap = np.full((size[1], 12, 3), 255, np.uint8)
    pair = np.hstack([plain, gap, drawn])
    width = max(pair.shape[1], 980)
    sheet = np.full((pair.shape[0] + LINE_PX * (len(facts) + 1) + 12, width, 3), 255, np.uint8)
    sheet[: pair.shape[0], : pair.shape[1]] = pair
    for number, line in enumerate(facts):
        _write(sheet, line, 8, pair.shape[0] + LINE_PX * (number + 1), (0, 0, 0))
    for number, (name, colour) in enumerate(LEGEND):
        _write(sheet, name, 8 + 110 * number, pair.shape[0] + LINE_PX * (len(facts) + 1), colour)
    return sheet


def _draw_tiles(drawn: NDArray[np.uint8], grid: TileGrid) -> None:
    scale = np.array([drawn.shape[1], drawn.shape[0]]) / grid.slide_size
    low = np.rint(grid.coordinates * scale).astype(int)
    high = np.rint((grid.coordinates + grid.side) * scale).astype(int) - 1
    for (x0, y0), (x1, y1) in zip(low, high, strict=True):
        cv2.rectangle(drawn, (int(x0), int(y0)), (int(x1), int(y1)), TILE, 1)


def _write(
    sheet: NDArray[np.uint8], text: str, x: int, y: int, colour: tuple[int, int, int]
) -> None:
    plain = text.encode("ascii", "replace").decode()  # the drawing font has no other letters
    cv2.putText(sheet, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
