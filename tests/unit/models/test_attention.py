import numpy as np
import pytest

from models.slide.attention import attention_map, colour_map, overlay, percentile_ranks
from models.slide.tiles import ReadPlan, TileGrid


def grid(coordinates, side=100, size=(1000, 600)):
    return TileGrid(
        coordinates=np.array(coordinates, np.int64).reshape(-1, 2),
        side=side,
        tile_px=100,
        plan=ReadPlan(level=0, factor=1.0, um_px=0.5),
        slide_size=size,
    )


def test_ranks_equal_a_naive_twin():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 60).astype(float)
    naive = [(np.sum(scores < s) + (np.sum(scores == s) + 1) / 2) / len(scores) for s in scores]
    np.testing.assert_allclose(percentile_ranks(scores), naive)
    assert percentile_ranks(np.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="finite"):
        percentile_ranks(np.array([1.0, np.inf]))


def test_ranks_say_nothing_about_the_level():
    scores = np.array([-3.0, 0.5, 2.0])
    assert (percentile_ranks(scores) == percentile_ranks(1000 + 5 * scores)).all()


def test_overlapping_tiles_are_averaged_and_the_rest_is_nan():
    found = attention_map(grid([(0, 0), (50, 0)]), np.array([0.2, 0.6]), max_side_px=1000)
    assert found.shape == (600, 1000)
    assert found[10, 10] == pytest.approx(0.2)
    assert found[10, 75] == pytest.approx(0.4)
    assert found[10, 120] == pytest.approx(0.6)
    assert np.isnan(found[10, 160])
    assert np.isnan(found[150, 10])


def test_the_map_is_bounded_whatever_the_slide():
    huge = grid([(0, 0), (99_000, 49_000)], side=512, size=(100_000, 50_000))
    found = attention_map(huge, np.array([0.0, 1.0]), max_side_px=500)
    assert found.shape == (250, 500)
    assert found[245, 495] == 1.0
    tiny = attention_map(grid([(500, 300)], side=1, size=(10_000, 10_000)), np.array([1.0]))
    assert np.nansum(tiny) == 1.0  # a tile never vanishes


def test_values_must_fit_the_tiles():
    with pytest.raises(ValueError, match="2 values for 1"):
        attention_map(grid([(0, 0)]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="finite"):
        attention_map(grid([(0, 0)]), np.array([np.nan]))


def test_colours_grow_lighter_and_the_slide_shows_where_there_is_no_tile():
    colours = colour_map(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)).astype(int)
    light = colours.sum(axis=2)[0]
    assert light[0] < light[1] < light[2]
    assert light[3] == 0
    slide = np.full((60, 100, 3), 77, np.uint8)
    painted = overlay(slide, attention_map(grid([(0, 0)]), np.array([1.0])))
    assert (painted[20:, 20:] == 77).all()
    assert (painted[:9, :9] != 77).any()
