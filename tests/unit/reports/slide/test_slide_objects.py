from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset

from models.slide.attention import percentile_ranks
from models.slide.tiles import SlideGeometry
from reports.encode import ReportObject, encode
from reports.panel import PICTURE_SIZE
from reports.slide.attention_map import LEVELS, rank_matrix
from reports.slide.sheet import draw_sheet
from reports.slide.slides import read_slides
from reports.slide.tiled import cut_tiles
from reports.slide.tissue_mask import tissue_matrix
from tests.unit.reports.report_builders import written
from tests.unit.reports.slide import slide_builders as builders

Validator = Callable[[Dataset], None]


def encoded(**header: Any) -> dict[str, Dataset]:
    result = builders.result(builders.assessed())
    objects = encode(result, builders.context(*builders.headers(**header)))
    return {item.role: item.dataset for item in objects}


@functools.cache
def usual() -> dict[str, Dataset]:
    """Objects of the usual slide, for tests that only look."""
    return encoded()


def mixed(**context: Any) -> list[ReportObject]:
    """Three slides: assessed, ink only, without a spacing."""
    slides = (
        builders.assessed(warnings=("The slide has pen marks",)),
        builders.not_assessed(slide=2, kind="ink"),
        builders.unreadable(slide=3),
    )
    headers = [
        *builders.headers(3, um_px=None),
        *builders.headers(1),
        *builders.headers(2),
    ]
    result = builders.result(*slides, model=builders.DEMONSTRATION)
    return encode(result, builders.context(*headers, **context))


SOURCES: dict[str, dict[str, Any]] = {
    "usual": {},
    "without a container": {
        "without": ("ContainerIdentifier", "SpecimenDescriptionSequence"),
    },
    "without an origin": {"origin": None},
    "without an orientation": {"orientation": None},
    "bare": {
        "without": (
            "PatientName",
            "PatientID",
            "AccessionNumber",
            "StudyDescription",
            "Modality",
            "Manufacturer",
            "ManufacturerModelName",
            "LossyImageCompressionRatio",
            "LossyImageCompressionMethod",
            "PositionReferenceIndicator",
        )
    },
}


@pytest.mark.parametrize("name", SOURCES)
def test_objects_of_any_slide_are_valid(
    name: str, dciodvfy: Validator, strictly_valid: Validator
) -> None:
    objects = encoded(**SOURCES[name])
    expected = (
        ["sr", "qc-1"] if name == "without an orientation" else ["sr", "seg-1", "map-1", "qc-1"]
    )
    assert list(objects) == expected
    for ds in objects.values():
        strictly_valid(ds)
        dciodvfy(ds)


def test_objects_of_several_slides_are_valid_and_distinct(
    dciodvfy: Validator, strictly_valid: Validator
) -> None:
    objects = mixed(generation=2)
    assert [item.role for item in objects] == [
        "sr",
        "sr-2",
        "sr-3",
        "seg-1",
        "map-1",
        "qc-1",
        "qc-2",
        "qc-3",
    ]
    for item in objects:
        strictly_valid(item.dataset)
        dciodvfy(item.dataset)
    datasets = [item.dataset for item in objects]
    assert len({ds.SOPInstanceUID for ds in datasets}) == len(objects)
    assert len({(ds.SeriesInstanceUID, ds.InstanceNumber) for ds in datasets}) == len(objects)
    numbers = {ds.SeriesInstanceUID: ds.SeriesNumber for ds in datasets}
    assert len(set(numbers.values())) == len(numbers) == 6
    for ds in datasets:
        assert ds.SeriesDescription.startswith("AI ")
        assert "rev. 2" in ds.SeriesDescription
        assert "not for diagnostic use" in ds.SeriesDescription
        assert ds.StudyInstanceUID == builders.STUDY_UID
        assert ds.PatientID == "P-4711"


def test_same_input_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [written(item.dataset).getvalue() for item in mixed()]
    random.seed(99)
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before + 1e6)
    second = [written(item.dataset).getvalue() for item in mixed()]
    assert first == second


def test_sources_are_left_as_they_were() -> None:
    headers = builders.headers()
    before = [header.to_json() for header in headers]
    encode(builders.result(builders.assessed()), builders.context(*headers))
    assert [header.to_json() for header in headers] == before


def test_no_mode_of_a_viewer_takes_mask_or_map_for_an_overlay_of_a_stack() -> None:
    for role in ("seg-1", "map-1"):
        ds = usual()[role]
        assert "ReferencedSeriesSequence" not in ds  # with it, OHIF's viewer mode turns black
        (source,) = ds.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == f"{builders.STUDY_UID}.1.1"
        assert ds.FrameOfReferenceUID == f"{builders.FRAME_OF_REFERENCE_UID}.1"
        assert ds.ContainerIdentifier == "SLIDE-1"


def test_highdicom_reads_the_ranks_where_the_tiles_are() -> None:
    ds = usual()["map-1"]
    image = highdicom.imread(written(ds))
    values = image.get_total_pixel_matrix(apply_real_world_transform=True)
    assessment = builders.assessed()
    assert assessment.grid is not None
    assert assessment.attention is not None
    ranks = percentile_ranks(assessment.attention)
    columns, rows = (assessment.grid.coordinates / assessment.grid.side).astype(int).T
    assert values.shape == (32, 48)
    assert values[rows, columns] == pytest.approx(ranks, abs=1 / LEVELS)
    assert np.count_nonzero(values) == len(ranks)
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(value) for value in measures.PixelSpacing] == [0.128, 0.128]
    origin = ds.TotalPixelMatrixOriginSequence[0]  # the first tile's centre
    centre = 127.5 * 0.0005
    assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(23.449873 - centre)
    assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx(25.691574 - centre)


def test_highdicom_reads_the_tissue_without_its_holes() -> None:
    ds = usual()["seg-1"]
    read = highdicom.seg.segread(written(ds))
    mask = read.get_total_pixel_matrix(combine_segments=True).astype(bool)
    tissue = builders.assessed().tissue
    assert tissue is not None
    assert np.array_equal(mask, tissue.mask)
    assert tissue.holes.any()
    assert not mask[tissue.holes].any()
    spacing = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(value) for value in spacing] == [0.008, 0.008]


def test_frames_lie_where_their_position_says() -> None:
    ds = usual()["seg-1"]
    for groups in ds.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSlideSequence[0]
        column = place.ColumnPositionInTotalImagePixelMatrix - 0.5  # centre of the first pixel
        row = place.RowPositionInTotalImagePixelMatrix - 0.5
        x = 23.449873 - (row * 16 - 0.5) * 0.0005
        y = 25.691574 - (column * 16 - 0.5) * 0.0005
        assert float(place.XOffsetInSlideCoordinateSystem) == pytest.approx(x, abs=1e-9)
        assert float(place.YOffsetInSlideCoordinateSystem) == pytest.approx(y, abs=1e-9)


def test_empty_frames_are_left_out_but_never_all() -> None:
    matrix = np.zeros((700, 1100), np.uint8)
    assert len(cut_tiles(matrix, 512)) == 1
    matrix[600, 1050] = 1
    (tile,) = cut_tiles(matrix, 512)
    assert (tile.row, tile.column, tile.pixels.shape) == (1, 2, (512, 512))
    assert tile.pixels[600 - 512, 1050 - 1024] == 1
    assert cut_tiles(matrix[:20, :30], 512)[0].pixels.shape == (20, 30)


def test_mask_of_any_overview_falls_on_whole_pixels_of_level_0() -> None:
    tissue = builders.assessed().tissue
    assert tissue is not None
    matrix, factor = tissue_matrix(tissue, (768 * 16 - 200, 512 * 16 - 100))
    assert factor == 16  # 15.7 would drift in the microscopy viewer
    assert matrix.shape == (506, 756)
    shares = matrix.mean(), tissue.mask.mean()
    assert shares[0] == pytest.approx(shares[1], abs=0.005)


def test_tiles_of_a_fractional_step_get_a_pixel_each() -> None:
    assessment = builders.assessed(um_px=0.4673)
    assert assessment.grid is not None
    assert assessment.attention is not None
    assert assessment.geometry is not None
    matrix, step = rank_matrix(assessment.grid, assessment.geometry, assessment.attention)
    assert step == pytest.approx(256 * 0.5 / 0.4673)
    assert np.count_nonzero(matrix) == len(assessment.grid)
    assert matrix.max() == LEVELS


def test_map_of_a_huge_slide_stays_small() -> None:
    size = (100_000, 100_000)
    grid = replace(
        builders.assessed().grid,  # type: ignore[type-var]
        coordinates=np.stack(np.meshgrid(np.arange(195), np.arange(195)), -1).reshape(-1, 2) * 512,
        side=512,
        slide_size=size,
    )
    geometry = SlideGeometry(um_px=0.25, sizes=(size,))
    matrix, _ = rank_matrix(grid, geometry, np.arange(195 * 195, dtype=np.float32))
    assert matrix.shape == (195, 195)


@pytest.mark.parametrize("kind", ["assessed", "blank", "ink", "unreadable"])
def test_sheet_keeps_its_corner_free_and_says_what_it_is(kind: str) -> None:
    made = {
        "assessed": builders.assessed(),
        "blank": builders.not_assessed(kind="blank"),
        "ink": builders.not_assessed(kind="ink"),
        "unreadable": builders.unreadable(),
    }[kind]
    result = builders.result(made, model=builders.DEMONSTRATION)
    (slide,) = read_slides(result, builders.context(*builders.headers()))
    picture = draw_sheet(slide, result)
    assert picture.shape == (*PICTURE_SIZE, 3)
    corner = picture[:64, :60]
    assert (corner == corner[0, 0]).all()
    assert (corner[0, 0] == (250, 196, 80)).all()  # the banner of a demonstration model
    assert np.ptp(picture[64:, :1280].astype(int)) > 100
    assert np.ptp(picture[:, 1328:1872].astype(int)) > 100


def test_sheet_of_a_slide_without_attention_does_not_say_that_there_is_no_result() -> None:
    made = replace(builders.assessed(), attention=None, top=())
    result = builders.result(made)
    (slide,) = read_slides(result, builders.context(*builders.headers()))
    picture = draw_sheet(slide, result)
    assert not (picture[920:, :1280] == (250, 196, 80)).all(axis=2).any()
    objects = encode(result, builders.context(*builders.headers()))
    assert [item.role for item in objects] == ["sr", "seg-1", "qc-1"]


def test_sheet_marks_tissue_holes_and_ink() -> None:
    result = builders.result(builders.assessed())
    (slide,) = read_slides(result, builders.context(*builders.headers()))
    picture = draw_sheet(slide, result)[80:860, :640]
    for colour in ((0, 229, 255), (255, 214, 10), (255, 0, 200)):
        assert (picture == colour).all(axis=2).sum() > 50


@pytest.mark.parametrize("size", [(40_960, 1_024), (1_024, 40_960)])
def test_sheet_and_objects_of_a_strip(size: tuple[int, int], strictly_valid: Validator) -> None:
    result = builders.result(builders.assessed(size=size, top=12))
    headers = [builders.header(number=n, size=size) for n in (1, 2)]
    for item in encode(result, builders.context(*headers)):
        strictly_valid(item.dataset)


def test_names_and_reasons_of_any_length_and_letters_are_written(
    strictly_valid: Validator,
) -> None:
    long = "Sehr ungewöhnliche Läsion mit 非常に長い名前 " * 20
    result = builders.result(
        builders.assessed(warnings=(long,) * 12),
        builders.not_assessed(slide=2, reasons=(long,) * 30),
        labels={"tumour": long, "normal": ""},
        threshold_meaning=long,
        model=replace(builders.MODEL, name=long, evidence=long, licence=long),
    )
    headers = [*builders.headers(1), *builders.headers(2)]
    for item in encode(result, builders.context(*headers)):
        strictly_valid(item.dataset)
