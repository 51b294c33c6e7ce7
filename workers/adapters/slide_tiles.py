"""Which frames of a level lie under a rectangle of its total pixel matrix."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class PlacedFrame(NamedTuple):
    """A frame and the pixel of the matrix at which its upper left corner lies."""

    number: int
    column: int
    row: int


class TileIndex(Protocol):
    """Looks frames up."""

    def under(self, x0: int, y0: int, x1: int, y1: int) -> list[PlacedFrame]:
        """Return the frames that overlap columns x0 to x1 and rows y0 to y1 (ends not included).

        The rectangle lies within the matrix; frames come in the order in which they are painted.
        """


class FullGrid:
    """TILED_FULL: every tile is there, row by row from the upper left (PS3.3 C.7.6.17.3).

    Parameters
    ----------
    width
        Columns of the matrix.
    tile
        (width, height) of a frame in pixels.
    first
        Number of the frame at the upper left: other focal planes and optical paths come before.
    """

    def __init__(self, *, width: int, tile: tuple[int, int], first: int = 0) -> None:
        self._tile = tile
        self._across = -(-width // tile[0])
        self._first = first

    def under(self, x0: int, y0: int, x1: int, y1: int) -> list[PlacedFrame]:
        """Return the frames that overlap a rectangle."""
        width, height = self._tile
        return [
            PlacedFrame(self._first + row * self._across + column, column * width, row * height)
            for row in range(y0 // height, (y1 - 1) // height + 1)
            for column in range(x0 // width, (x1 - 1) // width + 1)
        ]


class PlacedTiles:
    """TILED_SPARSE: frames anywhere, some cells empty; a later frame lies over an earlier one.

    Parameters
    ----------
    numbers, columns, rows
        (F,) frame numbers and the pixels of their upper left corners.
    tile
        (width, height) of a frame in pixels.
    """

    def __init__(
        self,
        numbers: NDArray[np.int64],
        columns: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        tile: tuple[int, int],
    ) -> None:
        self._tile = tile
        # A frame is filed under the cell of its corner; one that is off the grid reaches into
        # the next cell as well, so a look-up begins one cell earlier.
        keys = (rows // tile[1]) * _STRIDE + columns // tile[0]
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._numbers, self._columns, self._rows = numbers[order], columns[order], rows[order]
        off_grid = bool(((rows % tile[1]) | (columns % tile[0])).any())
        self._reach = 1 if off_grid else 0

    def under(self, x0: int, y0: int, x1: int, y1: int) -> list[PlacedFrame]:
        """Return the frames that overlap a rectangle."""
        width, height = self._tile
        found: list[PlacedFrame] = []
        left, right = x0 // width - self._reach, (x1 - 1) // width
        for row in range(y0 // height - self._reach, (y1 - 1) // height + 1):
            low, high = np.searchsorted(
                self._keys, (row * _STRIDE + left, row * _STRIDE + right + 1)
            )
            found += [
                PlacedFrame(int(self._numbers[at]), int(self._columns[at]), int(self._rows[at]))
                for at in range(low, high)
            ]
        return sorted(
            each for each in found if x0 - width < each.column < x1 and y0 - height < each.row < y1
        )


_STRIDE = 1 << 32  # above any column of cells, negative ones included
