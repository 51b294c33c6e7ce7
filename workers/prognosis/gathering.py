"""Everything that a study says of its patient, source by source, in order of precedence. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset

from gateway.document_syntax import parse_json
from gateway.errors import DocumentRefused
from gateway.store.values import InstanceRow
from models.prognosis.reasons import Obstacle, Reason
from workers.errors import Undecodable
from workers.ports import Document
from workers.prognosis.attributes import read_attributes, text_of
from workers.prognosis.fhir import holds_covariates, is_fhir, read_fhir
from workers.prognosis.site import is_ours, read_site_document
from workers.prognosis.statements import Reading
from workers.prognosis.structured_report import read_report, states_tumour
from workers.study import Study

_JSON_TYPES = ("application/json", "application/fhir+json")
_NAME = "prognosis"
"""Documents whose name begins so are for the prognosis, whatever they hold."""
MAX_REPORTS = 8
MAX_REPORT_BYTES = 4 * 1024 * 1024
"""Structured reports beyond these are not looked into: routing must be quick."""


def documents_for_prognosis(study: Study) -> tuple[Document, ...]:
    """Documents of the site that speak of the prognosis."""
    return tuple(each for each in study.documents() if _is_for_prognosis(each))


def _is_for_prognosis(document: Document) -> bool:
    if document.media_type not in _JSON_TYPES:
        return False
    if document.name.lower().startswith(_NAME):
        return True
    content = _parsed(document)
    return is_ours(content) or (is_fhir(content) and holds_covariates(content))


def _parsed(document: Document) -> Any:
    """Its content; None where it is no JSON, which the door does not let in."""
    try:
        return parse_json(document.content)
    except DocumentRefused:
        return None


def structured_reports(study: Study) -> tuple[InstanceRow, ...]:
    """Structured reports of the study that are few and small enough to be read."""
    found = [
        each
        for each in study.instances
        if each.modality == "SR" and each.size_bytes <= MAX_REPORT_BYTES
    ]
    return tuple(found) if len(found) <= MAX_REPORTS else ()


def reports_for_prognosis(study: Study) -> tuple[tuple[InstanceRow, Reading], ...]:
    """Structured reports that state the thickness or the ulceration of a melanoma."""
    found = []
    for instance in structured_reports(study):
        try:
            header = study.header(instance)
        except Undecodable:
            continue
        reading = read_report(header, "structured report")
        if states_tumour(reading):
            found.append((instance, reading))
    return tuple(found)


def gather(study: Study, header: Dataset) -> tuple[Reading, ...]:
    """Read every source of a study.

    Parameters
    ----------
    header
        Of the instance that the result is filed with: its patient and study attributes count.

    Returns
    -------
        JSON documents, FHIR documents, structured reports, DICOM attributes.
    """
    own: list[Reading] = []
    fhir: list[Reading] = []
    for document in documents_for_prognosis(study):
        content = _parsed(document)
        if is_ours(content):
            own.append(read_site_document(content, _title("JSON document", len(own))))
        elif is_fhir(content):
            date = text_of(header, "StudyDate")
            title = _title("FHIR document", len(fhir))
            fhir.append(read_fhir(content, title, study_date=date))
        else:
            own.append(_unknown(_title("JSON document", len(own))))
    return (*own, *fhir, *_reports(study), read_attributes(header))


def _reports(study: Study) -> Iterator[Reading]:
    for number, (_, reading) in enumerate(reports_for_prognosis(study)):
        title = _title("structured report", number)
        yield Reading(source=title, statements=reading.statements, remarks=reading.remarks)


def _title(kind: str, number: int) -> str:
    return kind if not number else f"{kind} {number + 1}"


def _unknown(source: str) -> Reading:
    text = f"the {source} is neither a prognosis document nor a FHIR resource"
    return Reading(source=source, reasons=(Reason(kind=Obstacle.UNREADABLE, text=text),))
