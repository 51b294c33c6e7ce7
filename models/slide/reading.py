"""How the pixels of a slide become its overview and its tiles: one way for training and serving.

Where the pixels come from is the reader's matter (``training.slide.readers``, ``workers``).
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from models.slide.tiles import SlideGeometry, TileGrid, plan_read, read_size, resample_tile
from models.slide.tissue import OVERVIEW_UM_PX

MAX_OVERVIEW_PX = 16_000_000  # 48 MB; larger slides get a coarser overview
BLOCK_PX = 2048  # side of what is read at once for an overview
WHITE = 255


class SlideReader(Protocol):
    """A slide whose rectangles can be read."""

    @property
    def um_px(self) -> float:
        """Resolution of level 0 in micrometres per pixel; ``SlideError`` where unknown."""

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level in pixels, finest first."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a rectangle of a level, (height, width, 3) uint8 RGB.

        ``x`` and ``y`` are pixels of that level; what lies off the slide is white.
        """


def geometry_of(reader: SlideReader) -> SlideGeometry:
    """Resolution and levels of a slide.

    Raises
    ------
    SlideError
        If its spacing is missing or implausible.
    """
    return SlideGeometry(um_px=reader.um_px, sizes=reader.sizes)


def read_overview(
    reader: SlideReader, *, um_px: float = OVERVIEW_UM_PX
) -> tuple[NDArray[np.uint8], float]:
    """Read the whole slide at a low resolution, block by block.

    Parameters
    ----------
    reader
        The slide.
    um_px
        Wanted resolution; coarser where the overview would exceed ``MAX_OVERVIEW_PX``.

    Returns
    -------
    overview
        (H, W, 3) uint8 RGB.
    um_px
        Its resolution in micrometres per pixel.

    Raises
    ------
    SlideError
        If the spacing is missing or implausible.

    Notes
    -----
    What the reader raises for a block that cannot be decoded passes through.
    """
    geometry = geometry_of(reader)
    width, height = geometry.sizes[0]
    largest = max(um_px, geometry.um_px * (width * height / MAX_OVERVIEW_PX) ** 0.5, geometry.um_px)
    plan = plan_read(geometry, largest)
    across, down = geometry.sizes[plan.level]
    shape = (max(1, round(down / plan.factor)), max(1, round(across / plan.factor)))
    overview = np.empty((*shape, 3), np.uint8)
    step = max(1, int(BLOCK_PX / plan.factor))
    rows, columns = down / shape[0], across / shape[1]
    for top in range(0, shape[0], step):
        for left in range(0, shape[1], step):
            bottom, right = min(top + step, shape[0]), min(left + step, shape[1])
            x0, y0 = round(left * columns), round(top * rows)
            x1, y1 = max(round(right * columns), x0 + 1), max(round(bottom * rows), y0 + 1)
            block = reader.read(plan.level, x0, y0, x1 - x0, y1 - y0)
            overview[top:bottom, left:right] = cv2.resize(
                block, (right - left, bottom - top), interpolation=cv2.INTER_AREA
            )
    return overview, geometry.um_px * width / shape[1]


def read_tile(reader: SlideReader, grid: TileGrid, index: int) -> NDArray[np.uint8]:
    """Read one tile of a grid.

    Returns
    -------
    ndarray
        (tile_px, tile_px, 3) uint8 RGB; white where the tile lies off the slide.

    Notes
    -----
    What the reader raises for pixels that cannot be decoded passes through.
    """
    level, side = grid.plan.level, read_size(grid)
    scale = reader.sizes[0][0] / reader.sizes[level][0]
    x, y = (round(float(value) / scale) for value in grid.coordinates[index])
    return resample_tile(reader.read(level, x, y, side, side), grid.tile_px)
