"""A work item as a Unified Procedure Step (PS3.4 CC, PS3.3 B.26): pure, one data set each."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sequence import Sequence as Items

from gateway.store import states
from gateway.store.work.worklist import ObjectRef, WorklistEntry

UPS_PUSH = "1.2.840.10008.5.1.4.34.6.1"  # PS3.4 CC.2: the class that every UPS instance is of
LABEL = "Lentigo"
_PRIORITIES = {"urgent": "HIGH", "low": "LOW"}
_WEB = ("https://", "http://")


def ups(entry: WorklistEntry, uid: str, root: str, *, in_full: bool) -> Dataset:
    """Return the attributes of a work item (PS3.4 Table CC.2.5-3).

    Parameters
    ----------
    uid
        Its SOP Instance UID.
    root
        Address of our DICOMweb services, for retrieval; empty: nothing is retrieved there.
    in_full
        With its inputs and outputs.
    """
    ds = Dataset()
    _set(ds, "SpecificCharacterSet", "ISO_IR 192")
    _set(ds, "SOPClassUID", UPS_PUSH)
    _set(ds, "SOPInstanceUID", uid)
    _add_identity(ds, entry)
    _add_schedule(ds, entry)
    _set(ds, "ProcedureStepState", entry.state)
    _set(ds, "ProcedureStepProgressInformationSequence", [_progress(entry)])
    if in_full:
        _set(ds, "InputInformationSequence", _information(entry, entry.inputs, root))
    _set(
        ds,
        "UnifiedProcedureStepPerformedProcedureSequence",
        [_performed(entry, root, in_full=in_full)] if entry.started_at is not None else [],
    )
    return ds


def _add_identity(ds: Dataset, entry: WorklistEntry) -> None:
    identity = entry.identity
    _set(ds, "StudyInstanceUID", entry.study_instance_uid)
    _set(ds, "PatientName", identity.get("patient_name", ""))
    _set(ds, "PatientID", identity.get("patient_id", ""))
    _set(ds, "IssuerOfPatientID", identity.get("issuer_of_patient_id", ""))
    birth_date = identity.get("patient_birth_date", "")
    _set(ds, "PatientBirthDate", birth_date if re.fullmatch(r"\d{8}", birth_date) else "")
    sex = identity.get("patient_sex", "")
    _set(ds, "PatientSex", sex if re.fullmatch(r"[A-Z0-9 _]{1,16}", sex) else "")
    _set(ds, "AdmissionID", "")
    request = Dataset()
    _set(request, "StudyInstanceUID", entry.study_instance_uid)
    _set(request, "AccessionNumber", identity.get("accession_number", ""))
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
        _set(request, keyword, "")
    for keyword in ("RequestedProcedureCodeSequence", "ReferencedStudySequence"):
        _set(request, keyword, [])
    _set(ds, "ReferencedRequestSequence", [request])


def _add_schedule(ds: Dataset, entry: WorklistEntry) -> None:
    _set(ds, "ScheduledProcedureStepPriority", priority_of(entry.urgency))
    _set(ds, "ScheduledProcedureStepModificationDateTime", moment(entry.changed_at))
    _set(ds, "ProcedureStepLabel", entry.analysis)
    _set(ds, "WorklistLabel", LABEL)
    _set(ds, "ScheduledProcessingParametersSequence", [])
    _set(ds, "ScheduledStationNameCodeSequence", [])
    _set(ds, "ScheduledStationClassCodeSequence", [])
    _set(ds, "ScheduledStationGeographicLocationCodeSequence", [])
    _set(ds, "ScheduledProcedureStepStartDateTime", moment(entry.created_at))
    _set(ds, "ScheduledWorkitemCodeSequence", [_workitem_code()])
    _set(ds, "CommentsOnTheScheduledProcedureStep", "")
    _set(ds, "InputReadinessState", "READY")


def priority_of(urgency: str) -> str:
    """Return the Scheduled Procedure Step Priority (0074,1200) of an urgency."""
    return _PRIORITIES.get(urgency, "MEDIUM")


def moment(value: dt.datetime) -> str:
    """Return a moment as DT with its offset from UTC (PS3.5 6.2)."""
    return value.astimezone(dt.UTC).strftime("%Y%m%d%H%M%S.%f+0000")


def _progress(entry: WorklistEntry) -> Dataset:
    item = Dataset()
    _set(item, "ProcedureStepProgress", str(_percent(entry)))
    if entry.state == states.UPS_CANCELED:
        if entry.finished_at is not None:
            _set(item, "ProcedureStepCancellationDateTime", moment(entry.finished_at))
        _set(item, "ReasonForCancellation", entry.reason)
        code = ("110501", "Equipment failure")
        if entry.failure_kind != "DEFECT":
            code = ("110513", "Discontinued for unspecified reason")
        _set(item, "ProcedureStepDiscontinuationReasonCodeSequence", [_code(*code)])
    else:
        words = {"": "", states.ANALYSE: "analysing", states.DELIVER: "delivering"}
        doing = words.get(entry.step, "") if entry.state == states.UPS_IN_PROGRESS else ""
        said = ": ".join(filter(None, (doing, entry.reason)))
        _set(item, "ProcedureStepProgressDescription", said)
    return item


def _percent(entry: WorklistEntry) -> int:
    if entry.state == states.UPS_COMPLETED:
        return 100
    if entry.step != states.DELIVER:
        return 0
    return 50 + (50 * entry.delivered // entry.deliveries if entry.deliveries else 0)


def _performed(entry: WorklistEntry, root: str, *, in_full: bool) -> Dataset:
    item = Dataset()
    assert entry.started_at is not None
    _set(item, "ActualHumanPerformersSequence", [])
    _set(item, "PerformedStationNameCodeSequence", [])
    _set(item, "PerformedStationClassCodeSequence", [])
    _set(item, "PerformedStationGeographicLocationCodeSequence", [])
    _set(item, "PerformedProcedureStepStartDateTime", moment(entry.started_at))
    if entry.finished_at is not None:
        _set(item, "PerformedProcedureStepEndDateTime", moment(entry.finished_at))
    _set(item, "PerformedProcedureStepDescription", entry.analysis)
    _set(item, "PerformedWorkitemCodeSequence", [_workitem_code()])
    _set(item, "PerformedProcessingParametersSequence", [])
    if in_full:
        _set(item, "OutputInformationSequence", _information(entry, entry.outputs, root))
    return item


def _information(entry: WorklistEntry, objects: Iterable[ObjectRef], root: str) -> list[Dataset]:
    """Return one item for each series and set of places it can be had from (PS3.3 10.32)."""
    grouped: dict[tuple[str, tuple[str, ...]], list[ObjectRef]] = {}
    for each in objects:
        grouped.setdefault((each.series_instance_uid, each.held_by), []).append(each)
    return [
        _series(entry, series_uid, held_by, members, root)
        for (series_uid, held_by), members in grouped.items()
    ]


def _series(
    entry: WorklistEntry,
    series_uid: str,
    held_by: Sequence[str],
    members: Sequence[ObjectRef],
    root: str,
) -> Dataset:
    item = Dataset()
    _set(item, "TypeOfInstances", "DICOM")
    _set(item, "StudyInstanceUID", entry.study_instance_uid)
    _set(item, "SeriesInstanceUID", series_uid)
    references = []
    for each in members:
        reference = Dataset()
        _set(reference, "ReferencedSOPClassUID", each.sop_class_uid)
        _set(reference, "ReferencedSOPInstanceUID", each.sop_instance_uid)
        references.append(reference)
    _set(item, "ReferencedSOPSequence", references)
    path = f"/studies/{entry.study_instance_uid}/series/{series_uid}"
    ae_titles = [name.partition("@")[0] for name in held_by if "@" in name]
    roots = [*filter(None, [root]), *(name for name in held_by if name.startswith(_WEB))]
    # Type 1C: there are items, or there is no sequence.
    if ae_titles:
        _set(item, "DICOMRetrievalSequence", [_with("RetrieveAETitle", each) for each in ae_titles])
    if roots:
        _set(item, "WADORSRetrievalSequence", [_with("RetrieveURL", each + path) for each in roots])
    return item


def _with(keyword: str, value: str) -> Dataset:
    item = Dataset()
    _set(item, keyword, value)
    return item


def _workitem_code() -> Dataset:
    return _code("110004", "Computer Aided Detection")  # CID 9231


def _code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    _set(item, "CodeValue", value)
    _set(item, "CodingSchemeDesignator", scheme)
    _set(item, "CodeMeaning", meaning)
    return item


def _set(ds: Dataset, keyword: str, value: Any) -> None:
    """Set an element as it is: what a modality wrote need not be legal, and is shown."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    if isinstance(value, list):
        value = Items(value)
    vr = dictionary_VR(tag)
    ds.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
