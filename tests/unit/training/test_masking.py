import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pretraining.masking import MAX_FAILED_ROUNDS, TRIES, block_mask, random_mask


@st.composite
def grids_and_counts(draw: st.DrawFn) -> tuple[tuple[int, int], int]:
    grid = (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    return grid, draw(st.integers(0, grid[0] * grid[1]))


def naive_block_mask(
    rng: np.random.Generator, grid: tuple[int, int], count: int, min_block: int
) -> set[tuple[int, int]]:
    """The same draws, with sets of cells instead of slices of an array."""
    masked: set[tuple[int, int]] = set()
    failed = 0
    while len(masked) < count and failed < MAX_FAILED_ROUNDS:
        for _ in range(TRIES):
            left_over = count - len(masked)
            area = rng.uniform(min(min_block, left_over), max(min_block, left_over))
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < 1 or width < 1 or height > grid[0] or width > grid[1]:
                continue
            top, left = rng.integers(grid[0] - height + 1), rng.integers(grid[1] - width + 1)
            cells = {(top + y, left + x) for y in range(height) for x in range(width)} - masked
            if 1 <= len(cells) <= left_over:
                masked |= cells
                failed = 0
                break
        else:
            failed += 1
    free = [(y, x) for y in range(grid[0]) for x in range(grid[1]) if (y, x) not in masked]
    if len(masked) < count:
        chosen = rng.choice([y * grid[1] + x for y, x in free], count - len(masked), replace=False)
        masked |= {divmod(int(cell), grid[1]) for cell in chosen}
    return masked


@settings(max_examples=150, deadline=None)
@given(grids_and_counts(), st.integers(1, 64), st.integers(0, 2**32))
def test_block_mask_has_the_exact_count_and_equals_its_naive_twin(
    case: tuple[tuple[int, int], int], min_block: int, seed: int
) -> None:
    grid, count = case
    mask = block_mask(np.random.default_rng(seed), grid=grid, count=count, min_block=min_block)
    assert mask.shape == grid
    assert mask.dtype == np.bool_
    assert mask.sum() == count
    twin = naive_block_mask(np.random.default_rng(seed), grid, count, min_block)
    assert {(int(y), int(x)) for y, x in np.argwhere(mask)} == {(int(y), int(x)) for y, x in twin}


@given(grids_and_counts(), st.integers(0, 2**32))
def test_random_mask_has_the_exact_count(case: tuple[tuple[int, int], int], seed: int) -> None:
    grid, count = case
    mask = random_mask(np.random.default_rng(seed), grid=grid, count=count)
    assert mask.shape == grid
    assert mask.sum() == count


def neighbour_pairs(mask: np.ndarray) -> int:
    return int((mask[1:] & mask[:-1]).sum() + (mask[:, 1:] & mask[:, :-1]).sum())


def test_blocks_hang_together_and_random_patches_do_not() -> None:
    rng = np.random.default_rng(0)
    blocks = [neighbour_pairs(block_mask(rng, grid=(14, 14), count=98)) for _ in range(40)]
    single = [neighbour_pairs(random_mask(rng, grid=(14, 14), count=98)) for _ in range(40)]
    assert np.mean(single) == pytest.approx(2 * 14 * 13 * 98 * 97 / (196 * 195), rel=0.05)
    assert min(blocks) > max(single)


def test_every_patch_is_masked_now_and_then_under_both_modes() -> None:
    rng = np.random.default_rng(1)
    for draw in (block_mask, random_mask):
        share = np.mean([draw(rng, grid=(14, 14), count=98) for _ in range(300)], axis=0)
        assert share.min() > 0.01  # blocks seldom reach into a corner
        assert share.mean() == pytest.approx(0.5)


@pytest.mark.parametrize("count", [-1, 17])
def test_a_count_that_does_not_fit_is_refused(count: int) -> None:
    for draw in (block_mask, random_mask):
        with pytest.raises(ValueError, match="cannot be masked in a grid of 4 x 4"):
            draw(np.random.default_rng(0), grid=(4, 4), count=count)


def test_a_grid_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="grid of 0 x 4"):
        block_mask(np.random.default_rng(0), grid=(0, 4), count=0)
