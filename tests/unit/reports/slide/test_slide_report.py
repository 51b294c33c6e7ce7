from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset

from models.slide.result import SlideAssessment
from reports.encode import encode
from reports.errors import ResultError, SourceError
from reports.slide import codes
from reports.slide.report import slide_groups, subject
from reports.slide.slides import read_slides
from tests.unit.reports.report_builders import written
from tests.unit.reports.report_content import children, coded, numbers, texts
from tests.unit.reports.slide import slide_builders as builders


def groups(
    *slides: SlideAssessment, headers: list[Dataset] | None = None, **result: Any
) -> list[Dataset]:
    """The measurement groups alone: pictures cost most of an encoding, and are not looked at."""
    slides = slides or (builders.assessed(),)
    headers = headers or builders.headers()
    found = builders.result(*slides, **result)
    read = read_slides(found, builders.context(*headers))
    return [group for slide in read for group in slide_groups(slide, found)]


def finding(item: Dataset) -> str:
    (child,) = children(item, "Finding")
    return str(child.ConceptCodeSequence[0].CodeValue)


def region(item: Dataset) -> Dataset:
    (found,) = children(item, "Image Region")
    return found


def corners(item: Dataset) -> np.ndarray:
    return np.array(region(item).GraphicData).reshape(-1, 3)


def test_slide_is_called_on_its_largest_part_then_come_parts_and_tiles() -> None:
    found = groups()
    assert [finding(item) for item in found] == [
        "AI_POSITIVE",
        "TISSUE_PART",
        *[f"TILE_{place}" for place in range(1, 7)],
    ]
    assert {item.ContentTemplateSequence[0].TemplateIdentifier for item in found} == {"1410"}
    uids = [children(item, "Tracking Unique Identifier")[0].UID for item in found]
    assert len(set(uids)) == len(uids)  # OHIF joins groups of one UID


def test_figures_of_the_slide() -> None:
    call = groups()[0]
    assert numbers(call)[:4] == [
        ("Prob. Metastasis", 93.2, "%"),
        ("Prob. Normal tissue", 6.8, "%"),
        ("Threshold for positive", 50.0, "%"),
        ("Tiles assessed", 578.0, "{tiles}"),
    ]
    assert coded(call, "Most likely class") == "Metastasis"
    assert coded(call, "Positive by threshold") == "Yes"
    assert coded(call, "Assessment status") == "Assessed"
    assert coded(call, "Intended use").startswith("Research use only")
    assert "Metastasis 93.2 %: positive (threshold 50.0 %)" in texts(call, "Comment")[0]
    assert "Ranks hold within this slide only" in texts(call, "Assessment details")[0]


def test_several_positive_classes_are_summed() -> None:
    call = groups(positive_labels=("tumour", "normal"))[0]
    assert numbers(call)[0][0] == "Prob. of a positive class"


def test_no_measurement_is_named_area() -> None:
    named = [
        child.ConceptNameCodeSequence[0].CodeValue
        for item in groups()
        for child in item.ContentSequence
    ]
    assert "42798000" not in named  # Slim replaces the value of any measurement named so


def test_demonstration_model_says_so_where_each_viewer_shows_it() -> None:
    found = groups(model=builders.DEMONSTRATION)
    assert finding(found[0]) == "DEMO_POSITIVE"  # OHIF prints this value beside the outline
    for item in found:  # Slim lists coded evaluations, and no text
        assert coded(item, "Evidence of the model").startswith("DEMONSTRATION MODEL")
    assert texts(found[0], "Comment")[0].startswith("DEMONSTRATION MODEL")
    assert texts(found[0], "Assessment details")[0].find("DEMONSTRATION MODEL") >= 0


def test_top_tiles_are_squares_with_their_rank() -> None:
    assessment = builders.assessed()
    tiles = groups()[2:]
    assert assessment.grid is not None
    for item, top in zip(tiles, assessment.top, strict=True):
        x, y = assessment.grid.coordinates[top.number]
        points = corners(item)
        assert (points[0] == points[-1]).all()
        assert len(points) == 5
        upper_left = (
            builders.ORIGIN_MM[0] - (y - 0.5) * 0.0005,
            builders.ORIGIN_MM[1] - (x - 0.5) * 0.0005,
            0,
        )
        assert points[0] == pytest.approx(upper_left, abs=1e-5)
        sides = np.linalg.norm(np.diff(points, axis=0), axis=1)
        assert sides == pytest.approx([0.128] * 4, abs=1e-5)
        assert coded(item, "Meaning of the attention rank").startswith("Rank within this slide")
    ranks = [numbers(item)[0][1] for item in tiles]
    assert ranks[0] == 100.0
    assert ranks == sorted(ranks, reverse=True)


def test_outline_follows_the_tissue() -> None:
    assessment = builders.assessed()
    assert assessment.tissue is not None
    points = corners(groups()[0])
    # back to the overview: x of the slide runs up its rows, y along its columns, both reversed
    columns = (builders.ORIGIN_MM[1] - points[:, 1]) / 0.0005 / builders.FACTOR
    rows = (builders.ORIGIN_MM[0] - points[:, 0]) / 0.0005 / builders.FACTOR
    outline = assessment.tissue.outlines[0]
    distances = np.hypot(
        outline[:, 0] + 0.5 - columns[:, None], outline[:, 1] + 0.5 - rows[:, None]
    )
    assert distances.min(axis=1).max() < 1.0
    assert len(points) <= 400


@pytest.mark.parametrize(("kind", "value"), [("blank", "BLANK_SLIDE"), ("ink", "INK_ONLY")])
def test_slide_without_tissue_gets_the_whole_slide_and_the_reason(kind: str, value: str) -> None:
    (call,) = groups(builders.not_assessed(kind=kind))
    assert finding(call) == value
    assert numbers(call)[0] == ("Reasons not to assess", 1.0, "{reasons}")
    assert coded(call, "Assessment status") == "Not assessed"
    assert coded(call, "Positive by threshold") == "Undetermined"
    assert "No tissue was found on the slide." in texts(call, "Comment")[0]
    extent = corners(call).max(axis=0) - corners(call).min(axis=0)
    assert extent == pytest.approx((8192 * 0.0005, 12_288 * 0.0005, 0), abs=1e-4)


def _stopped(**changes: Any) -> SlideAssessment:
    """Tissue was found, but no class."""
    found = builders.assessed()
    values: dict[str, Any] = {"tissue": found.tissue, "reasons": ("too little tissue",)}
    return builders.not_assessed(**(values | changes))


@pytest.mark.parametrize(
    ("assessment", "header", "value"),
    [
        (builders.unreadable(), {"um_px": None}, "NO_SPACING"),
        (builders.unreadable(), {"um_px": 400.0}, "NO_SPACING"),
        (builders.unreadable(), {}, "NOT_READABLE"),
        (_stopped(tissue=None, overview=None), {}, "NOT_READABLE"),
        (_stopped(), {}, "TOO_FEW_TILES"),
        (_stopped(grid=builders.assessed().grid), {}, "TOO_FEW_TILES"),
        (_stopped(geometry=builders.geometry(um_px=2.0)), {}, "TOO_COARSE"),
    ],
)
def test_reason_is_coded(assessment: SlideAssessment, header: dict[str, Any], value: str) -> None:
    (call,) = groups(assessment, headers=builders.headers(**header))
    assert finding(call) == value
    assert coded(call, "Reason not to assess").startswith("Not assessed by AI: ")


@pytest.mark.parametrize("header", [{"without": ("FrameOfReferenceUID",)}, {"origin": None}])
def test_slide_without_a_place_gets_its_region_in_pixels(header: dict[str, Any]) -> None:
    headers = builders.headers(**header)
    found = groups(headers=headers)
    item = region(found[2])
    assert (item.ValueType, item.GraphicType) == ("SCOORD", "POLYLINE")
    assert item.PixelOriginInterpretation == "VOLUME"
    assert "positions are in pixels" in texts(found[0], "Comment")[-1]
    grid = builders.assessed().grid
    assert grid is not None
    x, y = grid.coordinates[builders.assessed().top[0].number]
    assert item.GraphicData[:2] == [x, y]
    reference = item.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == headers[0].SOPInstanceUID
    assert "ReferencedFrameNumber" not in reference


def test_slide_without_even_a_size_gets_its_first_pixel() -> None:
    without = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows")
    (call,) = groups(builders.unreadable(), headers=builders.headers(without=without))
    assert region(call).GraphicData == [0, 0, 1, 0, 1, 1, 0, 1, 0, 0]
    assert "pixel spacing" in texts(call, "Comment")[0]


def test_each_slide_has_a_report_about_its_own_specimen_and_place() -> None:
    slides = (builders.assessed(slide=1), builders.assessed(slide=2, positive=0.1))
    headers = [*builders.headers(1), *builders.headers(2)]
    objects = encode(builders.result(*slides), builders.context(*headers, generation=2))
    reports = {item.role: item.dataset for item in objects if item.role.startswith("sr")}
    assert list(reports) == ["sr", "sr-2"]
    for number, ds in enumerate(reports.values(), start=1):
        assert texts(ds, "Specimen Identifier") == [f"SPEC-{number}"]
        (measurements,) = children(ds, "Imaging Measurements")
        places = {
            region(item).ReferencedFrameOfReferenceUID for item in measurements.ContentSequence
        }
        # OHIF lays all regions of a report over the slide of the first one
        assert places == {f"{builders.FRAME_OF_REFERENCE_UID}.{number}"}
        (study,) = ds.CurrentRequestedProcedureEvidenceSequence
        (series,) = study.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == f"{builders.STUDY_UID}.{number}"
        assert ds.SeriesNumber == 9000 + number
    assert coded(reports["sr"], "CAD Processing and Findings Summary").endswith("; with findings")
    assert coded(reports["sr-2"], "CAD Processing and Findings Summary").endswith(
        "; without findings"
    )


def test_specimen_is_derived_where_the_slide_names_none() -> None:
    def about(**header: Any) -> list[Dataset]:
        result = builders.result(builders.assessed())
        context = builders.context(*builders.headers(**header))
        return subject(read_slides(result, context)[0].source)

    given, derived = about(), about(without=("SpecimenDescriptionSequence",))
    assert given[1].UID.endswith(".7.1.99")
    assert derived[1].UID.startswith("2.25.")
    assert derived[2].TextValue == "SLIDE-1"
    assert about(without=("SpecimenDescriptionSequence",))[1].UID == derived[1].UID


def test_tracking_outlives_generation_and_model() -> None:
    name = "Tracking Unique Identifier"
    first = [children(item, name)[0].UID for item in groups()]
    later = [children(item, name)[0].UID for item in groups(model=builders.DEMONSTRATION)]
    assert first == later


def test_private_codes_are_short_enough_and_distinct() -> None:
    concepts = codes.concepts().values()
    assert max(len(concept.value) for concept in concepts) <= 16
    assert max(len(concept.meaning) for concept in concepts) <= 64
    pairs = [(concept.scheme, concept.value) for concept in concepts]
    assert len(set(pairs)) == len(pairs)


def _broken(**changes: Any) -> SlideAssessment:
    return replace(builders.assessed(), **changes)


@pytest.mark.parametrize(
    "assessment",
    [
        _broken(positive_prob=None),
        _broken(is_positive=None),
        _broken(positive_prob=float("nan")),
        _broken(positive_prob=1.2),
        _broken(probabilities=()),
        _broken(attention=np.zeros(3, np.float32)),
        _broken(attention=np.full(578, np.nan, np.float32)),
        _broken(attention=None),
        _broken(grid=None),
        _broken(top=builders.assessed().top * 2),
        _broken(sop_instance_uids=()),
        _broken(sop_instance_uids=(f"{builders.STUDY_UID}.1.1",) * 2),
    ],
)
def test_contradictory_result_is_refused(assessment: SlideAssessment) -> None:
    with pytest.raises(ResultError):
        groups(assessment)


def test_result_without_slides_is_refused() -> None:
    with pytest.raises(ResultError, match="no slide"):
        read_slides(builders.result(), builders.context())


def test_instance_that_is_not_among_the_sources_is_refused_without_naming_it() -> None:
    with pytest.raises(SourceError) as caught:
        groups(builders.assessed(slide=5))
    assert builders.STUDY_UID not in str(caught.value)


def test_highdicom_finds_regions_in_the_slides_frame_of_reference() -> None:
    objects = encode(builders.result(builders.assessed()), builders.context(*builders.headers()))
    read = highdicom.sr.srread(written(objects[0].dataset))
    found = read.content.get_planar_roi_measurement_groups()
    assert len(found) == 8
    assert found[0].roi.frame_of_reference_uid == f"{builders.FRAME_OF_REFERENCE_UID}.1"
    assert found[0].roi.graphic_type.value == "POLYGON"
    assert found[0].finding_type.value == "AI_POSITIVE"
    assert found[0].get_measurements()[0].value == pytest.approx(93.2)
    context = read.content.get_subject_contexts()
    assert context[0].subject_class.meaning == "Specimen"


def test_dcmtk_reads_the_report(dsrdump: Callable[[Dataset], str]) -> None:
    result = builders.result(builders.assessed(), model=builders.DEMONSTRATION)
    (report, *_) = encode(result, builders.context(*builders.headers()))
    shown = dsrdump(report.dataset)
    assert "SCOORD3D" in shown
    assert "Light microscopy" in shown
    assert "DEMONSTRATION MODEL" in shown
