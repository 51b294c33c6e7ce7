"""IHE AI Results, actor Evidence Creator: a test for each line of ``docs/ihe_air.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from reports import coding
from reports.source import PATIENT_AND_STUDY
from tests.every_result import CASES, Made, made

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ihe_air.md"
SUMMARIES = {"111241", "111242", "111243", "111244", "111245"}  # CID 6047
ALGORITHM = {"111001", "111003", "111002", "111000"}  # name, version, parameters, family
REGIONS = ("SCOORD", "SCOORD3D")
UNMADE_UP = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Made:
    return made(request.param)


def reports(case: Made) -> list[Dataset]:
    return [each.dataset for each in case.objects if each.dataset.Modality == "SR"]


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below one."""
    for child in item.get("ContentSequence") or ():
        yield child
        yield from walk(child)


def name_of(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def groups(ds: Dataset) -> list[Dataset]:
    return [item for item in walk(ds) if name_of(item) == coding.MEASUREMENT_GROUP.value]


def references(ds: Dataset) -> set[str]:
    """SOP Instance UIDs that the content names."""
    return {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in walk(ds)
        if item.ValueType == "IMAGE"
    }


def evidence(ds: Dataset) -> set[str]:
    """SOP Instance UIDs that the document lists as evidence."""
    studies = [
        *ds.CurrentRequestedProcedureEvidenceSequence,
        *(ds.get("PertinentOtherEvidenceSequence") or ()),
    ]
    return {
        str(each.ReferencedSOPInstanceUID)
        for study in studies
        for series in study.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    }


def test_root_is_a_comprehensive_3d_sr_of_tid_1500(case: Made) -> None:
    for ds in reports(case):
        assert ds.SOPClassUID == Comprehensive3DSRStorage
        assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    root = next(each.dataset for each in case.objects if each.role == "sr")
    assert name_of(root) == coding.IMAGING_MEASUREMENT_REPORT.value


def test_one_result_tree_for_each_run(case: Made) -> None:
    assert [each.role for each in case.objects].count("sr") == 1
    series = [ds.SeriesInstanceUID for ds in reports(case)]
    assert len(set(series)) == len(series)


def test_device_is_the_observer_and_each_group_names_its_algorithm(case: Made) -> None:
    for ds in reports(case):
        observer = [item for item in ds.ContentSequence if name_of(item) == "121005"]
        assert observer[0].ConceptCodeSequence[0].CodeValue == coding.DEVICE.value
        assert {"121012", "121013"} <= {name_of(item) for item in ds.ContentSequence}
        for group in groups(ds):
            names = {name_of(item) for item in group.ContentSequence}
            assert names >= ALGORITHM
            digest = [
                item.TextValue
                for item in group.ContentSequence
                if name_of(item) == "111002" and re.search(r"[0-9a-f]{64}", item.TextValue)
            ]
            assert digest, "the weights are not named"


def test_each_finding_is_tracked_and_a_given_identity_is_used_again(case: Made) -> None:
    given = {str(each.header.get("TrackingUID") or "") for each in case.context.sources} - {""}
    used = set()
    for ds in reports(case):
        uids = []
        for group in groups(ds):
            by_name = {name_of(item): item for item in group.ContentSequence}
            assert by_name[coding.TRACKING_IDENTIFIER.value].TextValue
            uids.append(str(by_name[coding.TRACKING_UNIQUE_IDENTIFIER.value].UID))
        assert len(set(uids)) == len(uids), "viewers merge groups of one tracking UID"
        used |= set(uids)
    if given and case.is_assessed:
        assert given & used


def test_images_are_referenced_by_instance_and_listed_as_evidence(case: Made) -> None:
    known = {str(each.header.SOPInstanceUID) for each in case.context.sources}
    for ds in reports(case):
        assert references(ds) <= evidence(ds) <= known
        assert evidence(ds), "no image is named"
    assert references(next(each.dataset for each in case.objects if each.role == "sr"))


def test_each_region_is_selected_from_an_image_or_a_frame_of_reference(case: Made) -> None:
    regions = [item for ds in reports(case) for item in walk(ds) if item.ValueType in REGIONS]
    if case.is_assessed and case.context.sources[0].header.get("Modality") != "SR":
        assert regions
    for region in regions:
        if region.ValueType == "SCOORD":
            (selected,) = [item for item in region.ContentSequence if item.ValueType == "IMAGE"]
            assert selected.RelationshipType == "SELECTED FROM"
        else:
            assert region.ReferencedFrameOfReferenceUID


def test_each_number_has_a_ucum_unit(case: Made) -> None:
    numbers = [item for ds in reports(case) for item in walk(ds) if item.ValueType == "NUM"]
    for item in numbers:
        for value in item.MeasuredValueSequence:
            unit = value.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"


def test_patient_and_study_are_those_of_the_source(case: Made) -> None:
    source = case.context.sources[0].header
    for each in case.objects:
        for keyword in UNMADE_UP:
            if source.get(keyword):
                assert str(each.dataset.get(keyword)) == str(source.get(keyword)), each.role
        assert set(UNMADE_UP) <= set(PATIENT_AND_STUDY)


def test_result_is_unverified_and_preliminary(case: Made) -> None:
    for ds in reports(case):
        assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_no_finding_and_failure_are_results_too(case: Made) -> None:
    for ds in reports(case):
        (summary,) = [i for i in ds.ContentSequence if name_of(i) == "111017"]
        value = summary.ConceptCodeSequence[0].CodeValue
        assert value in SUMMARIES
        assert (value == coding.NONE_SUCCEEDED.value) is (not case.is_assessed)


def test_creator_is_named_and_says_that_it_is_for_research(case: Made) -> None:
    for each in case.objects:
        ds = each.dataset
        assert ds.Manufacturer == "Lentigo"
        assert ds.SoftwareVersions
        assert ds.DeviceSerialNumber
    for ds in reports(case):
        words = " ".join(str(item.TextValue) for item in walk(ds) if item.ValueType == "TEXT")
        assert "Research use only" in words


def test_report_that_supersedes_names_its_predecessor(case: Made) -> None:
    root = next(each.dataset for each in case.objects if each.role == "sr")
    (predecessor,) = root.PredecessorDocumentsSequence
    (before,) = case.context.predecessors
    named = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.StudyInstanceUID == before.study_instance_uid
    assert named.ReferencedSOPInstanceUID == before.sop_instance_uid


def test_display_has_a_tree_and_a_picture_or_a_mask(case: Made) -> None:
    modalities = {each.dataset.Modality for each in case.objects}
    assert "SR" in modalities
    assert modalities & {"OT", "SEG", "DOC"}


def test_every_line_of_the_page_names_a_test_of_this_module() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text("utf-8")))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_every_line_of_the_page_names_a_test_of_this_module"
    }
    assert named == here
