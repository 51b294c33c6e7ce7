"""The lesion index: which received images show the same lesion of the same patient, and when.

Keys in the order of their worth (PS3.3 C.8.12.13): Tracking UID; Tracking ID within one issuer and
patient; body site with laterality, which makes a candidate and no more. Nothing is ever matched
across patients, nor for a patient without an identifier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, case, func, select

from gateway.dicom.part10 import InstanceHeader
from gateway.store.engine import reading
from gateway.store.tables import Identity, Instance, Study
from gateway.store.values import EarlierImage, InstanceRow

PRIOR = "prior"
"""Disposition of an image that was fetched to compare with, and is not analysed."""
TRACKING_UID = "tracking_uid"
TRACKING_ID = "tracking_id"
BODY_SITE = "body_site"

# The type parameters of Row differ between SQLAlchemy 2.0 and 2.1.
HeldRow = Any

# PS3.16 Annex L: these name an organ or the whole, no place where one lesion is to be found. Every
# photograph of the skin may carry them.
_NO_PLACE = frozenset(
    {
        *("SCT|39937001", "SRT|T-01000", "SNM3|T-01000", "BodyPartExamined|SKIN"),
        *("SCT|38266002", "SRT|T-D0010", "SNM3|T-D0010", "BodyPartExamined|WHOLEBODY"),
    }
)
_SEPARATOR = "\x1f"
_DATE_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Whose study it is; personal data, for a query and for nothing else."""

    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    study_date: str
    """``YYYYMMDD``; empty when the study has none."""
    study_instance_uid: str
    known: frozenset[str] = field(repr=False)
    """SOP Instance UIDs of every instance of the patient in the record."""


def patient_key(issuer_of_patient_id: str, patient_id: str) -> str:
    """Digest that stands for one patient of one issuer; empty without a Patient ID.

    Examples
    --------
    >>> patient_key("", "") == patient_key("HOSPITAL", "  ") == ""
    True
    >>> patient_key("A", "1") == patient_key("B", "1")
    False
    """
    patient_id = patient_id.strip()
    if not patient_id:
        return ""
    text = f"{issuer_of_patient_id.strip()}{_SEPARATOR}{patient_id}"
    return hashlib.sha256(text.encode()).hexdigest()


def lesion_values(header: InstanceHeader) -> dict[str, str]:
    """Return the columns of ``instances`` that say which lesion an image shows, and when."""
    uid = header.tracking_uid if len(header.tracking_uid) <= 64 else ""
    name = header.tracking_id.strip()
    return {
        "tracking_uid": uid,
        "tracking_id_sha256": hashlib.sha256(name.encode()).hexdigest() if name else "",
        "body_site": body_site(header),
        "acquired_at": header.acquired_at,
    }


def body_site(header: InstanceHeader) -> str:
    """Scheme, code value and laterality of the anatomic region, else of the body part.

    Empty where the region is the skin as such or the whole body: that links nothing.

    Examples
    --------
    >>> body_site(InstanceHeader(sop_class_uid="1", sop_instance_uid="2", study_instance_uid="3",
    ...     series_instance_uid="4", transfer_syntax_uid="5",
    ...     anatomic_region_code="SCT|40983000", image_laterality="L"))
    'SCT|40983000|L'
    """
    part = header.body_part_examined.strip().upper()
    named = (header.anatomic_region_code, f"BodyPartExamined|{part}" if part else "")
    site = next((each for each in named if each and each not in _NO_PLACE), "")
    if not site:
        return ""
    return f"{site[:60]}|{(header.image_laterality or header.laterality).strip()[:16]}"


def lesion_columns() -> tuple[ColumnElement[Any], ...]:
    """Columns of an ``InstanceRow`` that this index fills; needs ``identities`` joined."""
    study_date = case(
        (func.length(Identity.study_date) == _DATE_DIGITS, Identity.study_date + "000000"), else_=""
    )
    return (
        Instance.tracking_uid.label("tracking_uid"),
        Instance.tracking_id_sha256.label("tracking_id_sha256"),
        Instance.body_site.label("body_site"),
        func.coalesce(func.nullif(Instance.acquired_at, ""), study_date, "").label("acquired_at"),
    )


class LesionIndex:
    """Looks up earlier images of the lesions of a study."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def earlier(
        self, study_id: int, instances: Sequence[InstanceRow]
    ) -> dict[str, tuple[EarlierImage, ...]]:
        """Return what the record holds of the same lesions at earlier times.

        Parameters
        ----------
        study_id
            The study in the record.
        instances
            Images of it.

        Returns
        -------
        Earlier images by SOP Instance UID, newest first, of the best kind of linkage that has
        any. An image of the same study counts as earlier from another day only.

        Raises
        ------
        RecordUnavailable
            The database does not answer.
        """
        with reading(self._engine) as connection:
            held = _of_patient(connection, study_id, instances)
        return {each.sop_instance_uid: _earlier(each, held) for each in instances}

    def patient(self, study_id: int) -> Patient | None:
        """Return whose study it is and which images of that patient are held.

        None without a Patient ID.
        """
        with reading(self._engine) as connection:
            row = connection.execute(
                select(
                    Identity.patient_key,
                    Identity.patient_id,
                    Identity.issuer_of_patient_id,
                    Identity.study_date,
                    Study.study_instance_uid,
                )
                .join(Study, Identity.study_id == Study.id)
                .where(Identity.study_id == study_id)
            ).first()
            if row is None or not row.patient_key:
                return None
            held = connection.execute(
                select(Instance.sop_instance_uid)
                .join(Identity, Instance.study_id == Identity.study_id)
                .where(Identity.patient_key == row.patient_key, Instance.purged_at.is_(None))
            ).scalars()
            return Patient(
                patient_id=row.patient_id,
                issuer_of_patient_id=row.issuer_of_patient_id,
                study_date=row.study_date if len(row.study_date) == _DATE_DIGITS else "",
                study_instance_uid=row.study_instance_uid,
                known=frozenset(held),
            )


def with_earlier(
    connection: Connection, study_id: int, instances: tuple[InstanceRow, ...]
) -> tuple[InstanceRow, ...]:
    """Say of images that no identifier tracks whether the record holds earlier ones of the site."""
    untracked = [
        each
        for each in instances
        if each.body_site and not (each.tracking_uid or each.tracking_id_sha256)
    ]
    if not untracked:
        return instances
    held = _of_patient(connection, study_id, untracked)
    known = {each.sop_instance_uid for each in untracked if _earlier(each, held)}
    return tuple(replace(each, has_earlier=each.sop_instance_uid in known) for each in instances)


def _of_patient(
    connection: Connection, study_id: int, instances: Iterable[InstanceRow]
) -> list[HeldRow]:
    """Return the images of the study's patient that may show one of its lesions.

    Two patients of different institutions may share an identifier where no issuer is stated: a
    contradicting birth date tells them apart.
    """
    patient = connection.execute(
        select(Identity.patient_key, Identity.patient_birth_date).where(
            Identity.study_id == study_id
        )
    ).first()
    if patient is None or not patient.patient_key:
        return []
    rows = connection.execute(
        select(
            Instance.id,
            Instance.disposition,
            Instance.study_id,
            Instance.sop_instance_uid,
            Instance.sop_class_uid,
            Instance.series_instance_uid,
            Instance.transfer_syntax_uid,
            Instance.modality,
            Instance.path,
            Instance.size_bytes,
            *lesion_columns(),
            Study.study_instance_uid,
            Identity.patient_birth_date,
        )
        .join(Identity, Instance.study_id == Identity.study_id)
        .join(Study, Instance.study_id == Study.id)
        .where(
            Identity.patient_key == patient.patient_key,
            Instance.disposition.in_(("accepted", PRIOR)),
            Instance.purged_at.is_(None),
        )
        .order_by(Instance.disposition, Instance.id)  # "accepted" before "prior"
    ).all()
    keys = {key for each in instances for key in _keys(each)}
    unique: dict[str, HeldRow] = {}
    for row in rows:
        if keys.isdisjoint(_keys(row)):
            continue
        if _contradict(row.patient_birth_date, patient.patient_birth_date):
            continue
        unique.setdefault(row.sop_instance_uid, row)
    return list(unique.values())


def _keys(image: InstanceRow | HeldRow) -> set[tuple[str, str]]:
    keys = {
        (TRACKING_UID, image.tracking_uid),
        (TRACKING_ID, image.tracking_id_sha256),
        (BODY_SITE, image.body_site),
    }
    return {key for key in keys if key[1]}


def _contradict(one: str, other: str) -> bool:
    return bool(one) and bool(other) and one != other


def _earlier(image: InstanceRow, held: Sequence[HeldRow]) -> tuple[EarlierImage, ...]:
    own = next((row for row in held if row.sop_instance_uid == image.sop_instance_uid), None)
    before = [row for row in held if row is not own and _is_before(row, image, own)]
    for linkage in (TRACKING_UID, TRACKING_ID, BODY_SITE):
        found = [row for row in before if _linkage(row, image) == linkage]
        if found:
            found.sort(key=lambda row: (row.acquired_at, row.id), reverse=True)
            return tuple(_image(row, linkage) for row in found)
    return ()


def _linkage(row: HeldRow, image: InstanceRow) -> str:
    if image.tracking_uid and row.tracking_uid == image.tracking_uid:
        return TRACKING_UID
    if _contradict(row.tracking_uid, image.tracking_uid):
        return ""  # two lesions, whatever else they share
    if image.tracking_id_sha256 and row.tracking_id_sha256 == image.tracking_id_sha256:
        return TRACKING_ID
    if _contradict(row.tracking_id_sha256, image.tracking_id_sha256):
        return ""
    return BODY_SITE if image.body_site and row.body_site == image.body_site else ""


def _is_before(row: HeldRow, image: InstanceRow, own: HeldRow | None) -> bool:
    one, other = row.acquired_at, image.acquired_at
    if own is not None and row.study_id == own.study_id:
        return bool(one) and one[:_DATE_DIGITS] < other[:_DATE_DIGITS]
    if not (one and other) or one == other:
        return own is None or bool(row.id < own.id)  # undated: the order in which they came
    return bool(one < other)


def _image(row: HeldRow, linkage: str) -> EarlierImage:
    return EarlierImage(
        instance=InstanceRow(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            modality=row.modality,
            path=row.path,
            size_bytes=row.size_bytes,
            tracking_uid=row.tracking_uid,
            tracking_id_sha256=row.tracking_id_sha256,
            body_site=row.body_site,
            acquired_at=row.acquired_at,
        ),
        study_instance_uid=row.study_instance_uid,
        linkage=linkage,
    )
