"""Objects of change detection: valid, in the current study, and saying what was found."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from models.change.result import ChangeResult, LesionChange, Reason
from reports.change import codes
from reports.coding import concepts
from reports.context import ReportObject
from reports.encode import encode
from reports.errors import ResultError, SourceError
from tests.unit.reports.change.change_builders import (
    LESION,
    assessed,
    change_context,
    current,
    earlier,
    failed,
    not_assessed,
    point,
    result,
    sequence,
)
from tests.unit.reports.report_builders import STUDY_UID

Validator = Callable[[Dataset], None]
ROLES = ["sr", "seg-1", "overview-1", "flicker-1", "seg-2"]


def objects(made: ChangeResult, *sources: object, **changes: object) -> dict[str, Dataset]:
    found = encode(made, change_context(*sources, **changes))  # type: ignore[arg-type]
    return {each.role: each.dataset for each in found}


def as_bytes(found: list[ReportObject]) -> list[bytes]:
    written = []
    for each in found:
        buffer = io.BytesIO()
        each.dataset.save_as(buffer, enforce_file_format=True)
        written.append(buffer.getvalue())
    return written


def group(ds: Dataset, number: int = 0) -> Dataset:
    return ds.ContentSequence[-1].ContentSequence[number]


def items(ds: Dataset, value_type: str) -> dict[str, Dataset]:
    """Content items of a measurement group by the code of their concept name."""
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item
        for item in group(ds).ContentSequence
        if item.ValueType == value_type and "ConceptNameCodeSequence" in item
    }


def coded(ds: Dataset, name: str) -> str:
    return str(items(ds, "CODE")[name].ConceptCodeSequence[0].CodeValue)


def number(ds: Dataset, name: str) -> tuple[float, str]:
    value = items(ds, "NUM")[name].MeasuredValueSequence[0]
    return float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue


CASES: dict[str, LesionChange] = {
    "changed": assessed(),
    "sequence": sequence(),
    "no prior": not_assessed(),
    "not registered": failed(Reason.NOT_REGISTERED),
    "no outline": LesionChange(
        time_points=(point(2, linkage=None, region=None),),
        comparison=None,
        not_assessed=failed(Reason.NO_LESION).not_assessed,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_object_is_valid(
    name: str, dciodvfy: Validator, strictly_valid: Validator, dsrdump: Callable[[Dataset], str]
) -> None:
    sources = (current(), earlier(), earlier(11), earlier(12))
    made = objects(result(CASES[name]), *sources)
    for ds in made.values():
        dciodvfy(ds)
        strictly_valid(ds)
    assert "Imaging Measurement Report" in dsrdump(made["sr"])


def test_assessed_lesion_has_report_masks_side_by_side_and_flicker() -> None:
    made = objects(result(assessed()))
    assert list(made) == ROLES
    assert {str(ds.StudyInstanceUID) for ds in made.values()} == {STUDY_UID}
    assert len({str(ds.SOPInstanceUID) for ds in made.values()}) == len(made)
    assert len({int(ds.SeriesNumber) for ds in made.values()}) == len(made)


def test_report_says_call_probability_growth_and_registration() -> None:
    report = objects(result(assessed()))["sr"]
    assert coded(report, "CHANGE") == "CHANGED"
    assert coded(report, "REGISTRATION") == "REG_GOOD"
    assert coded(report, "LINKAGE") == "LINK_UID"
    assert number(report, "P_CHANGE") == (81.0, "%")
    assert number(report, "GROWTH") == (0.5, "mm2")
    assert number(report, "GROWTH_PERCENT") == (20.0, "%")
    assert number(report, "DAYS") == (92.0, "d")
    assert number(report, "LANDMARKS")[0] == 80
    assert next(iter(items(report, "NUM"))) == "P_CHANGE"


def test_growth_without_calibration_is_in_pixels() -> None:
    growth = replace(assessed().comparison.growth, growth_mm2=None)
    report = objects(result(assessed(growth=growth)))["sr"]
    assert number(report, "GROWTH") == (200.0, "{pixels}")
    assert "not calibrated" in items(report, "TEXT")["DETAILS"].TextValue


def test_stable_lesion_has_the_standard_code_and_no_reassurance() -> None:
    report = objects(result(assessed(change_prob=0.1, is_changed=False)))["sr"]
    assert coded(report, "CHANGE") == "260388006"
    assert "No change does not mean benign." in items(report, "TEXT")["DETAILS"].TextValue
    summary = next(
        i
        for i in report.ContentSequence
        if i.ValueType == "CODE" and i.ConceptNameCodeSequence[0].CodeValue == "111017"
    )
    assert summary.ConceptCodeSequence[0].CodeValue == "111241"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_code_and_its_words(reason: Reason) -> None:
    report = objects(result(failed(reason, "a reason in words")))["sr"]
    assert coded(report, "STATUS") == "NOT_ASSESSED"
    assert coded(report, "REASON") == codes.REASONS[reason].value
    assert "A reason in words." in items(report, "TEXT")["DETAILS"].TextValue
    assert "P_CHANGE" not in items(report, "NUM")


def test_lesion_without_an_earlier_image_is_a_report_of_its_own() -> None:
    made = objects(result(not_assessed()), current())
    assert list(made) == ["sr", "seg-1", "overview-1"]
    assert "PertinentOtherEvidenceSequence" not in made["sr"]


def test_only_the_current_region_is_drawn_and_the_prior_is_other_evidence() -> None:
    report = objects(result(assessed()))["sr"]
    assert len(report.ContentSequence[-1].ContentSequence) == 1
    own = report.CurrentRequestedProcedureEvidenceSequence
    other = report.PertinentOtherEvidenceSequence
    assert [item.StudyInstanceUID for item in own] == [STUDY_UID]
    assert [item.StudyInstanceUID for item in other] == [f"{STUDY_UID}.77.1"]
    assert items(report, "UIDREF")["112040"].UID == LESION


def test_every_item_of_a_group_has_a_concept_name() -> None:
    """OHIF shows nothing of a report with a group of which one item has none."""
    report = objects(result(assessed()))["sr"]
    assert all("ConceptNameCodeSequence" in item for item in group(report).ContentSequence)
    (image,) = (item for item in group(report).ContentSequence if item.ValueType == "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == f"{STUDY_UID}.1.1"


def test_lesion_tracked_in_the_prior_only_keeps_that_identity() -> None:
    untracked = current(without=("ImageLaterality", "TrackingUID", "TrackingID"))
    report = objects(result(assessed()), untracked, earlier())["sr"]
    assert items(report, "UIDREF")["112040"].UID == LESION


def test_sequence_names_the_first_suspicious_time_point() -> None:
    made = objects(result(sequence()), current(), earlier(), earlier(11), earlier(12))
    assert coded(made["sr"], "FIRST_SUSPICIOUS") == "EARLIER_IMAGE"
    text = items(made["sr"], "TEXT")["DETAILS"].TextValue
    assert "image 3 (day 200): malignancy 40.0 %, suspicious" in text
    assert "First suspicious time point" in text
    assert "image 3 (day 200), malignancy at the operating point." in text
    assert len(made["sr"].PertinentOtherEvidenceSequence) == 3


def test_flicker_has_two_frames_of_the_originals() -> None:
    flicker = objects(result(assessed()))["flicker-1"]
    assert flicker.NumberOfFrames == 2
    assert flicker.FrameTime > 0
    assert flicker.pixel_array.shape[0] == 2
    assert [item.ReferencedSOPInstanceUID for item in flicker.SourceImageSequence] == [
        f"{STUDY_UID}.1.2",
        f"{STUDY_UID}.1.1",
    ]
    strips = flicker.pixel_array[:, -20:]
    assert (strips[0] != strips[1]).any()  # the captions tell the frames apart


def test_mask_of_the_earlier_image_lies_on_the_first_frame_of_the_flicker() -> None:
    made = objects(result(assessed()))
    mask, flicker = made["seg-2"], made["flicker-1"]
    reference = mask.SharedFunctionalGroupsSequence[0].get("DerivationImageSequence")
    reference = reference or mask.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    image = reference[0].SourceImageSequence[0]
    assert image.ReferencedSOPInstanceUID == flicker.SOPInstanceUID
    assert image.ReferencedFrameNumber == 1
    assert (mask.Rows, mask.Columns) == (flicker.Rows, flicker.Columns)
    assert mask.pixel_array.any()
    assert not mask.pixel_array[-20:].any()  # the strip with the caption is no lesion


def test_report_is_read_by_highdicom() -> None:
    report = objects(result(assessed()))["sr"]
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    groups = hd.sr.srread(buffer).content.get_image_measurement_groups()
    assert [each.tracking_uid for each in groups] == [LESION]


def test_same_result_gives_the_same_bytes() -> None:
    sources = (current(), earlier())
    first, second = (
        as_bytes(encode(result(assessed()), change_context(*sources))) for _ in range(2)
    )
    assert first == second


def test_demonstration_model_is_the_first_thing_said() -> None:
    made = objects(result(assessed()))
    first = next(
        i
        for i in group(made["sr"]).ContentSequence
        if i.ValueType == "TEXT" and i.ConceptNameCodeSequence[0].CodeValue == "121106"
    )
    assert first.TextValue.startswith("DEMONSTRATION MODEL")
    banner = made["overview-1"].pixel_array[10, 20]
    assert banner.tolist() == [250, 196, 80]


def test_pictures_hold_no_text_of_the_patient() -> None:
    """A name cannot be drawn that is not handed over: pictures differ in nothing by patient."""
    mine, other = (
        objects(result(assessed()), current(PatientName=name), earlier(PatientName=name))
        for name in ("Probe^Paula", "Other^Name")
    )
    for role in ("overview-1", "flicker-1"):
        assert mine[role].PixelData == other[role].PixelData


def test_two_lesions_stay_apart() -> None:
    second = {"TrackingUID": "2.25.4712"}
    sources = (current(), earlier(), current(3, **second), earlier(4, **second))
    made = objects(result(assessed(), assessed(3, 4)), *sources)
    assert [role for role in made if role.startswith("seg")] == ["seg-1", "seg-3", "seg-2", "seg-4"]
    assert len(made["sr"].ContentSequence[-1].ContentSequence) == 2


def test_several_undecodable_images_are_drawn_without_pixels() -> None:
    blind = (current(), earlier())
    shown = [type(each)(header=each.header, pixels=None) for each in blind]
    picture = objects(result(failed(Reason.UNDECODABLE)), *shown)["overview-1"].pixel_array
    assert picture.shape == (1200, 1920, 3)


@pytest.mark.parametrize(
    "lesion",
    [assessed(change_prob=None), assessed(change_prob=1.5), assessed(change_prob=float("nan"))],
)
def test_contradicting_result_is_refused(lesion: LesionChange) -> None:
    with pytest.raises(ResultError):
        objects(result(lesion))


def test_result_without_a_lesion_or_with_unknown_images_is_refused() -> None:
    with pytest.raises(ResultError):
        objects(result())
    with pytest.raises(SourceError):
        objects(result(assessed()), current())


def test_private_codes_fit_and_collide_with_no_other() -> None:
    own = [*codes.REASONS.values(), *codes.LINKAGES.values()]
    own += [value for value in vars(codes).values() if type(value) is type(codes.CHANGE)]
    shared = {(c.scheme, c.value): c.meaning for c in concepts().values()}
    for concept in own:
        assert len(concept.value) <= 16
        assert len(concept.meaning) <= 64
        assert shared.get((concept.scheme, concept.value), concept.meaning) == concept.meaning


def test_reread_flicker_is_the_same_picture() -> None:
    flicker = objects(result(assessed()))["flicker-1"]
    buffer = io.BytesIO()
    flicker.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    assert np.array_equal(dcmread(buffer).pixel_array, flicker.pixel_array)
