import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.errors import ImageError
from models.segmentation import (
    MAX_OUTLINE_POINTS,
    find_lesion,
    largest_part,
    measure_region,
)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def ellipse(shape: tuple[int, int], axes: tuple[int, int], degrees: float) -> np.ndarray:
    image = np.zeros(shape, np.uint8)
    centre = (shape[1] // 2, shape[0] // 2)
    return cv2.ellipse(image, centre, axes, degrees, 0, 360, 1, -1).astype(bool)


def components(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1


def has_hole(mask: np.ndarray) -> bool:
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    return cv2.connectedComponents(outside, connectivity=8)[0] - 1 > 1


def test_a_disc_measures_as_a_disc() -> None:
    region = measure_region(disc((300, 400), (150, 200), 80))
    assert region is not None
    assert region.area_px == pytest.approx(math.pi * 80**2, rel=0.01)
    assert region.perimeter_px == pytest.approx(2 * math.pi * 80, rel=0.03)
    assert region.major_axis_px == pytest.approx(160, abs=1.5)
    assert region.minor_axis_px == pytest.approx(160, abs=2.5)


@pytest.mark.parametrize("degrees", [0, 30, 90, 137])
def test_an_ellipse_has_its_two_axes_whatever_its_direction(degrees: float) -> None:
    region = measure_region(ellipse((400, 400), (120, 45), degrees))
    assert region is not None
    assert region.major_axis_px == pytest.approx(240, abs=3)
    assert region.minor_axis_px == pytest.approx(90, abs=4)


def test_a_rectangle_is_measured_between_pixel_centres() -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:21, 20:41] = True  # 11 rows, 21 columns
    region = measure_region(mask)
    assert region is not None
    corners = {tuple(point) for point in region.outline}
    assert corners == {(10, 20), (10, 40), (20, 40), (20, 20)}
    assert region.area_px == 11 * 21
    assert region.perimeter_px == 2 * (10 + 20)
    assert region.major_axis_px == pytest.approx(math.hypot(10, 20))
    assert region.minor_axis_px == pytest.approx(2 * 10 * 20 / math.hypot(10, 20))


def test_the_largest_part_is_taken_and_its_holes_are_filled() -> None:
    mask = disc((200, 200), (100, 80), 50) & ~disc((200, 200), (100, 80), 15)
    mask |= disc((200, 200), (100, 180), 10)
    part = largest_part(mask)
    assert part is not None
    assert np.array_equal(part, disc((200, 200), (100, 80), 50))


def test_parts_that_touch_at_a_corner_are_two() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:4, :4] = mask[4:9, 4:9] = True
    part = largest_part(mask)
    assert part is not None
    assert part.sum() == 25


@settings(max_examples=150, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_largest_part_is_one_part_without_holes(mask: np.ndarray) -> None:
    part = largest_part(mask)
    if part is None:
        assert not mask.any()
        return
    assert components(part) == 1
    assert not has_hole(part)
    assert (part & mask).any()
    assert part.sum() >= max(
        np.count_nonzero(labels == n)
        for count, labels in [cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)]
        for n in range(1, count)
    )


@settings(max_examples=60, deadline=None)
@given(
    coarse=arrays(np.uint8, (7, 7)),
    height=st.integers(8, 500),
    width=st.integers(8, 500),
    threshold=st.floats(0.05, 0.95),
)
def test_any_map_gives_a_sound_region_or_none(
    coarse: np.ndarray, height: int, width: int, threshold: float
) -> None:
    prob = cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_CUBIC)
    region = find_lesion(prob, (height, width), threshold)
    if region is None:
        return
    assert region.mask.shape == (height, width)
    assert components(region.mask) == 1
    assert not has_hole(region.mask)
    assert region.area_px == region.mask.sum()
    outline = region.outline
    assert 4 <= len(outline) <= MAX_OUTLINE_POINTS + 1
    assert np.array_equal(outline[0], outline[-1])
    assert (outline >= 0).all()
    assert (outline <= [height - 1, width - 1]).all()
    diagonal = math.hypot(height, width)
    assert 0 < region.minor_axis_px <= region.major_axis_px + 1e-9
    assert region.major_axis_px <= diagonal
    assert region.perimeter_px >= 1.9 * region.major_axis_px - 4
    steps = np.linalg.norm(np.diff(outline, axis=0), axis=1)
    assert region.perimeter_px == pytest.approx(steps.sum())


@pytest.mark.parametrize(
    "prob",
    [np.zeros((224, 224), np.uint8), np.full((224, 224), 127, np.uint8)],
    ids=["nothing", "below the threshold"],
)
def test_no_lesion_is_none(prob: np.ndarray) -> None:
    assert find_lesion(prob, (600, 800), 0.5) is None


def test_a_speck_is_no_lesion() -> None:
    prob = np.zeros((224, 224), np.uint8)
    prob[100:104, 100:104] = 255
    assert find_lesion(prob, (600, 800), 0.5) is None


def test_a_lesion_that_fills_the_image_is_outlined_along_its_border() -> None:
    region = find_lesion(np.full((224, 224), 255, np.uint8), (60, 90), 0.5)
    assert region is not None
    assert region.mask.all()
    assert {tuple(p) for p in region.outline} == {(0, 0), (0, 89), (59, 89), (59, 0)}


def test_a_line_has_no_outline() -> None:
    mask = np.zeros((50, 50), bool)
    mask[25, 5:45] = True
    assert measure_region(mask) is None
    assert measure_region(np.zeros((5, 5), bool)) is None


def test_a_ragged_large_outline_is_simplified_but_stays_close() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (60, 60)).astype(np.uint8)
    rows, columns = np.mgrid[:60, :60]
    coarse[np.hypot(rows - 30, columns - 30) < 18] = 255
    coarse[np.hypot(rows - 30, columns - 30) > 26] = 0
    prob = cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_LINEAR)
    region = find_lesion(prob, (1500, 2000), 0.5)
    assert region is not None
    assert len(region.outline) <= MAX_OUTLINE_POINTS + 1
    drawn = np.zeros(region.mask.shape, np.uint8)
    points = np.round(region.outline[:, ::-1]).astype(np.int32)
    cv2.fillPoly(drawn, [points], 1)
    common = np.count_nonzero(drawn.astype(bool) & region.mask)
    assert common / np.count_nonzero(drawn.astype(bool) | region.mask) > 0.9


def test_a_wrong_map_is_an_error() -> None:
    with pytest.raises(ImageError):
        find_lesion(np.zeros((224, 224), np.float64), (10, 10), 0.5)  # type: ignore[arg-type]
