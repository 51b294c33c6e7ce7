"""Tables of the record: studies, generations, instances, work items, results, deliveries.

Patient attributes live in ``identities`` and nowhere else. Times are UTC.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A moment in UTC, timezone-aware in Python; SQLite itself keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Store as UTC; a naive value is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return value.astimezone(dt.UTC)

    def process_result_value(
        self, value: dt.datetime | None, dialect: Dialect
    ) -> dt.datetime | None:
        """Return an aware UTC value."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Base(DeclarativeBase):
    """Declarative base of the record."""

    type_annotation_map = {dt.datetime: UtcDateTime(), dict[str, Any]: JSON()}  # noqa: RUF012


class Study(Base):
    """One study of the PACS."""

    __tablename__ = "studies"
    __table_args__ = (
        Index("ix_studies_state_id", "state", "id"),
        Index("ix_studies_state_changed", "state", "state_changed_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    """received, analysing, delivering, completed, failed or refused; kept by ``states``."""
    reason: Mapped[str] = mapped_column(Text, default="")
    first_received_at: Mapped[dt.datetime] = mapped_column(index=True)
    last_received_at: Mapped[dt.datetime]
    state_changed_at: Mapped[dt.datetime]


class Identity(Base):
    """The patient attributes of a study: the only table that holds any."""

    __tablename__ = "identities"

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    patient_key: Mapped[str] = mapped_column(String(64), default="", server_default="", index=True)
    """Digest of issuer and Patient ID (``gateway.store.lesions``); empty without a Patient ID."""
    patient_id: Mapped[str] = mapped_column(Text, default="")
    issuer_of_patient_id: Mapped[str] = mapped_column(Text, default="")
    patient_name: Mapped[str] = mapped_column(Text, default="")
    patient_birth_date: Mapped[str] = mapped_column(String(64), default="")
    patient_sex: Mapped[str] = mapped_column(String(64), default="")
    accession_number: Mapped[str] = mapped_column(Text, default="")
    study_date: Mapped[str] = mapped_column(String(64), default="")
    study_description: Mapped[str] = mapped_column(Text, default="")


class Generation(Base):
    """One closed-in-time state of a study; a late instance opens the next one."""

    __tablename__ = "generations"
    __table_args__ = (UniqueConstraint("study_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    number: Mapped[int]
    """1-based."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    """receiving, closed or routed."""
    opened_at: Mapped[dt.datetime]
    last_instance_at: Mapped[dt.datetime]
    closes_at: Mapped[dt.datetime] = mapped_column(index=True)
    closed_at: Mapped[dt.datetime | None]
    routed_at: Mapped[dt.datetime | None]
    next_attempt_at: Mapped[dt.datetime | None]
    """When routing may be announced (again)."""
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(Text, default="")


class Instance(Base):
    """One received SOP instance, as received."""

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "sha256"),
        Index("ix_instances_study_series", "study_id", "series_instance_uid"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    generation_id: Mapped[int | None] = mapped_column(ForeignKey("generations.id"), index=True)
    """The generation it came in with; null for quarantined ones and for our own results."""
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16), default="")
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    """Relative to the spool."""
    disposition: Mapped[str] = mapped_column(String(16))
    """accepted, quarantined, own_result or prior (fetched as an earlier image, not analysed)."""
    tracking_uid: Mapped[str] = mapped_column(String(64), default="", server_default="", index=True)
    """Tracking UID (0062,0021)."""
    tracking_id_sha256: Mapped[str] = mapped_column(
        String(64), default="", server_default="", index=True
    )
    """Digest of Tracking ID (0062,0020): sites write names and places in it."""
    body_site: Mapped[str] = mapped_column(String(80), default="", server_default="", index=True)
    """Scheme, code value and laterality of the anatomic region, e.g. ``SCT|40983000|L``."""
    acquired_at: Mapped[str] = mapped_column(String(14), default="", server_default="")
    """``YYYYMMDDHHMMSS`` by the device's clock; empty when the header has no date."""
    reason: Mapped[str] = mapped_column(Text, default="")
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    association_id: Mapped[str] = mapped_column(String(36), index=True)
    received_at: Mapped[dt.datetime]


class Document(Base):
    """One small file that the site sent for a study, which may not have arrived yet."""

    __tablename__ = "documents"
    __table_args__ = (UniqueConstraint("study_instance_uid", "name", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(128))
    revision: Mapped[int]
    """1 for the first of its name; the newest counts."""
    generation_number: Mapped[int | None]
    """Of the generation it came in with; null while the study has not arrived."""
    media_type: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    """Relative to the spool."""
    received_from: Mapped[str] = mapped_column(String(64))
    """Account, or ``command line``."""
    received_at: Mapped[dt.datetime]


class Refusal(Base):
    """One C-STORE that was not accepted, and why."""

    __tablename__ = "refusals"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id"), index=True)
    association_id: Mapped[str] = mapped_column(String(36))
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    status: Mapped[int]
    """DIMSE status that was answered (PS3.4 B.2.3)."""
    reason: Mapped[str] = mapped_column(Text)
    sop_class_uid: Mapped[str] = mapped_column(String(64), default="")
    sop_instance_uid: Mapped[str] = mapped_column(String(64), default="")
    path: Mapped[str] = mapped_column(Text, default="")
    """Relative to the spool; empty when no bytes were kept."""


class WorkItem(Base):
    """One analysis of one generation by one model digest."""

    __tablename__ = "work_items"
    __table_args__ = (
        UniqueConstraint("generation_id", "analysis", "model_digest"),
        Index("ix_work_items_due", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    generation_id: Mapped[int] = mapped_column(ForeignKey("generations.id"))
    analysis: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    """SCHEDULED, IN PROGRESS, COMPLETED or CANCELED (UPS states, PS3.4 CC.1.1)."""
    step: Mapped[str] = mapped_column(String(16))
    """analyse, then deliver."""
    outcome: Mapped[str] = mapped_column(String(16), default="")
    """assessed or not_assessed, once analysed."""
    reason: Mapped[str] = mapped_column(Text, default="")
    failure_kind: Mapped[str] = mapped_column(String(16), default="")
    """TRANSIENT, REJECTED or DEFECT of the last failure; empty without one."""
    summary: Mapped[dict[str, Any] | None]
    """Headline of the result for tables, e.g. top label and probability; no patient attribute."""
    priority: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts at the current step."""
    crashes: Mapped[int] = mapped_column(default=0)
    """Leases of the current step that ran out: workers that died."""
    next_attempt_at: Mapped[dt.datetime | None]
    hinted_at: Mapped[dt.datetime | None]
    """When the broker was last told."""
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime]
    started_at: Mapped[dt.datetime | None]
    analysed_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]


class ResultObject(Base):
    """One DICOM object that a work item made."""

    __tablename__ = "result_objects"

    id: Mapped[int] = mapped_column(primary_key=True)
    work_item_id: Mapped[int] = mapped_column(ForeignKey("work_items.id"), index=True)
    role: Mapped[str] = mapped_column(String(32))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    """Relative to the results folder."""
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime]


class Delivery(Base):
    """One result object on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (UniqueConstraint("result_object_id", "destination"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    result_object_id: Mapped[int] = mapped_column(ForeignKey("result_objects.id"), index=True)
    destination: Mapped[str] = mapped_column(String(128))
    """``AET@HOST:PORT``, or ``folder`` for the results folder alone."""
    state: Mapped[str] = mapped_column(String(16))
    """PENDING, STORED, CONFIRMED or REFUSED."""
    status: Mapped[int | None]
    """Last DIMSE status of the destination."""
    reason: Mapped[str] = mapped_column(Text, default="")
    confirmed_by: Mapped[str] = mapped_column(String(32), default="")
    """c-find, c-store (the destination offers nothing better) or read-back (folder)."""
    stored_at: Mapped[dt.datetime | None]
    confirmed_at: Mapped[dt.datetime | None]


class Event(Base):
    """One line of a timeline."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_study", "study_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime]
    study_id: Mapped[int | None] = mapped_column(ForeignKey("studies.id"))
    work_item_id: Mapped[int | None] = mapped_column(ForeignKey("work_items.id"))
    action: Mapped[str] = mapped_column(String(64))
    level: Mapped[str] = mapped_column(String(8))
    """info, warning or alarm."""
    detail: Mapped[dict[str, Any]]


class AuditEntry(Base):
    """Who did what; rows are only ever added."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime]
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]]


class Account(Base):
    """A person who may log in."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(16))
    must_change_password: Mapped[bool]
    failed_logins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime]


class WebSession(Base):
    """One login; only the hash of its token is kept."""

    __tablename__ = "web_sessions"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    csrf_token: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime]
    expires_at: Mapped[dt.datetime]


class Installation(Base):
    """The one row that names this installation."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True)
    serial: Mapped[str] = mapped_column(String(36))
    """Device serial number in every result (0018,1000)."""
    created_at: Mapped[dt.datetime]
