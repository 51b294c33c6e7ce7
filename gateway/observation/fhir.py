"""FHIR R4: one DiagnosticReport for each completed study, posted to the site's server.

Made of the record at the moment of sending; nothing of it is kept in the notice. It refers to the
study by its Study Instance UID and to each result object by its SOP Instance UID (HL7 FHIR R4,
DiagnosticReport and ImagingStudy; the identifier system of DICOM UIDs is ``urn:dicom:uid``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select

from gateway.errors import NoticeRefused
from gateway.observation.http_post import Poster, check_address, client_tls
from gateway.observation.outbox import Channel, Letter
from gateway.observation.settings import FhirSettings
from gateway.store.engine import reading
from gateway.store.tables import (
    Generation,
    Identity,
    Installation,
    ResultObject,
    Study,
    WorkItem,
)
from gateway.wording import headline

_DICOM_UID = "urn:dicom:uid"
_LOINC = "http://loinc.org"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_RESEARCH = "Opinion of models, for research use only; not a diagnosis."


def fhir_channels(settings: FhirSettings, engine: Engine) -> dict[str, Channel]:
    """Return the channel of DiagnosticReports, if a server is named.

    Raises
    ------
    SettingsError
        The address or the CA file cannot be used.
    """
    if not settings.url:
        return {}
    parts = check_address(settings.url, "LENTIGO_FHIR_URL")
    poster = Poster(
        address=settings.url.rstrip("/") + "/DiagnosticReport",
        setting="LENTIGO_FHIR_URL",
        allowed_hosts=frozenset({(parts.hostname or "").lower()}),
        timeout_s=settings.timeout_s,
        tls=client_tls(settings.ca),
    )
    return {"fhir": _channel(poster, settings, engine)}


def _channel(post: Callable[..., int], settings: FhirSettings, engine: Engine) -> Channel:
    # Hundreds of classes: a site without a FHIR server does not pay for them.
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    def send(letter: Letter) -> int:
        study = letter.payload.get("study")
        with reading(engine) as connection:
            resource = diagnostic_report(
                connection,
                int(study or 0),
                letter.id,
                includes_patient=settings.includes_patient,
            )
        if resource is None:
            raise NoticeRefused("the study has no result any more")
        identifier = resource["identifier"][0]
        headers = {
            "Content-Type": "application/fhir+json",
            "Accept": "application/fhir+json",
            # A second try must not make a second report (FHIR R4 3.1.0.8.1, conditional create).
            "If-None-Exist": f"identifier={identifier['system']}|{identifier['value']}",
        }
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
        model = DiagnosticReport.model_validate(resource)
        return post(model.model_dump_json(exclude_none=True).encode(), headers)

    return send


def diagnostic_report(
    connection: Connection, study_id: int, notice_id: int, *, includes_patient: bool
) -> dict[str, Any] | None:
    """Return the DiagnosticReport of a study's newest results; None when there are none.

    Parameters
    ----------
    notice_id
        Makes the identifier of the report, so that the server knows it again.
    includes_patient
        Whether Patient ID and Accession Number are named.
    """
    study = connection.execute(select(Study).where(Study.id == study_id)).first()
    items = _newest_items(connection, study_id)
    if study is None or not items:
        return None
    serial = connection.execute(select(Installation.serial)).scalar() or "unknown"
    observations = [_observation(item) for item in items]
    resource: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": f"urn:lentigo:{serial}", "value": f"notice-{notice_id}"}],
        # Nobody has signed it; a site's clinician may.
        "status": "preliminary",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v2-0074",
                        "code": "IMG",
                        "display": "Diagnostic Imaging",
                    }
                ]
            }
        ],
        "code": {
            "coding": [
                {"system": _LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
            ],
            "text": "Analysis of dermatological images by models",
        },
        "issued": study.state_changed_at.isoformat(timespec="milliseconds"),
        "imagingStudy": [{"reference": "#study"}],
        "result": [{"reference": f"#{each['id']}"} for each in observations],
        "conclusion": _RESEARCH,
        "contained": [_imaging_study(connection, study, items), *observations],
    }
    if includes_patient:
        resource |= _patient(connection, study_id)
    if "subject" in resource:
        resource["contained"][0]["subject"] = resource["subject"]
    return resource


def _newest_items(connection: Connection, study_id: int) -> Sequence[Any]:
    newest = (
        select(Generation.id)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    return connection.execute(
        select(WorkItem)
        .where(WorkItem.study_id == study_id, WorkItem.generation_id == newest)
        .order_by(WorkItem.id)
    ).all()


def _observation(item: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"analysis-{item.id}",
        "status": "preliminary",
        "code": {"text": item.analysis.replace("_", " ")},
        "device": {"display": f"Lentigo {item.analysis}, model {item.model_digest[:12]}"},
    }
    said = headline(item.summary)
    if item.outcome == "assessed" and said:
        return {**found, "valueString": said}
    absent = {"system": _ABSENT, "code": "not-performed" if item.outcome else "error"}
    return {
        **found,
        "dataAbsentReason": {"coding": [absent], "text": item.reason or "no result"},
    }


def _imaging_study(connection: Connection, study: Any, items: Sequence[Any]) -> dict[str, Any]:
    """Return the study with the series and instances of its result objects."""
    rows = connection.execute(
        select(
            ResultObject.series_instance_uid,
            ResultObject.sop_class_uid,
            ResultObject.sop_instance_uid,
            ResultObject.role,
        )
        .where(ResultObject.work_item_id.in_([item.id for item in items]))
        .order_by(ResultObject.id)
    ).all()
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault(row.series_instance_uid, []).append(
            {
                "uid": row.sop_instance_uid,
                "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{row.sop_class_uid}"},
                "title": row.role,
            }
        )
    return {
        "resourceType": "ImagingStudy",
        "id": "study",
        "status": "available",
        "identifier": [{"system": _DICOM_UID, "value": f"urn:oid:{study.study_instance_uid}"}],
        # FHIR wants a subject; which one may not be for this server to know.
        "subject": {"display": "not disclosed"},
        "series": [
            {
                "uid": uid,
                "modality": {
                    "system": "http://dicom.nema.org/resources/ontology/DCM",
                    "code": _modality(instances[0]["title"]),
                },
                "instance": instances,
            }
            for uid, instances in series.items()
        ],
    }


def _modality(role: str) -> str:
    kind = role.rstrip("0123456789").rstrip("-")
    return {"sr": "SR", "seg": "SEG", "pdf": "DOC"}.get(kind, "OT")


def _patient(connection: Connection, study_id: int) -> dict[str, Any]:
    row = connection.execute(
        select(Identity.patient_id, Identity.issuer_of_patient_id, Identity.accession_number).where(
            Identity.study_id == study_id
        )
    ).first()
    found: dict[str, Any] = {}
    if row is not None and row.patient_id.strip():
        identifier = {"value": row.patient_id.strip()}
        if row.issuer_of_patient_id.strip():
            identifier["system"] = _issuer(row.issuer_of_patient_id.strip())
        found["subject"] = {"type": "Patient", "identifier": identifier}
    if row is not None and row.accession_number.strip():
        accession = {
            "type": {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                        "code": "ACSN",
                    }
                ]
            },
            "value": row.accession_number.strip(),
        }
        found["basedOn"] = [{"type": "ServiceRequest", "identifier": accession}]
    return found


def _issuer(issuer: str) -> str:
    """Return an issuer as a URI: an OID as such, a local name below ours."""
    is_oid = all(part.isdigit() for part in issuer.split("."))
    return f"urn:oid:{issuer}" if is_oid else f"urn:lentigo:issuer:{'-'.join(issuer.split())}"
