"""One SR document with TID 1500: everything around the measurement groups, for every analysis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    sop_reference,
    text,
    uid_reference,
)
from reports.context import PredecessorReport, ReportContext
from reports.elements import item, mark_encoded, sequence
from reports.elements import text as text_element
from reports.provenance import (
    MANUFACTURER,
    MODEL_NAME,
    file_meta,
    observed_at,
    result_uids,
    series_description,
    series_number,
    stamp,
)
from reports.source import Source, is_complete_code, written_again
from reports.uids import device_uid

_SERIES_NUMBER_KIND = 0
_DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"  # not among pydicom's constants
_STUDY_INSTANCE_UID = 0x0020_000D
_SERIES_INSTANCE_UID = 0x0020_000E
_REFERENCED_SERIES_SEQUENCE = 0x0008_1115
_REFERENCED_SOP_SEQUENCE = 0x0008_1199


def measurement_document(
    groups: Sequence[Dataset],
    *,
    sources: Sequence[Source],
    summary: Concept,
    model: ModelIdentity,
    context: ReportContext,
    role: str = "sr",
    number: int = 1,
    content: str = "report",
    subject: Sequence[Dataset] = (),
    title: Concept = coding.IMAGING_MEASUREMENT_REPORT,
) -> Dataset:
    """Put measurement groups into a document.

    Parameters
    ----------
    groups
        Content items, mostly measurement groups (TID 1410, 1501), below Imaging Measurements.
    sources
        The instances that the document speaks of; patient and study are those of the first, and
        instances of other studies are pertinent other evidence.
    summary
        CAD Processing and Findings Summary (CID 6047).
    model
        The model that spoke.
    context
        Time, installation, generation and predecessors.
    role
        Role of the object; ``sr`` for the one that later generations supersede.
    number
        Number of the SR series in the result, 1-based.
    content
        What the series holds, for its description.
    subject
        Subject Context (TID 1006), empty where the subject is the patient.
    title
        Document title (CID 7021). OHIF draws groups of the usual one, all of which must have a
        region then; it prints a document of another title as text.

    Returns
    -------
        A Comprehensive 3D SR, UNVERIFIED and PRELIMINARY, with File Meta Information. Its
        sequences are encoded already (``reports.elements``).

    References
    ----------
    PS3.3 A.35.13 (IOD), PS3.16 TID 1500, 1600, 1002, 1004 (2024c).
    """
    ds = Dataset()
    ds.SOPClassUID = Comprehensive3DSRStorage
    uid = result_uids(sources[0], model, context)
    ds.SOPInstanceUID, ds.SeriesInstanceUID = uid(role), uid(f"{role}/series")
    ds.Modality = "SR"
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, number)
    ds.SeriesDescription = series_description(content, context)
    ds.InstanceNumber = 1
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    own, *others = evidence(sources)
    ds.CurrentRequestedProcedureEvidenceSequence = [own]
    if others:
        ds.PertinentOtherEvidenceSequence = others
    if context.predecessors and role == "sr":
        ds.PredecessorDocumentsSequence = [_predecessor(item) for item in context.predecessors]
    ds.CodingSchemeIdentificationSequence = [coding.coding_scheme_item()]
    stamp(ds, list(sources), context)
    ds.update(
        container(
            title,
            [
                code(coding.LANGUAGE, coding.ENGLISH, Relationship.CONCEPT_MOD),
                *_observer(context),
                *subject,
                _procedure(sources[0]),
                code(coding.PROCESSING_SUMMARY, summary),
                *_image_library([source for source in sources if source.is_image], title),
                container(coding.IMAGING_MEASUREMENTS, list(groups)),
            ],
            relationship=None,
            template="1500",
        )
    )
    ds.ObservationDateTime = observed_at(context, sources[0]).strftime("%Y%m%d%H%M%S%z")
    ds.file_meta = file_meta(ds)
    mark_encoded(ds)
    return ds


def processing_summary(assessed: int, total: int, *, has_findings: bool) -> Concept:
    """CAD Processing and Findings Summary (CID 6047) of ``total`` parts, ``assessed`` of them."""
    if assessed == 0:
        return coding.NONE_SUCCEEDED
    if assessed == total:
        return (
            coding.ALL_SUCCEEDED_WITH_FINDINGS
            if has_findings
            else coding.ALL_SUCCEEDED_WITHOUT_FINDINGS
        )
    return (
        coding.NOT_ALL_SUCCEEDED_WITH_FINDINGS
        if has_findings
        else coding.NOT_ALL_SUCCEEDED_WITHOUT_FINDINGS
    )


def evidence(sources: Iterable[Source]) -> list[Dataset]:
    """The sources by study and series, the first one's study in front (PS3.3 Table C.17-3)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for source in sources:
        by_series = studies.setdefault(source.study_instance_uid, {})
        reference = sop_reference(source.sop_class_uid, source.sop_instance_uid)
        by_series.setdefault(source.series_instance_uid, []).append(reference)
    return [_study_reference(study, by_series) for study, by_series in studies.items()]


def _study_reference(study_uid: str, by_series: dict[str, list[Dataset]]) -> Dataset:
    series = [
        item(
            text_element(_SERIES_INSTANCE_UID, "UI", series_uid),
            sequence(_REFERENCED_SOP_SEQUENCE, references),
        )
        for series_uid, references in by_series.items()
    ]
    return item(
        text_element(_STUDY_INSTANCE_UID, "UI", study_uid),
        sequence(_REFERENCED_SERIES_SEQUENCE, series),
    )


def _predecessor(report: PredecessorReport) -> Dataset:
    reference = sop_reference(report.sop_class_uid, report.sop_instance_uid)
    return _study_reference(report.study_instance_uid, {report.series_instance_uid: [reference]})


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


def _image_library(images: Sequence[Source], title: Concept) -> list[Dataset]:
    """Image library (TID 1600), with the modality of each image (TID 1602); none without images.

    Nor has a document of another title one: OHIF prints it as text, and breaks down at an item
    without a name, as those of the library are. The images are listed as evidence all the same.
    """
    if not images or title != coding.IMAGING_MEASUREMENT_REPORT:
        return []
    entries = [image_item(source, Relationship.CONTAINS, [_modality(source)]) for source in images]
    return [container(coding.IMAGE_LIBRARY, [container(coding.IMAGE_LIBRARY_GROUP, entries)])]


def _modality(source: Source) -> Dataset:
    value = str(source.header.get("Modality") or "OT")
    modality = Concept(scheme="DCM", value=value, meaning=value, origin="PS3.16 CID 29")
    return code(coding.MODALITY, modality, Relationship.ACQ_CONTEXT)


def algorithm(model: ModelIdentity) -> list[Dataset]:
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


def image_item(
    source: Source, relationship: Relationship, children: list[Dataset] | None = None
) -> Dataset:
    """IMAGE for a source, with its frame where it has frames."""
    return image(
        source.sop_class_uid, source.sop_instance_uid, source.frame_number, relationship, children
    )
