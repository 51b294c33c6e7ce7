"""Comprehensive 3D SR with TID 1500, laid out so that viewers draw what it says.

One instance holds one measurement group (TID 1501) for each image. The group's region hangs on
its first measurement (INFERRED FROM a SCOORD, TID 320) and every group has one: OHIF draws such a
group read-only with outline, comments and measurements, five lines in all, and turns black on a
group without a region. Coded values are not drawn there, so the comments repeat what matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from models.results import ModelIdentity
from reports import coding
from reports.coding import Concept
from reports.content_items import (
    Relationship,
    code,
    container,
    image,
    number,
    polyline,
    text,
    uid_reference,
)
from reports.context import PredecessorReport, ReportContext
from reports.errors import ResultError
from reports.provenance import (
    MANUFACTURER,
    MODEL_NAME,
    file_meta,
    observed_at,
    series_description,
    series_number,
    stamp,
)
from reports.source import Source, is_complete_code, written_again
from reports.tracking import Tracking
from reports.uids import device_uid, result_uid

_SERIES_NUMBER_KIND = 0
_DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"  # not among pydicom's constants


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number: a NUM content item (TID 300)."""

    name: Concept
    value: float
    unit: Concept


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One coded statement: a CODE content item."""

    name: Concept
    value: Concept


@dataclass(frozen=True, kw_only=True)
class MeasurementGroup:
    """What is said about one lesion in one image."""

    source: Source
    tracking: Tracking
    region: NDArray[np.float32]
    """(N, 2) closed polygon, (column, row), the image's top left corner at (0, 0)."""
    finding: Concept | None
    """What is seen; None where nothing was assessed."""
    measurements: tuple[Measurement, ...]
    """At least one: the first carries the region. A viewer shows the first few."""
    evaluations: tuple[Evaluation, ...]
    comments: tuple[str, ...]
    """Short lines that viewers draw beside the outline, before the measurements."""
    details: str
    """Everything a reader of the report should know, in sentences; not drawn on the image."""


def measurement_report(
    groups: list[MeasurementGroup],
    *,
    summary: Concept,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """The measurement report of one analysis of one study.

    Parameters
    ----------
    groups
        One for each image, at least one; their tracking UIDs are distinct.
    summary
        CAD Processing and Findings Summary (CID 6047).
    model
        The model that spoke (TID 4019).
    context
        Time, installation, generation and predecessors.

    Returns
    -------
        A Comprehensive 3D SR, UNVERIFIED and PRELIMINARY, with File Meta Information.

    References
    ----------
    PS3.3 A.35.13 (IOD), PS3.16 TID 1500, 1501, 300, 320, 1600, 1002, 1004, 4019 (2024c).
    """
    if not groups or any(not group.measurements for group in groups):
        raise ResultError("a report needs groups, and each group a measurement")
    sources = [group.source for group in groups]
    ds = Dataset()
    ds.SOPClassUID = Comprehensive3DSRStorage
    study = sources[0].study_instance_uid
    for keyword, role in (("SOPInstanceUID", "sr"), ("SeriesInstanceUID", "sr/series")):
        uid = result_uid(study, context.generation, context.analysis, model.digest, role)
        setattr(ds, keyword, uid)
    ds.Modality = "SR"
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, 1)
    ds.SeriesDescription = series_description("report", context)
    ds.InstanceNumber = 1
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.CurrentRequestedProcedureEvidenceSequence = _evidence(sources)
    if context.predecessors:
        ds.PredecessorDocumentsSequence = [_predecessor(item) for item in context.predecessors]
    ds.CodingSchemeIdentificationSequence = [coding.coding_scheme_item()]
    stamp(ds, sources, context)
    ds.update(_document(groups, summary, model, context))
    ds.ObservationDateTime = observed_at(context, sources[0]).strftime("%Y%m%d%H%M%S%z")
    ds.file_meta = file_meta(ds)
    return ds


def _evidence(sources: Iterable[Source]) -> list[Dataset]:
    """Current Requested Procedure Evidence: the sources by series (PS3.3 Table C.17-3)."""
    by_series: dict[str, list[Dataset]] = {}
    study = ""
    for source in sources:
        study = source.study_instance_uid
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.sop_class_uid
        reference.ReferencedSOPInstanceUID = source.sop_instance_uid
        by_series.setdefault(source.series_instance_uid, []).append(reference)
    return [_study_reference(study, by_series)]


def _study_reference(study_uid: str, by_series: dict[str, list[Dataset]]) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = study_uid
    item.ReferencedSeriesSequence = []
    for series_uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = references
        item.ReferencedSeriesSequence.append(series)
    return item


def _predecessor(report: PredecessorReport) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = report.sop_class_uid
    reference.ReferencedSOPInstanceUID = report.sop_instance_uid
    return _study_reference(report.study_instance_uid, {report.series_instance_uid: [reference]})


def _document(
    groups: list[MeasurementGroup], summary: Concept, model: ModelIdentity, context: ReportContext
) -> Dataset:
    """The content tree, from the root container (TID 1500)."""
    sources = [group.source for group in groups]
    children = [
        code(coding.LANGUAGE, coding.ENGLISH, Relationship.CONCEPT_MOD),
        *_observer(context),
        _procedure(sources[0]),
        code(coding.PROCESSING_SUMMARY, summary),
        _image_library(sources),
        container(coding.IMAGING_MEASUREMENTS, [_group(group, model) for group in groups]),
    ]
    return container(
        coding.IMAGING_MEASUREMENT_REPORT, children, relationship=None, template="1500"
    )


def _observer(context: ReportContext) -> list[Dataset]:
    """Device as observer (TID 1002 and 1004)."""
    link = Relationship.OBS_CONTEXT
    return [
        code(coding.OBSERVER_TYPE, coding.DEVICE, link),
        uid_reference(coding.DEVICE_OBSERVER_UID, device_uid(context.device_serial), link),
        text(coding.DEVICE_OBSERVER_NAME, MODEL_NAME, link),
        text(coding.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER, link),
        text(coding.DEVICE_OBSERVER_MODEL_NAME, MODEL_NAME, link),
        text(coding.DEVICE_OBSERVER_SERIAL_NUMBER, context.device_serial, link),
    ]


def _procedure(source: Source) -> Dataset:
    """Procedure reported: the source's own code, else what its SOP Class implies."""
    given = [i for i in source.header.get("ProcedureCodeSequence") or () if is_complete_code(i)]
    is_dermoscopic = source.sop_class_uid == _DERMOSCOPIC_PHOTOGRAPHY
    implied = coding.DERMOSCOPIC_PHOTOGRAPHY if is_dermoscopic else coding.PHOTOGRAPHY_OF_PATIENT
    value = written_again(given[0]) if given else implied
    return code(coding.PROCEDURE_REPORTED, value, Relationship.CONCEPT_MOD)


def _image_library(sources: list[Source]) -> Dataset:
    """Image library (TID 1600), with the modality of each image (TID 1602)."""
    entries = [_image(source, Relationship.CONTAINS, [_modality(source)]) for source in sources]
    return container(coding.IMAGE_LIBRARY, [container(coding.IMAGE_LIBRARY_GROUP, entries)])


def _modality(source: Source) -> Dataset:
    value = str(source.header.get("Modality") or "OT")
    modality = Concept(scheme="DCM", value=value, meaning=value, origin="PS3.16 CID 29")
    return code(coding.MODALITY, modality, Relationship.ACQ_CONTEXT)


def _group(group: MeasurementGroup, model: ModelIdentity) -> Dataset:
    """One measurement group (TID 1501)."""
    first, *others = group.measurements
    children = [
        text(coding.TRACKING_IDENTIFIER, group.tracking.identifier, Relationship.OBS_CONTEXT),
        uid_reference(
            coding.TRACKING_UNIQUE_IDENTIFIER, group.tracking.uid, Relationship.OBS_CONTEXT
        ),
        *_finding(group.finding),
        *[_finding_site(site, group.source) for site in group.source.finding_sites],
        *_algorithm(model),
        number(first.name, first.value, first.unit, [_region(group)]),
        *[number(item.name, item.value, item.unit) for item in others],
        *[code(item.name, item.value) for item in group.evaluations],
        *[text(coding.COMMENT, comment) for comment in group.comments],
        text(coding.ASSESSMENT_DETAILS, group.details),
    ]
    return container(coding.MEASUREMENT_GROUP, children, template="1501")


def _finding(finding: Concept | None) -> list[Dataset]:
    if finding is None:
        return []
    return [
        code(coding.FINDING_CATEGORY, coding.MORPHOLOGICALLY_ABNORMAL),
        code(coding.FINDING, finding),
    ]


def _finding_site(site: Dataset, source: Source) -> Dataset:
    sides = {"L": coding.LEFT, "R": coding.RIGHT}
    side = sides.get(source.laterality or "")
    modifier = code(coding.LATERALITY, side, Relationship.CONCEPT_MOD) if side else None
    return code(coding.FINDING_SITE, written_again(site), children=[modifier] if modifier else None)


def _algorithm(model: ModelIdentity) -> list[Dataset]:
    """Algorithm identification (TID 4019)."""
    link = Relationship.CONCEPT_MOD
    return [
        text(coding.ALGORITHM_NAME, model.name, link),
        text(coding.ALGORITHM_VERSION, model.version, link),
        text(coding.ALGORITHM_PARAMETERS, f"weights SHA-256: {model.digest}", link),
        text(coding.ALGORITHM_PARAMETERS, f"licence: {model.licence}", link),
        text(coding.ALGORITHM_MANUFACTURER, MANUFACTURER, link),
        code(coding.ALGORITHM_FAMILY, coding.ARTIFICIAL_INTELLIGENCE, link),
    ]


def _region(group: MeasurementGroup) -> Dataset:
    """The outline, selected from its image (TID 320)."""
    selected = _image(group.source, Relationship.SELECTED_FROM)
    return polyline(coding.AREA_OUTLINE, group.region, Relationship.INFERRED_FROM, selected)


def _image(
    source: Source, relationship: Relationship, children: list[Dataset] | None = None
) -> Dataset:
    return image(
        source.sop_class_uid, source.sop_instance_uid, source.frame_number, relationship, children
    )
