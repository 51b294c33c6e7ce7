from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import report_builders as builders
from pydicom import Dataset

from reports import provenance
from reports.encode import ReportObject, SourceImage, encode
from reports.errors import (
    ContextError,
    ReportError,
    ResultError,
    SourceError,
    UnsupportedResultError,
)

SOURCES: dict[str, dict[str, Any]] = {
    "photograph": {},
    "dermoscopy": {"sop_class_uid": builders.DERMOSCOPIC},
    "calibrated": {"sop_class_uid": builders.DERMOSCOPIC, "spacing": [0.02, 0.02]},
    "placed": {"spacing": [0.02, 0.02], "geometry": True},
    "frame of reference only": {"FrameOfReferenceUID": "1.2.3", "PositionReferenceIndicator": ""},
    "tracked": {"TrackingID": "Back 3", "TrackingUID": "1.2.3.4"},
    "in a timezone": {"TimezoneOffsetFromUTC": "+0100"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
    "lossless": {
        "without": (
            "LossyImageCompression",
            "LossyImageCompressionRatio",
            "LossyImageCompressionMethod",
        )
    },
    "bare": {
        "without": (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "AccessionNumber",
            "ReferringPhysicianName",
            "StudyDescription",
            "Modality",
            "Manufacturer",
            "ManufacturerModelName",
            "LossyImageCompressionRatio",
            "LossyImageCompressionMethod",
            "AnatomicRegionSequence",
            "ImageLaterality",
        )
    },
    "deidentified": {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "Profile"},
    "deidentified somehow": {"PatientIdentityRemoved": "YES"},
    "with body part": {"BodyPartExamined": "HEAD", "Laterality": "R"},
    "secondary capture": {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"},
    "multi-frame": {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7.4", "NumberOfFrames": 3},
    "with issuers": {"IssuerOfPatientID": "Hospital", "PatientAge": "054Y"},
}


def encoded(**header: Any) -> list[ReportObject]:
    source = builders.source(builders.header(**header))
    return encode(builders.result(builders.assessment()), builders.context(source))


def mixed(**context: Any) -> list[ReportObject]:
    """Three images: assessed, not assessed, assessed without a lesion."""
    images = [
        builders.assessment(number=1, warnings=("Hair",)),
        builders.not_assessed(number=2),
        builders.assessment(number=3, malignant=0.1, with_region=False),
    ]
    headers = [builders.header(number=n) for n in (3, 1, 2)]  # not in the result's order
    sources = [builders.source(header) for header in headers]
    return encode(builders.result(*images), builders.context(*sources, **context))


@pytest.mark.parametrize("name", SOURCES)
def test_objects_of_any_source_are_valid(
    name: str,
    dciodvfy: Callable[[Dataset], None],
    strictly_valid: Callable[[Dataset], None],
) -> None:
    objects = encoded(**SOURCES[name])
    assert [item.role for item in objects] == ["sr", "seg-1", "overview-1", "pdf-1"]
    for item in objects:
        strictly_valid(item.dataset)
        dciodvfy(item.dataset)


def test_objects_of_several_images_are_valid(
    dciodvfy: Callable[[Dataset], None], strictly_valid: Callable[[Dataset], None]
) -> None:
    objects = mixed(generation=2, predecessors=(builders.PREDECESSOR,))
    roles = ["sr", "seg-1", "overview-1", "pdf-1", "overview-2", "pdf-2", "overview-3", "pdf-3"]
    assert [item.role for item in objects] == roles
    for item in objects:
        strictly_valid(item.dataset)
        dciodvfy(item.dataset)


def test_same_input_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [builders.written(item.dataset).getvalue() for item in mixed()]
    random.seed(99)
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before + 1e6)
    second = [builders.written(item.dataset).getvalue() for item in mixed()]
    assert first == second


def test_uids_and_series_are_distinct() -> None:
    objects = [item.dataset for item in mixed()]
    assert len({ds.SOPInstanceUID for ds in objects}) == len(objects)
    assert len({(ds.SeriesInstanceUID, ds.InstanceNumber) for ds in objects}) == len(objects)
    by_series: dict[str, set[Any]] = {}
    for ds in objects:
        by_series.setdefault(ds.SeriesInstanceUID, set()).add((ds.Modality, ds.SeriesNumber))
    assert all(len(kinds) == 1 for kinds in by_series.values())
    numbers = [number for kinds in by_series.values() for _, number in kinds]
    assert len(set(numbers)) == len(by_series) == 6  # report, mask, pictures, three pages
    assert all(str(number).startswith("9") for number in numbers)


@pytest.mark.parametrize("change", ["generation", "model", "analysis"])
def test_other_work_gives_other_objects(change: str) -> None:
    source = builders.source(builders.header())
    context, result = builders.context(source), builders.result(builders.assessment())
    first = {item.dataset.SOPInstanceUID for item in encode(result, context)}
    if change == "model":
        result = replace(result, model=replace(builders.MODEL, digest="f" * 64))
    elif change == "generation":
        context = replace(context, generation=2)
    else:
        context = replace(context, analysis="second_opinion")
    second = {item.dataset.SOPInstanceUID for item in encode(result, context)}
    assert not first & second


def test_every_object_says_who_made_it_and_for_whom() -> None:
    for item in mixed():
        ds = item.dataset
        assert ds.Manufacturer == provenance.MANUFACTURER == "Lentigo"
        assert ds.ManufacturerModelName == provenance.MODEL_NAME
        assert (ds.SoftwareVersions, ds.DeviceSerialNumber) == ("0.1.0", "installation-1")
        assert ds.SeriesDescription.startswith("AI ")
        assert "not for diagnostic use" in ds.SeriesDescription
        assert len(ds.SeriesDescription) <= 64
        assert (ds.PatientID, ds.AccessionNumber, ds.StudyID) == ("P-4711", "A1", "S1")
        assert (ds.StudyDate, ds.StudyDescription) == ("20250304", "Dermoscopy")
        assert ds.StudyInstanceUID == builders.STUDY_UID
        assert ds.ContentDate == ds.SeriesDate == ds.InstanceCreationDate == "20250304"


def test_overview_holds_the_picture_and_its_history() -> None:
    ds = next(item.dataset for item in encoded() if item.role == "overview-1")
    assert ds.pixel_array.shape == (1200, 1920, 3)
    assert ds.ImageType == ["DERIVED", "SECONDARY"]
    assert ds.BurnedInAnnotation == "YES"
    assert ds.LossyImageCompression == "01"  # the source's loss is not undone
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == f"{builders.STUDY_UID}.1.1"


def test_sources_are_matched_by_uid_not_by_order() -> None:
    objects = {item.role: item.dataset for item in mixed()}
    for number in (1, 2, 3):
        (reference,) = objects[f"overview-{number}"].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == f"{builders.STUDY_UID}.1.{number}"


def test_sources_are_left_as_they_were() -> None:
    header = builders.header(spacing=[0.02, 0.02], geometry=True)
    before = header.to_json()
    encode(builders.result(builders.assessment()), builders.context(builders.source(header)))
    assert header.to_json() == before


def test_object_of_one_result_does_not_share_state_with_another() -> None:
    first, second, *_ = mixed()
    first.dataset.PatientName = "Changed"
    first.dataset.ContributingEquipmentSequence[0].Manufacturer = "Changed"
    assert second.dataset.PatientName == "Probe^Paula"
    assert second.dataset.ContributingEquipmentSequence[0].Manufacturer == "Scope Works"


def _break(image: builders.ImageAssessment, **changes: Any) -> builders.ImageAssessment:
    return replace(image, **changes)


@pytest.mark.parametrize(
    "image",
    [
        _break(builders.assessment(), malignancy_prob=None),
        _break(builders.assessment(), is_suspicious=None),
        _break(builders.assessment(), malignancy_prob=1.5),
        _break(builders.assessment(), malignancy_prob=float("nan")),
        _break(
            builders.assessment(),
            differential=(builders.LabelProbability(label="MEL", probability=-0.2),),
        ),
        _break(builders.not_assessed(), malignancy_prob=0.4),
        _break(builders.not_assessed(), region=builders.assessment().region),
    ],
)
def test_contradictory_result_is_refused(image: builders.ImageAssessment) -> None:
    source = builders.source(builders.header())
    with pytest.raises(ResultError):
        encode(builders.result(image), builders.context(source))


def test_result_without_images_is_refused() -> None:
    with pytest.raises(ResultError, match="no image"):
        encode(builders.result(), builders.context())


def test_result_that_names_an_image_twice_is_refused() -> None:
    source = builders.source(builders.header())
    twice = builders.result(builders.assessment(), builders.assessment())
    with pytest.raises(ResultError, match="twice"):
        encode(twice, builders.context(source))


def test_image_without_source_is_refused_without_naming_it() -> None:
    with pytest.raises(SourceError) as caught:
        encode(builders.result(builders.assessment()), builders.context())
    assert builders.STUDY_UID not in str(caught.value)


def test_source_given_twice_is_refused() -> None:
    source = builders.source(builders.header())
    with pytest.raises(SourceError, match="same SOPInstanceUID"):
        encode(builders.result(builders.assessment()), builders.context(source, source))


def test_unknown_result_kind_is_refused() -> None:
    with pytest.raises(UnsupportedResultError, match="dict"):
        encode({}, builders.context())


def test_context_needs_a_timezone_and_a_generation() -> None:
    with pytest.raises(ContextError):
        builders.context(created_at=datetime.datetime(2025, 1, 1))
    with pytest.raises(ContextError):
        builders.context(generation=0)


def test_errors_form_one_tree() -> None:
    for error in (ContextError, ResultError, SourceError, UnsupportedResultError):
        assert issubclass(error, ReportError)


def test_many_images_do_not_collide() -> None:
    images = [builders.assessment(number=n) for n in range(1, 13)]
    sources = [
        SourceImage(header=builders.header(number=n), pixels=np.zeros((96, 128, 3), np.uint8))
        for n in range(1, 13)
    ]
    objects = encode(builders.result(*images), builders.context(*sources))
    assert len({item.role for item in objects}) == 37
    numbers = {ds.SeriesNumber for ds in (item.dataset for item in objects)}
    assert len(numbers) == 1 + 12 + 1 + 12
