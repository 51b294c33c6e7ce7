from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import report_builders as builders

from reports import coding
from reports.errors import ResultError
from reports.outline import MAX_VERTICES, graphic_data, image_rectangle, lesion_sizes


def test_outline_counts_from_the_corner_and_in_columns_and_rows() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 6:12] = True
    points = graphic_data(builders.region(mask))
    assert points.dtype == np.float32
    assert points.min(axis=0).tolist() == [6.5, 2.5]
    assert points.max(axis=0).tolist() == [11.5, 4.5]
    assert np.array_equal(points[0], points[-1])


def test_ragged_border_is_simplified_and_keeps_its_shape() -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros((3000, 4000), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
    radius = 1200 + rng.normal(0, 6, angles.size)
    ring = np.stack([2000 + radius * np.cos(angles), 1500 + radius * np.sin(angles)], axis=1)
    cv2.fillPoly(mask, [ring.astype(np.int32)], 1)
    region = builders.region(mask.astype(bool))
    assert len(region.outline) > 8191  # more than Graphic Data holds
    points = graphic_data(region)
    assert len(points) <= MAX_VERTICES
    drawn = np.zeros_like(mask)
    cv2.fillPoly(drawn, [np.round(points - 0.5).astype(np.int32)], 1)
    overlap = 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum())
    assert overlap > 0.99


def test_outline_stays_inside_the_image() -> None:
    points = graphic_data(builders.region(np.ones((10, 20), bool)))
    assert points.min() >= 0
    assert points[:, 0].max() <= 20
    assert points[:, 1].max() <= 10


@pytest.mark.parametrize(
    "outline",
    [np.zeros((3, 2)), np.zeros((5, 3)), np.full((5, 2), np.nan), np.arange(10.0).reshape(5, 2)],
)
def test_broken_outline_is_refused(outline: np.ndarray) -> None:
    region = replace(builders.region(builders.ellipse((20, 30))), outline=outline)
    with pytest.raises(ResultError):
        graphic_data(region)


def test_rectangle_covers_the_image() -> None:
    assert image_rectangle((10, 20)).tolist() == [[0, 0], [20, 0], [20, 10], [0, 10], [0, 0]]
    assert image_rectangle(None).max() == 1


def rectangle_region() -> builders.LesionRegion:
    outline = np.array([[0, 0], [0, 40], [30, 40], [30, 0], [0, 0]], float)
    mask = np.zeros((60, 60), bool)
    mask[:30, :40] = True
    return builders.LesionRegion(
        mask=mask,
        outline=outline,
        area_px=1200.0,
        perimeter_px=140.0,
        major_axis_px=50.0,
        minor_axis_px=48.0,
    )


def test_uncalibrated_sizes_stay_in_pixels() -> None:
    sizes = lesion_sizes(rectangle_region(), None)
    assert [size.value for size in sizes] == [50.0, 48.0, 1200.0, 140.0]
    assert {size.unit for size in sizes} == {coding.PIXELS}


def test_square_pixels_scale_every_size() -> None:
    sizes = lesion_sizes(rectangle_region(), (0.1, 0.1))
    assert [size.value for size in sizes] == pytest.approx([5.0, 4.8, 12.0, 14.0])
    assert sizes[2].unit == coding.SQUARE_MILLIMETRE


def test_pixels_that_are_not_square_are_measured_in_millimetres() -> None:
    # 30 rows of 0.2 mm and 40 columns of 0.1 mm: a rectangle of 6 x 4 mm.
    major, minor, area, perimeter = lesion_sizes(rectangle_region(), (0.2, 0.1))
    assert major.value == pytest.approx(np.hypot(6, 4))
    assert minor.value == pytest.approx(2 * 6 * 4 / np.hypot(6, 4))
    assert area.value == pytest.approx(24.0)
    assert perimeter.value == pytest.approx(20.0)


def test_size_that_is_no_number_is_refused() -> None:
    region = replace(rectangle_region(), area_px=float("nan"))
    with pytest.raises(ResultError):
        lesion_sizes(region, None)
