"""Our own results coming back: recognised whatever a PACS or a viewer did to them.

What is certain at a glance is said on arrival: our name as manufacturer, a UID of ours. Objects
that may be made of ours (secondary captures, reports, segmentations, everything DERIVED) are looked
at once more, with what they refer to, before their study closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from sqlalchemy import Connection, or_, select

from gateway.dicom.part10 import InstanceHeader
from gateway.rules.conditions import items_at, values_of
from gateway.store.tables import Installation, ResultObject

# Every result we write carries these (reports.provenance); the gateway must not import reports.
OWN_MANUFACTURER = "Lentigo"
_OWN_DESCRIPTION = ("AI ", "not for diagnostic use")  # Series Description, by reports.provenance

_MANUFACTURER, _MODEL = 0x00080070, 0x00081090
_SERIES_DESCRIPTION = 0x0008103E
_DEVICE_SERIAL_NUMBER = 0x00181000
_CONTRIBUTING_EQUIPMENT = 0x0018A001
_REFERENCES = (
    0x00081115,  # Referenced Series Sequence
    0x00081140,  # Referenced Image Sequence
    0x0008114A,  # Referenced Instance Sequence
    0x00082112,  # Source Image Sequence
    0x00420013,  # Source Instance Sequence
    0x0040A360,  # Predecessor Documents Sequence
    0x0040A370,  # Referenced Request Sequence
    0x0040A375,  # Current Requested Procedure Evidence Sequence
    0x0040A385,  # Pertinent Other Evidence Sequence
)
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_SERIES_INSTANCE_UID = 0x0020000E
_SHARED_GROUPS = 0x52009229  # Shared Functional Groups Sequence

OWN_TAGS = frozenset(
    (
        *(_MANUFACTURER, _MODEL, _SERIES_DESCRIPTION, _DEVICE_SERIAL_NUMBER),
        *(_CONTRIBUTING_EQUIPMENT, _SHARED_GROUPS, *_REFERENCES),
    )
)
"""Attributes that a closer look needs."""

_MAX_REFERENCES = 2000
_CHUNK = 400  # parameters of one query
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_MAX_DEPTH = 6

# PS3.4 B.5: SOP Classes of objects that a device of a patient's examination does not make.
_DERIVED_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, all kinds
    "1.2.840.10008.5.1.4.1.1.11",  # presentation states
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66",  # Raw Data, registrations, Segmentation, Label Map
    "1.2.840.10008.5.1.4.1.1.88",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.91",  # Microscopy Bulk Simple Annotations
    "1.2.840.10008.5.1.4.1.1.104",  # encapsulated documents
)


def may_be_derived(header: InstanceHeader) -> bool:
    """Return whether an instance may be made of another one, going by class and Image Type."""
    uid = header.sop_class_uid
    is_of_class = any(uid == root or uid.startswith(root + ".") for root in _DERIVED_CLASSES)
    return is_of_class or header.image_type.strip().upper().startswith("DERIVED")


def is_ours_at_a_glance(connection: Connection, header: InstanceHeader) -> bool:
    """Return whether an arriving instance is a result of ours, also of another installation.

    A PACS may have given it other UIDs, another patient, another compression: manufacturer and
    model stay. Where they are gone, our SOP Instance or Series Instance UID, or our words tell.
    """
    names = [_is_our_name(header.manufacturer), _is_our_name(header.manufacturer_model_name)]
    if all(names):
        return True
    is_derived = may_be_derived(header)
    if is_derived and (any(names) or _is_our_wording(header.series_description)):
        return True
    known = ResultObject.sop_instance_uid == header.sop_instance_uid
    if is_derived:
        known = or_(known, ResultObject.series_instance_uid == header.series_instance_uid)
    return connection.execute(select(ResultObject.id).where(known).limit(1)).first() is not None


def _is_our_name(text: str) -> bool:
    return text.strip().casefold() == OWN_MANUFACTURER.casefold()


def _is_our_wording(text: str) -> bool:
    start, within = _OWN_DESCRIPTION
    return text.startswith(start) and within in text


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An instance that may be made of a result of ours."""

    id: int
    sop_class_uid: str
    header: Dataset
    """Its attributes ``OWN_TAGS``."""

    @property
    def is_report(self) -> bool:
        """Whether it is a structured report or a key object selection."""
        return self.sop_class_uid.startswith(_REPORTS)


def are_made_of_ours(connection: Connection, doubtful: Sequence[Doubtful]) -> set[int]:
    """Return which of some instances are results of ours, or made of such.

    An image counts when it refers to a result of ours at all. A report counts when it refers to
    nothing else: one that a person wrote about the patient's images may well cite ours.
    """
    serial = connection.execute(select(Installation.serial)).scalar() or ""
    found = {each.id for each in doubtful if _names_us(each.header, serial)}
    references = {
        each.id: set(_referenced_uids(each.header)) for each in doubtful if each.id not in found
    }
    ours = _known(connection, sorted(set().union(*references.values()))) if references else set()
    for each in doubtful:
        those = references.get(each.id, set())
        if those & ours and (not each.is_report or those <= ours):
            found.add(each.id)
    return found


def _known(connection: Connection, uids: Sequence[str]) -> set[str]:
    """Return which UIDs are those of instances or series of ours, with their counterparts."""
    ours: set[str] = set()
    for start in range(0, len(uids), _CHUNK):
        chunk = uids[start : start + _CHUNK]
        rows = connection.execute(
            select(ResultObject.sop_instance_uid, ResultObject.series_instance_uid).where(
                or_(
                    ResultObject.sop_instance_uid.in_(chunk),
                    ResultObject.series_instance_uid.in_(chunk),
                )
            )
        )
        ours.update(uid for row in rows for uid in row)
    return ours


def _names_us(header: Dataset, serial: str) -> bool:
    texts = [
        str(value)
        for tag in (_MANUFACTURER, _MODEL)
        for ds in (header, *items_at(header, (_CONTRIBUTING_EQUIPMENT,)))
        for value in values_of(ds, tag)
    ]
    serials = [str(value) for value in values_of(header, _DEVICE_SERIAL_NUMBER)]
    wording = [str(value) for value in values_of(header, _SERIES_DESCRIPTION)]
    return (
        any(_is_our_name(text) for text in texts)
        or (bool(serial) and serial in serials)
        or any(_is_our_wording(text) for text in wording)
    )


def _referenced_uids(header: Dataset) -> Iterator[str]:
    """Yield the UIDs of instances and series that an object refers to, a bounded number."""
    waiting = [(item, 0) for tag in (*_REFERENCES, _SHARED_GROUPS) for item in _items(header, tag)]
    count = 0
    while waiting and count < _MAX_REFERENCES:
        item, depth = waiting.pop()
        for tag in (_REFERENCED_SOP_INSTANCE_UID, _SERIES_INSTANCE_UID):
            for value in values_of(item, tag):
                count += 1
                yield str(value)
        if depth < _MAX_DEPTH:
            waiting += [
                (each, depth + 1) for tag in list(item.keys()) for each in _items(item, int(tag))
            ]


def _items(ds: Dataset, tag: int) -> list[Dataset]:
    return items_at(ds, (tag,))
