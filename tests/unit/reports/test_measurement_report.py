from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import highdicom
import pytest
import report_builders as builders
from pydicom import Dataset

from models.results import ImageAssessment
from reports.encode import encode
from reports.outline import margin_mark
from tests.unit.reports.report_content import (
    children,
    coded,
    measurement_groups,
    numbers,
    texts,
)


def report(
    *images: ImageAssessment, headers: list[Dataset] | None = None, **context: Any
) -> Dataset:
    images = images or (builders.assessment(),)
    headers = headers or [builders.header(number=i) for i in range(1, len(images) + 1)]
    sources = [builders.source(header) for header in headers]
    objects = encode(builders.result(*images), builders.context(*sources, **context))
    assert objects[0].role == "sr"
    return objects[0].dataset


def region(item: Dataset) -> Dataset:
    first = next(child for child in item.ContentSequence if child.ValueType == "NUM")
    (scoord,) = first.ContentSequence
    return scoord


def test_malignancy_comes_first_then_the_differential_then_sizes() -> None:
    (group,) = measurement_groups(report())
    names = [name for name, _, _ in numbers(group)]
    assert names[:3] == ["Probability of cancer", "Prob. Melanoma", "Prob. Melanocytic nevus"]
    assert names[-4:] == ["Major Axis", "Short axis", "Area", "Perimeter"]
    values = [value for name, value, _ in numbers(group) if name.startswith("Prob. ")]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(100, abs=0.05)
    assert numbers(group)[0][1] == pytest.approx(73.2)


@pytest.mark.parametrize(
    ("spacing", "units"), [(None, {"{pixels}"}), ([0.02, 0.02], {"mm", "mm2"})]
)
def test_sizes_are_metric_only_where_the_source_is_calibrated(
    spacing: list[float] | None, units: set[str]
) -> None:
    (group,) = measurement_groups(report(headers=[builders.header(spacing=spacing)]))
    assert {unit for _, _, unit in numbers(group)[-4:]} == units


def test_outline_hangs_on_the_first_measurement_and_names_its_image() -> None:
    (group,) = measurement_groups(report())
    scoord = region(group)
    assert (scoord.RelationshipType, scoord.GraphicType) == ("INFERRED FROM", "POLYLINE")
    assert scoord.GraphicData[:2] == scoord.GraphicData[-2:]
    (image,) = scoord.ContentSequence
    assert image.RelationshipType == "SELECTED FROM"
    reference = image.ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == f"{builders.STUDY_UID}.1.1"
    assert "ReferencedFrameNumber" not in reference


@pytest.mark.parametrize(
    ("sop_class_uid", "is_named"),
    [("1.2.840.10008.5.1.4.1.1.7.4", True), (builders.VL_PHOTOGRAPHIC, False)],
)
def test_frame_is_named_only_for_a_class_with_frames(sop_class_uid: str, is_named: bool) -> None:
    header = builders.header(NumberOfFrames=3, sop_class_uid=sop_class_uid)
    (group,) = measurement_groups(report(headers=[header]))
    reference = region(group).ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.get("ReferencedFrameNumber") == (1 if is_named else None)


def test_image_without_lesion_gets_a_mark_at_its_margin() -> None:
    (group,) = measurement_groups(report(builders.assessment(with_region=False)))
    assert region(group).GraphicData == pytest.approx(margin_mark((96, 128)).ravel().tolist())
    assert "Area" not in [name for name, _, _ in numbers(group)]


def test_image_not_assessed_has_region_and_reasons_but_no_probability() -> None:
    (group,) = measurement_groups(report(builders.not_assessed()))
    assert numbers(group) == [("Reasons not to assess", 2.0, "{reasons}")]
    assert region(group).GraphicData == pytest.approx(margin_mark((96, 128)).ravel().tolist())
    assert coded(group, "Assessment status") == "Not assessed"
    assert coded(group, "Suspicious of malignancy") == "Undetermined"
    comment = texts(group, "Comment")[0]
    assert "out of focus" in comment
    assert "too dark" in comment
    assert children(group, "Most likely diagnosis") == []
    assert children(group, "Finding") == []


def test_image_that_could_not_be_decoded_has_a_region() -> None:
    header = builders.header(without=("Rows", "Columns"))
    header.Rows, header.Columns = 1, 1
    source = builders.SourceImage(header=header, pixels=None)
    del header.Rows, header.Columns
    image = builders.not_assessed(shape=(0, 0), reasons=("Could not be decoded",))
    objects = encode(builders.result(image), builders.context(source))
    (group,) = measurement_groups(objects[0].dataset)
    assert region(group).GraphicData == [0, 0, 1, 0, 1, 1, 0, 1, 0, 0]
    assert [item.role for item in objects] == ["sr", "overview-1", "pdf-1"]


def test_verdict_is_coded_and_said() -> None:
    (group,) = measurement_groups(report(builders.assessment(warnings=("Hair",))))
    assert coded(group, "Suspicious of malignancy") == "Yes"
    assert coded(group, "Risk level") == "High risk"
    assert coded(group, "Most likely diagnosis") == "Malignant melanoma"
    verdict, quality, use = texts(group, "Comment")
    assert verdict == "AI: malignancy 73.2 %, suspicious; most likely Melanoma"
    assert quality == "Image quality: Hair"
    assert use == "Research use only. Not for diagnostic use without review."
    (details,) = texts(group, "Assessment details")
    for word in ("diagnosis 1.0.0", "0123456789ab", "held-out", "Research use only", "Hair"):
        assert word in details


def test_benign_verdict() -> None:
    (group,) = measurement_groups(report(builders.assessment(malignant=0.05)))
    assert coded(group, "Suspicious of malignancy") == "No"
    assert coded(group, "Risk level") == "Low risk"
    assert coded(group, "Most likely diagnosis") == "Melanocytic nevus"


def test_algorithm_is_identified_down_to_its_weights() -> None:
    (group,) = measurement_groups(report())
    assert texts(group, "Algorithm Name") == ["diagnosis"]
    assert texts(group, "Algorithm Version") == ["1.0.0"]
    assert any(builders.MODEL.digest in text for text in texts(group, "Algorithm Parameters"))
    assert coded(group, "Algorithm Family") == "Artificial Intelligence"


def test_finding_site_is_the_sources_with_its_side() -> None:
    (group,) = measurement_groups(report())
    (site,) = children(group, "Finding Site")
    assert site.ConceptCodeSequence[0].CodeMeaning == "Forearm"
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Left"


def test_incomplete_site_code_is_left_out() -> None:
    site = Dataset()
    site.CodeValue = "14975008"
    (group,) = measurement_groups(report(headers=[builders.header(AnatomicRegionSequence=[site])]))
    assert children(group, "Finding Site") == []


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([builders.assessment()], "All algorithms succeeded; with findings"),
        ([builders.assessment(malignant=0.1)], "All algorithms succeeded; without findings"),
        ([builders.not_assessed()], "No algorithms succeeded; without findings"),
        (
            [builders.assessment(), builders.not_assessed(number=2)],
            "Not all algorithms succeeded; with findings",
        ),
        (
            [builders.assessment(malignant=0.1), builders.not_assessed(number=2)],
            "Not all algorithms succeeded; without findings",
        ),
    ],
)
def test_summary_tells_failure_from_absence_of_findings(
    images: list[ImageAssessment], expected: str
) -> None:
    assert coded(report(*images), "CAD Processing and Findings Summary") == expected


def test_tracking_is_the_sources_own() -> None:
    ds = report(headers=[builders.header(TrackingID="Back 3", TrackingUID="1.2.3.4")])
    (group,) = measurement_groups(ds)
    assert texts(group, "Tracking Identifier") == ["Back 3"]
    assert children(group, "Tracking Unique Identifier")[0].UID == "1.2.3.4"


def test_two_images_of_one_lesion_do_not_share_a_tracking_uid() -> None:
    tracked = {"TrackingID": "Back 3", "TrackingUID": "1.2.3.4"}
    headers = [builders.header(number=n, **tracked) for n in (1, 2)]
    ds = report(builders.assessment(), builders.assessment(number=2), headers=headers)
    uids = [
        children(group, "Tracking Unique Identifier")[0].UID for group in measurement_groups(ds)
    ]
    assert uids[0] == "1.2.3.4"
    assert uids[1].startswith("2.25.")
    assert texts(measurement_groups(ds)[1], "Tracking Identifier") == ["Back 3 (image 2)"]


def test_derived_tracking_outlives_generation_and_model() -> None:
    first = measurement_groups(report())[0]
    later = measurement_groups(report(generation=2))[0]
    name = "Tracking Unique Identifier"
    assert children(first, name)[0].UID == children(later, name)[0].UID


def test_earlier_generation_is_superseded() -> None:
    ds = report(generation=2, predecessors=(builders.PREDECESSOR,))
    (predecessor,) = ds.PredecessorDocumentsSequence
    (series,) = predecessor.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "2.25.1"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.2"
    assert ds.SeriesDescription.startswith("AI report rev. 2")
    assert "PredecessorDocumentsSequence" not in report()


def test_evidence_lists_each_source_once_by_series() -> None:
    headers = [
        builders.header(number=1),
        builders.header(number=2, SeriesInstanceUID="1.2.3"),
        builders.header(number=3),
    ]
    images = [builders.assessment(number=n) for n in (1, 2, 3)]
    (study,) = report(*images, headers=headers).CurrentRequestedProcedureEvidenceSequence
    counts = {
        series.SeriesInstanceUID: len(series.ReferencedSOPSequence)
        for series in study.ReferencedSeriesSequence
    }
    assert counts == {f"{builders.STUDY_UID}.1": 2, "1.2.3": 1}


def test_document_is_neither_final_nor_verified() -> None:
    ds = report()
    assert ds.VerificationFlag == "UNVERIFIED"
    assert ds.PreliminaryFlag == "PRELIMINARY"
    assert ds.CompletionFlag == "COMPLETE"


@pytest.mark.parametrize("sop_class_uid", [builders.VL_PHOTOGRAPHIC, builders.DERMOSCOPIC])
def test_highdicom_reads_the_report(sop_class_uid: str) -> None:
    ds = report(headers=[builders.header(sop_class_uid=sop_class_uid)])
    again = highdicom.sr.srread(builders.written(ds))
    (group,) = again.content.get_image_measurement_groups()
    assert (
        group.tracking_uid
        == children(measurement_groups(ds)[0], "Tracking Unique Identifier")[0].UID
    )
    assert group.finding_type.meaning == "Lesion"
    assert len(group.get_measurements()) == 12
    assert group.get_measurements()[0].value == pytest.approx(73.2)


def test_dcmtk_reads_the_report(dsrdump: Callable[[Dataset], str]) -> None:
    header = builders.header(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen")
    shown = dsrdump(report(headers=[header]))
    assert "Müller" in shown
    assert "Probability of cancer" in shown
    assert "inferred from SCOORD" in shown


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [
        (None, "20250304", "151617"),
        ("+0900", "20250305", "001617"),
        ("-0330", "20250304", "114617"),
        ("nonsense", "20250304", "151617"),
    ],
)
def test_times_are_on_the_sources_clock(offset: str | None, date: str, time: str) -> None:
    attributes = {} if offset is None else {"TimezoneOffsetFromUTC": offset}
    ds = report(headers=[builders.header(**attributes)])
    assert (ds.ContentDate, ds.ContentTime) == (date, time)
    assert (ds.SeriesDate, ds.SeriesTime) == (date, time)
    assert ds.get("TimezoneOffsetFromUTC") == (offset if offset in ("+0900", "-0330") else None)
    assert str(ds.ObservationDateTime).startswith(date + time)


def test_observation_time_is_absolute() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    ds = report(created_at=datetime.datetime(2025, 7, 1, 12, 0, tzinfo=zone))
    assert ds.ObservationDateTime == "20250701120000+0200"


def test_acquisition_device_is_credited() -> None:
    (item,) = report().ContributingEquipmentSequence
    assert item.Manufacturer == "Scope Works"
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    unknown = report(headers=[builders.header(without=("Manufacturer", "ManufacturerModelName"))])
    assert "ContributingEquipmentSequence" not in unknown
