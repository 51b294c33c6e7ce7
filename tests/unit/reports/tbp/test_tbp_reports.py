"""TBP screening as DICOM objects: valid, and with what a reader must see."""

from __future__ import annotations

import io
from collections.abc import Callable

import highdicom
import numpy as np
import pytest
import report_builders as builders
import tbp_builders as tbp
from pydicom import Dataset, dcmread

from models.tbp.lesions import Photodamage
from models.tbp.remarks import REMARKS, Remark
from reports.coding import concepts as shared_concepts
from reports.errors import ResultError, SourceError
from reports.tbp import codes
from reports.tbp.sheet import Shown, draw_sheets
from tests.unit.reports.report_content import children, measurement_groups

Validator = Callable[[Dataset], None]
FLAGGED = (
    tbp.lesion(1, "risk", "ugly duckling"),
    tbp.lesion(2, "measurements", location="Head & Neck"),
    tbp.lesion(3),
    tbp.lesion(4, excluded=("nevi_confidence",), distance=None),
)


def numbers(group: Dataset) -> dict[str, str]:
    found = {}
    for child in group.ContentSequence:
        if child.ValueType == "NUM":
            measured = child.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            name = child.ConceptNameCodeSequence[0].CodeMeaning
            found[name] = f"{measured.NumericValue} {unit}"
    return found


def comments(group: Dataset) -> list[str]:
    return [str(item.TextValue) for item in children(group, "Comment")]


def test_every_object_is_valid(dciodvfy: Validator, strictly_valid: Validator) -> None:
    objects = tbp.encoded(tbp.result(*FLAGGED))
    assert [each.role for each in objects] == ["sr", "sr-patient", "sheet-1"]
    for each in objects:
        dciodvfy(each.dataset)
        strictly_valid(each.dataset)
    for role in ("sr", "sr-patient"):
        stream = io.BytesIO()
        tbp.by_role(objects)[role].save_as(stream, enforce_file_format=True)
        stream.seek(0)
        highdicom.sr.srread(stream)


def test_dcmtk_reads_both_documents(dsrdump: Callable[[Dataset], str]) -> None:
    objects = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED)))
    assert "Ugly duckling, of cut-off" in dsrdump(objects["sr"])
    patient = dsrdump(objects["sr-patient"])
    assert "Oncology Measurement Report" in patient
    assert "UNMEASURED" in patient


def test_the_viewer_gets_the_recommended_lesions_each_on_its_tile() -> None:
    report = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED)))["sr"]
    first, second = measurement_groups(report)
    assert children(first, "Tracking Unique Identifier")[0].UID == "2.25.1"
    assert list(numbers(first).items()) == [
        ("Referral prob. by tile", "71.0 %"),
        ("Malignancy prob. by data", "42.0 %"),
        ("Ugly duckling, of cut-off", "112.5 %"),
        ("Prob. of nevus", "83.0 %"),
        ("Rank", "1 {rank}"),
        ("Major Axis", "3.25 mm"),
    ]
    region = next(c for c in first.ContentSequence if c.ValueType == "NUM").ContentSequence[0]
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert points.min(axis=0) == pytest.approx((20, 100 / 6))
    assert points.max(axis=0) == pytest.approx((100, 500 / 6))
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == tbp.uid(1)
    reasons = children(first, "Reason for a closer look")
    assert [item.ConceptCodeSequence[0].CodeValue for item in reasons] == [
        "TBP_R_TILE",
        "TBP_R_DUCKLING",
    ]
    demonstration, verdict, use = comments(first)
    assert demonstration.startswith("DEMONSTRATION MODEL")
    assert verdict == "AI rank 1 of 4: look closer (tile, ugly duckling)"
    assert use.startswith("Research use only")
    assert "Body site: Head & Neck." in children(second, "Assessment details")[0].TextValue


def test_every_document_names_patient_and_study_whichever_tile_comes_first(
    dciodvfy: Validator,
) -> None:
    lesions = (tbp.lesion(3, "risk"), tbp.lesion(2, "risk"), tbp.lesion(1))
    for ds in tbp.by_role(tbp.encoded(tbp.result(*lesions))).values():
        assert (ds.PatientName, ds.AccessionNumber) == ("Probe^Paula", "A1")
        dciodvfy(ds)


def test_names_fit_a_viewer_and_its_first_five_lines() -> None:
    shown = (
        codes.TILE_PROBABILITY,
        codes.TREES_PROBABILITY,
        codes.DISTANCE,
        codes.NEVUS_PROBABILITY,
        codes.RANK,
    )
    assert all(len(concept.meaning) <= 25 for concept in shown)


def test_the_site_is_the_source_s_own_else_the_device_s_region() -> None:
    own = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED)))["sr"]
    site = children(measurement_groups(own)[0], "Finding Site")[0]
    assert site.ConceptCodeSequence[0].CodeMeaning == "Forearm"
    images = tbp.sources(4, without=("AnatomicRegionSequence", "ImageLaterality"))
    report = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED), images))["sr"]
    (site,) = children(measurement_groups(report)[0], "Finding Site")
    assert site.ConceptCodeSequence[0].CodeMeaning == "Upper limb"
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning == "Left"


def test_without_a_recommendation_the_report_still_has_a_region() -> None:
    objects = tbp.by_role(tbp.encoded(tbp.result(tbp.lesion(1), tbp.lesion(2))))
    (group,) = measurement_groups(objects["sr"])
    assert "no lesion recommended" in comments(group)[1]
    recommended = children(group, "Closer look recommended")[0]
    assert recommended.ConceptCodeSequence[0].CodeMeaning == "No"
    summary = children(objects["sr"], "CAD Processing and Findings Summary")[0]
    assert summary.ConceptCodeSequence[0].CodeValue == "111241"


def test_nothing_assessed_is_said_and_coded(dciodvfy: Validator) -> None:
    taken_out = tbp.lesion(1, excluded=("majorAxisMM", "deltaLBnorm"), distance=None)
    given = tbp.result(taken_out, nevus_count={}, not_assessed=3, photodamage=_ungraded())
    objects = tbp.by_role(tbp.encoded(given))
    (group,) = measurement_groups(objects["sr"])
    assert [
        i.ConceptCodeSequence[0].CodeValue for i in children(group, "Filter that takes lesions out")
    ]
    summary = children(objects["sr"], "CAD Processing and Findings Summary")[0]
    assert summary.ConceptCodeSequence[0].CodeValue == "111245"
    assert "No lesion was assessed" in comments(measurement_groups(objects["sr-patient"])[0])[1]
    for ds in objects.values():
        dciodvfy(ds)


def _ungraded() -> Photodamage:
    return Photodamage(grade=None, probabilities=(), tiles=0)


def test_the_patient_s_report_holds_totals_counts_grade_and_remarks() -> None:
    report = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED)))["sr-patient"]
    patient, back, arm, unknown, damage = measurement_groups(report)
    assert numbers(patient) == {
        "Lesions received": "4 {count}",
        "Lesions assessed": "3 {count}",
        "Lesions recommended": "2 {count}",
        "Recommended by the tile": "1 {count}",
        "Recommended as ugly duckling": "1 {count}",
        "Recommended by measurements": "0 {count}",
        "Lesions taken out by filters": "1 {count}",
        "Taken out: Confidence of a nevus not above the limit": "1 {count}",
        "Lesions not assessed": "0 {count}",
        "Nevus count": "8 {count}",
    }
    assert numbers(back) == {"Nevus count": "5 {count}"}
    assert children(back, "Finding")[0].ConceptCodeSequence[0].CodeValue == "400096001"
    assert children(arm, "Finding Site")
    assert not children(unknown, "Finding Site")
    assert children(damage, "Finding")[0].ConceptCodeSequence[0].CodeValue == "43982006"
    grade = children(damage, "Photodamage grade")[0].ConceptCodeSequence[0]
    assert (grade.CodingSchemeDesignator, grade.CodeMeaning) == ("SCT", "Moderate")
    remark = children(patient, "Remark on the screening")[0].ConceptCodeSequence[0]
    assert remark.CodeValue == "T_UNMEASURED"
    assert "3 lesions without measurements." in comments(patient)
    uids = [
        children(group, "Tracking Unique Identifier")[0].UID for group in measurement_groups(report)
    ]
    assert len(set(uids)) == len(uids)


def test_the_patient_s_report_refers_to_every_tile_and_has_a_series_of_its_own() -> None:
    objects = tbp.by_role(tbp.encoded(tbp.result(*FLAGGED), generation=2))
    lesions, patient = objects["sr"], objects["sr-patient"]
    assert lesions.SeriesInstanceUID != patient.SeriesInstanceUID
    assert (lesions.SeriesNumber, patient.SeriesNumber) == (9001, 9002)
    assert patient.SeriesDescription.startswith("AI patient summary rev. 2")
    evidence = patient.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = [each.ReferencedSOPInstanceUID for each in evidence[0].ReferencedSOPSequence]
    assert uids == [tbp.uid(rank) for rank in (1, 2, 3, 4)]


def test_a_recommended_lesion_without_a_tile_is_in_the_patient_s_report(
    dciodvfy: Validator,
) -> None:
    alone = tbp.lesion(1, "measurements", risk_prob=None, distance=None, nevus_prob=None)
    given = tbp.result(alone, tbp.lesion(2))
    objects = tbp.by_role(tbp.encoded(given, tbp.sources(2)[1:]))
    names = [
        children(group, "Tracking Identifier")[0].TextValue
        for group in measurement_groups(objects["sr-patient"])
    ]
    assert "L001" in names
    assert len(measurement_groups(objects["sr"])) == 1
    for ds in objects.values():
        dciodvfy(ds)


def test_the_same_result_gives_the_same_bytes() -> None:
    def written() -> list[bytes]:
        streams = [io.BytesIO() for _ in range(3)]
        for stream, each in zip(streams, tbp.encoded(tbp.result(*FLAGGED)), strict=True):
            each.dataset.save_as(stream, enforce_file_format=True)
        return [stream.getvalue() for stream in streams]

    first = written()
    assert first == written()
    uids = {dcmread(io.BytesIO(each)).SOPInstanceUID for each in first}
    assert len(uids) == 3


def test_sheets_hold_twenty_lesions_and_refer_to_their_tiles(dciodvfy: Validator) -> None:
    lesions = [tbp.lesion(rank, "risk") for rank in range(1, 46)]
    objects = tbp.encoded(tbp.result(*lesions))
    sheets = [each.dataset for each in objects if each.role.startswith("sheet")]
    assert [each.role for each in objects][2:] == ["sheet-1", "sheet-2", "sheet-3"]
    assert [len(sheet.SourceImageSequence) for sheet in sheets] == [20, 20, 5]
    assert len({sheet.SeriesInstanceUID for sheet in sheets}) == 1
    assert [sheet.InstanceNumber for sheet in sheets] == [1, 2, 3]
    dciodvfy(sheets[2])


def test_a_sheet_shows_its_tiles_and_leaves_the_viewers_corner_free() -> None:
    given = tbp.result(*FLAGGED)
    red = np.full((50, 80, 3), (200, 10, 10), np.uint8)
    shown = [Shown(lesion=each, pixels=red) for each in given.flagged]
    (sheet,) = draw_sheets(shown, given)
    assert sheet.shape == (1200, 1920, 3)
    assert ((sheet == (200, 10, 10)).all(axis=2)).sum() > 2 * 164 * 90
    real = tbp.result(*FLAGGED, model=builders.MODEL)
    (plain,) = draw_sheets([], real)
    assert len(np.unique(plain[:76, :1400].reshape(-1, 3), axis=0)) == 1


def test_lesions_that_do_not_fit_on_the_sheets_are_counted() -> None:
    lesions = [tbp.lesion(rank, "risk") for rank in range(1, 262)]
    objects = tbp.encoded(tbp.result(*lesions))
    assert sum(each.role.startswith("sheet") for each in objects) == 12
    assert len(measurement_groups(tbp.by_role(objects)["sr"])) == 261


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.2])
def test_impossible_probabilities_are_refused(value: float) -> None:
    with pytest.raises(ResultError):
        tbp.encoded(tbp.result(tbp.lesion(1, risk_prob=value)))


def test_a_tile_that_is_not_among_the_sources_is_refused() -> None:
    with pytest.raises(SourceError):
        tbp.encoded(tbp.result(*FLAGGED), tbp.sources(1))
    with pytest.raises(ResultError):
        tbp.encoded(tbp.result(), tbp.sources(1))


def test_concepts_are_legal_and_their_values_unique() -> None:
    own = codes.concepts()
    for concept in own:
        assert 0 < len(concept.value) <= 16
        assert 0 < len(concept.meaning) <= 64
    private = [concept for concept in own if concept.scheme == "99LENTIGO"]
    values = [concept.value for concept in private]
    assert len(set(values)) == len(values)
    others = {c.value for c in shared_concepts().values() if c.scheme == "99LENTIGO"}
    assert not others & set(values)
    assert set(codes.REMARK_CODES) == set(REMARKS)
    with pytest.raises(ValueError, match="unknown remark"):
        Remark(code="NEW", text="")


def test_few_lesions_are_shown_larger() -> None:
    def skin_px(count: int) -> float:
        lesions = [tbp.lesion(rank, "risk") for rank in range(1, count + 1)]
        sheet = tbp.by_role(tbp.encoded(tbp.result(*lesions)))["sheet-1"].pixel_array
        grey = (sheet == sheet[120, 24]).all(axis=-1)
        return int(grey.sum()) / count

    assert skin_px(2) > skin_px(12) > skin_px(20)
