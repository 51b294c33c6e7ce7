"""One entry of the trail as a DICOM audit message in XML (PS3.15 A.5.1, A.5.3). Pure.

The record's entries hold internal ids; whose study it was is looked up when a message is made and
comes in as a ``Subject``.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from gateway.audit import events
from gateway.audit.events import Code, Kind, kind_of
from gateway.store.audit import Entry

_APPLICATION_SERVER = "4"  # PS3.15 A.5.1.2.1
_IP_ADDRESS = "2"  # NetworkAccessPointTypeCode
_HOST_NAME = "1"
_PERSON, _SYSTEM_OBJECT = "1", "2"  # ParticipantObjectTypeCode
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"  # ParticipantObjectTypeCodeRole
# XML 1.0 2.2: what no document may hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SAID_ELSEWHERE = frozenset({"study", "calling_ae_title", "peer", "destination", "classes"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """Who reports: this installation."""

    source_id: str
    """AuditSourceID: the host."""
    enterprise_site: str = ""
    ae_title: str = "LENTIGO"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose study an entry speaks of."""

    study_instance_uid: str
    patient: str = field(repr=False)
    """Patient ID, or the digest that stands for it; empty when the study names none."""


def audit_message(entry: Entry, source: Source, subject: Subject | None = None) -> str:
    """Return the message, without an XML declaration and on one line.

    Parameters
    ----------
    subject
        The study that the entry's detail names by its id; None without one.
    """
    kind = kind_of(entry.action)
    root = ElementTree.Element("AuditMessage")
    _identify_event(root, entry, kind)
    for participant in _participants(entry, kind, source):
        root.append(participant)
    origin = ElementTree.SubElement(root, "AuditSourceIdentification")
    if source.enterprise_site:
        origin.set("AuditEnterpriseSiteID", _text(source.enterprise_site))
    origin.set("AuditSourceID", _text(source.source_id))
    ElementTree.SubElement(origin, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    for described in _objects(entry, kind, subject):
        root.append(described)
    return ElementTree.tostring(root, encoding="unicode")


def _text(value: object) -> str:
    # Without line breaks: a message is one line of the audit file.
    return " ".join(_FORBIDDEN.sub("�", str(value)).split())


def _coded(parent: ElementTree.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.scheme,
        "originalText": code.meaning,
    }
    ElementTree.SubElement(parent, name, attributes)


def _identify_event(root: ElementTree.Element, entry: Entry, kind: Kind) -> None:
    moment = entry.at.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    event = ElementTree.SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": kind.action_code,
            "EventDateTime": moment,
            "EventOutcomeIndicator": kind.outcome,
        },
    )
    _coded(event, "EventID", kind.event)
    if kind.type is not None:
        _coded(event, "EventTypeCode", kind.type)
    reason = entry.detail.get("reason") or entry.detail.get("cause")
    if reason and kind.outcome != events.SUCCESS:
        ElementTree.SubElement(event, "EventOutcomeDescription").text = _text(reason)


# -- who took part ----------------------------------------------------------------------------


def _participant(
    user_id: str, *, requests: bool, role: Code | None = None, place: str = "", aets: str = ""
) -> ElementTree.Element:
    found = ElementTree.Element("ActiveParticipant", {"UserID": _text(user_id) or "unknown"})
    if aets:
        found.set("AlternativeUserID", f"AETITLES={_text(aets)}")  # PS3.15 A.5.2.3
    found.set("UserIsRequestor", "true" if requests else "false")
    if _text(place):
        is_address = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%\w]*", place) is not None
        found.set("NetworkAccessPointID", _text(place))
        found.set("NetworkAccessPointTypeCode", _IP_ADDRESS if is_address else _HOST_NAME)
    if role is not None:
        _coded(found, "RoleIDCode", role)
    return found


def _ourselves(
    source: Source, *, requests: bool = False, role: Code | None = None
) -> ElementTree.Element:
    return _participant(
        source.ae_title, requests=requests, role=role, place=source.source_id, aets=source.ae_title
    )


def _participants(entry: Entry, kind: Kind, source: Source) -> list[ElementTree.Element]:
    detail, actor = entry.detail, entry.actor
    place = str(detail.get("peer", ""))
    match kind.event:
        case events.APPLICATION_ACTIVITY | events.NETWORK_ENTRY:
            name = f"{source.ae_title} {actor}".strip()
            return [
                _participant(
                    name,
                    requests=False,
                    role=events.APPLICATION,
                    place=source.source_id,
                    aets=source.ae_title,
                )
            ]
        case events.BEGIN_TRANSFERRING | events.INSTANCES_TRANSFERRED if "destination" in detail:
            return _outward(str(detail["destination"]), source)
        case events.BEGIN_TRANSFERRING | events.INSTANCES_TRANSFERRED:
            sender = _participant(
                actor, requests=True, role=events.SOURCE_ROLE, place=place, aets=actor
            )
            return [sender, _ourselves(source, role=events.DESTINATION_ROLE)]
        case events.QUERY:
            return _query(entry, source, place)
        case events.IMPORT:
            sender = _participant(actor, requests=True, role=events.SOURCE_MEDIA, place=place)
            return [sender, _ourselves(source, role=events.DESTINATION_ROLE)]
        case events.EXPORT:
            taker = _participant(actor, requests=True, role=events.DESTINATION_MEDIA, place=place)
            return [taker, _ourselves(source, role=events.SOURCE_ROLE)]
        case events.SECURITY_ALERT:
            return [_ourselves(source), _participant(actor, requests=True, place=place)]
        case _:
            return [_participant(actor, requests=True, place=place), _ourselves(source)]


def _outward(destination: str, source: Source) -> list[ElementTree.Element]:
    ae_title, _, address = destination.partition("@")
    taker = _participant(
        ae_title,
        requests=False,
        role=events.DESTINATION_ROLE,
        place=address.partition("/")[0].rpartition(":")[0].strip("[]"),
        aets=ae_title if address else "",
    )
    return [_ourselves(source, requests=True, role=events.SOURCE_ROLE), taker]


def _query(entry: Entry, source: Source, place: str) -> list[ElementTree.Element]:
    if entry.action == "query.received":
        asker = _participant(entry.actor, requests=True, role=events.SOURCE_ROLE, place=place)
        return [asker, _ourselves(source, role=events.DESTINATION_ROLE)]
    asked = _participant(entry.actor, requests=False, role=events.DESTINATION_ROLE, place=place)
    return [_ourselves(source, requests=True, role=events.SOURCE_ROLE), asked]


# -- what it was about ------------------------------------------------------------------------


def _object(
    object_id: str, *, kind: Code, type_code: str, role: str, name: str, query: str | None = None
) -> ElementTree.Element:
    attributes = {
        "ParticipantObjectID": _text(object_id),
        "ParticipantObjectTypeCode": type_code,
        "ParticipantObjectTypeCodeRole": role,
    }
    found = ElementTree.Element("ParticipantObjectIdentification", attributes)
    _coded(found, "ParticipantObjectIDTypeCode", kind)
    if query is None:
        ElementTree.SubElement(found, "ParticipantObjectName").text = _text(name)
    else:
        encoded = base64.b64encode(query.encode()).decode("ascii")
        ElementTree.SubElement(found, "ParticipantObjectQuery").text = encoded
    return found


def _describe(found: ElementTree.Element, detail: Mapping[str, Any]) -> None:
    for name, value in sorted(detail.items()):
        said = "" if value is None else _text(value).strip()
        if name in _SAID_ELSEWHERE or not said:
            continue
        encoded = base64.b64encode(said.encode()).decode("ascii")
        attributes = {"type": _text(name), "value": encoded}
        ElementTree.SubElement(found, "ParticipantObjectDetail", attributes)


def _objects(entry: Entry, kind: Kind, subject: Subject | None) -> list[ElementTree.Element]:
    detail = entry.detail
    found: list[ElementTree.Element] = []
    if kind.event == events.AUDIT_LOG_USED:
        trail = _object(
            "urn:lentigo:audit-trail",
            kind=events.URI,
            type_code=_SYSTEM_OBJECT,
            role=_SECURITY_RESOURCE,
            name="Security Audit Log",  # PS3.15 A.5.3.2
        )
        _describe(trail, detail)
        return [trail]
    if kind.event == events.QUERY:
        query = _object(
            str(detail.get("sop_class", "unknown")),
            kind=events.SOP_CLASS_UID,
            type_code=_SYSTEM_OBJECT,
            role=_REPORT,
            name="",
            # The keys of a query are personal data; which were given is not.
            query=str(detail.get("keys", "")),
        )
        return [query]
    if subject is not None:
        found = [_study(detail, subject), _patient(subject)]
    elif kind.event in (events.SECURITY_ALERT, events.EXPORT):
        alert = _object(
            entry.action,
            kind=events.NODE_ID,
            type_code=_SYSTEM_OBJECT,
            role=_SECURITY_RESOURCE,
            name=entry.action,
        )
        _describe(alert, detail)
        found = [alert]
    return found


def _study(detail: Mapping[str, Any], subject: Subject) -> ElementTree.Element:
    study = _object(
        subject.study_instance_uid,
        kind=events.STUDY_INSTANCE_UID,
        type_code=_SYSTEM_OBJECT,
        role=_REPORT,
        name=f"study {detail.get('study')}",
    )
    _describe(study, detail)
    classes = detail.get("classes")
    if isinstance(classes, Mapping) and classes:
        content = ElementTree.SubElement(study, "ParticipantObjectDescription")
        for uid, count in sorted(classes.items()):
            attributes = {"UID": _text(uid), "NumberOfInstances": str(int(count))}
            ElementTree.SubElement(content, "SOPClass", attributes)
    return study


def _patient(subject: Subject) -> ElementTree.Element:
    return _object(
        subject.patient or "unknown",
        kind=events.PATIENT_NUMBER,
        type_code=_PERSON,
        role=_PATIENT,
        name="not stated",
    )
