from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from highdicom.spatial import ImageToReferenceTransformer, PixelToReferenceTransformer
from pydicom import Dataset

from reports.slide.geometry import SlidePlane, slide_plane, whole
from tests.unit.reports.slide import slide_builders as builders

ORIENTATIONS = [
    builders.TURNED,
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    (0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
    (math.cos(0.3), math.sin(0.3), 0.0, math.sin(0.3), -math.cos(0.3), 0.0),
]


def plane(**header: Any) -> SlidePlane:
    found = slide_plane(builders.header(**header))
    assert found is not None
    return found


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_lie_where_highdicom_puts_them(orientation: tuple[float, ...]) -> None:
    spacing = Dataset()
    spacing.PixelSpacing = [0.0004, 0.0005]  # rows and columns differ
    groups = Dataset()
    groups.PixelMeasuresSequence = [spacing]
    found = plane(orientation=orientation, SharedFunctionalGroupsSequence=[groups])
    points = np.array([(0, 0), (0.5, 0.5), (12_288, 0), (17.25, 8191.75)])
    oracle = ImageToReferenceTransformer(
        image_position=(*builders.ORIGIN_MM, 0.0),
        image_orientation=orientation,
        pixel_spacing=(0.0004, 0.0005),
    )
    assert found.to_mm(points) == pytest.approx(oracle(points), abs=1e-9)


def test_columns_run_along_minus_y_on_a_usual_slide() -> None:
    found = plane()
    (centre, right, below) = found.to_mm(np.array([(0.5, 0.5), (2.5, 0.5), (0.5, 2.5)]))
    assert centre == pytest.approx((*builders.ORIGIN_MM, 0))
    assert right - centre == pytest.approx((0, -0.001, 0))
    assert below - centre == pytest.approx((-0.001, 0, 0))


@pytest.mark.parametrize("orientation", ORIENTATIONS[:3])
def test_pixels_of_a_coarser_matrix_cover_those_they_stand_for(
    orientation: tuple[float, ...],
) -> None:
    fine = plane(orientation=orientation)
    coarse = fine.coarser((512, 512), (24, 16))
    oracle = PixelToReferenceTransformer(
        image_position=coarse.origin_mm,
        image_orientation=coarse.orientation,
        pixel_spacing=coarse.spacing_mm,
    )
    middle_of_tile = fine.to_mm(np.array([(512 * 3 + 256, 512 * 7 + 256)]))
    assert oracle(np.array([(3, 7)])) == pytest.approx(middle_of_tile, abs=1e-9)
    assert coarse.to_mm(whole((24, 16))) == pytest.approx(
        fine.to_mm(whole((12_288, 8_192))), abs=1e-9
    )


@pytest.mark.parametrize(
    "header",
    [
        {"um_px": None},
        {"um_px": 0.0},
        {"um_px": -0.5},
        {"um_px": 1e8},
        {"orientation": None},
        {"orientation": (0, 0, 0, 0, 0, 0)},
        {"orientation": (1, 0, 0, 1, 0, 0)},
        {"orientation": (1, 0, 0)},
        {"without": ("FrameOfReferenceUID",)},
        {"without": ("TotalPixelMatrixColumns",)},
        {"TotalPixelMatrixRows": 0},
    ],
)
def test_place_is_never_guessed(header: dict[str, Any]) -> None:
    assert slide_plane(builders.header(**header)) is None


@pytest.mark.parametrize(
    "header",
    [{"origin": None}, *({"TotalPixelMatrixOriginSequence": x} for x in ([], [Dataset()]))],
)
def test_missing_origin_is_zero_and_said(header: dict[str, Any]) -> None:
    found = plane(**header)
    assert not found.is_placed
    assert not found.coarser((2, 2), (10, 10)).is_placed
    assert found.origin_mm == (0, 0, 0)
    assert plane().is_placed


def test_spacing_may_stand_in_the_first_frame() -> None:
    ds = builders.header()
    ds.PerFrameFunctionalGroupsSequence = ds.SharedFunctionalGroupsSequence
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    found = slide_plane(ds)
    assert found is not None
    assert found.spacing_mm == (0.0005, 0.0005)
