"""Masks of patches for masked latent alignment: an exact count, in blocks or one by one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MIN_BLOCK = 16  # patches of the smallest rectangle (BEiT and CAE)
ASPECTS = (0.3, 1 / 0.3)  # height over width of a rectangle (BEiT and CAE)
TRIES = 10  # rectangles drawn until one fits
MAX_FAILED_ROUNDS = 10
"""Rounds of ``TRIES`` without a fitting rectangle before the rest is masked one by one. Towards
the end only rectangles that lie mostly on masked patches fit, which could take for ever."""


def block_mask(
    rng: np.random.Generator, *, grid: tuple[int, int], count: int, min_block: int = MIN_BLOCK
) -> NDArray[np.bool_]:
    """Mask rectangles until exactly ``count`` patches are masked.

    A rectangle has an area uniform between ``min_block`` and what is still to be masked, a
    log-uniform aspect and a uniform place. It is taken if it newly masks at least one patch and
    not too many.

    Parameters
    ----------
    rng
        Decides everything.
    grid
        Rows and columns of patches, each at least 1.
    count
        Patches to mask, from 0 to all of them.
    min_block
        Patches of the smallest rectangle.

    Returns
    -------
    ndarray
        (rows, columns) bool, true where masked.

    Raises
    ------
    ValueError
        If the count does not fit the grid.

    References
    ----------
    Bao et al., BEiT, ICLR 2022, algorithm 1; the exact count and the aspect as in CAE v2, 2023.
    """
    _check(grid, count)
    masked = np.zeros(grid, np.bool_)
    remaining, failed_rounds = count, 0
    while remaining and failed_rounds < MAX_FAILED_ROUNDS:
        for _ in range(TRIES):
            block = _draw_block(rng, grid, remaining, min_block)
            new = 0 if block is None else int((~masked[block]).sum())
            if block is not None and 1 <= new <= remaining:
                masked[block] = True
                remaining -= new
                failed_rounds = 0
                break
        else:
            failed_rounds += 1
    if remaining:
        left = rng.choice(np.flatnonzero(~masked), remaining, replace=False)
        masked.reshape(-1)[left] = True
    return masked


def random_mask(
    rng: np.random.Generator, *, grid: tuple[int, int], count: int
) -> NDArray[np.bool_]:
    """Mask exactly ``count`` patches, each set of them equally likely.

    Parameters, result and errors are those of ``block_mask``.
    """
    _check(grid, count)
    masked = np.zeros(grid, np.bool_)
    masked.reshape(-1)[rng.choice(masked.size, count, replace=False)] = True
    return masked


def _draw_block(
    rng: np.random.Generator, grid: tuple[int, int], remaining: int, min_block: int
) -> tuple[slice, slice] | None:
    """Draw one rectangle, or None where it is larger than the grid."""
    area = rng.uniform(min(min_block, remaining), max(min_block, remaining))
    aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (1 <= height <= grid[0] and 1 <= width <= grid[1]):
        return None
    top = int(rng.integers(grid[0] - height + 1))
    left = int(rng.integers(grid[1] - width + 1))
    return slice(top, top + height), slice(left, left + width)


def _check(grid: tuple[int, int], count: int) -> None:
    if min(grid) < 1 or not 0 <= count <= grid[0] * grid[1]:
        raise ValueError(f"{count} patches cannot be masked in a grid of {grid[0]} x {grid[1]}")
