"""What arrives: studies, their identities, generations, instances, documents, refusals.

Patient attributes live in ``identities`` and nowhere else.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


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
    urgency: Mapped[str] = mapped_column(String(8), default="", server_default="")
    """urgent, where a person said so; else the rules decide."""
    held_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    """Since when nothing is begun for it; null where it is not held."""
    held_by: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Account, ``command line: NAME``, or ``rule: NAME``."""
    hold_reason: Mapped[str] = mapped_column(Text, default="", server_default="")


class Identity(Base):
    """The patient attributes of a study: the only table that holds any."""

    __tablename__ = "identities"
    __table_args__ = (
        # Hashed: a B-tree of PostgreSQL refuses a long value, and with it the instance.
        Index("ix_identities_accession_number", "accession_number", postgresql_using="hash"),
        Index("ix_identities_patient_id", "patient_id", postgresql_using="hash"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    patient_key: Mapped[str] = mapped_column(String(64), default="", server_default="", index=True)
    """Digest of issuer and Patient ID (``store.intake.lesions``); empty without a Patient ID."""
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
    closed_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    routed_at: Mapped[dt.datetime | None]
    next_attempt_at: Mapped[dt.datetime | None]
    """When routing may be announced (again)."""
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(Text, default="")
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    """Counts what became known of it while it received: instances, ends of associations."""
    planned_revision: Mapped[int] = mapped_column(default=-1, server_default="-1")
    """The revision that the rules last looked at."""
    rule_version_id: Mapped[int | None] = mapped_column(ForeignKey("rule_versions.id"))
    """The rules that decided; null for the built-in ones."""
    plan: Mapped[dict[str, Any] | None]
    """What the rules decided and why (``gateway.rules.plan``); no patient attribute."""
    deadline_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    """When its results are due; null without a deadline, and once it is met or missed."""
    complete_by: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Who said that it is complete; empty while nobody did."""
    hold_released_at: Mapped[dt.datetime | None]
    """When a person let it go on; the rules do not hold it again."""


class Instance(Base):
    """One received SOP instance, as received."""

    __tablename__ = "instances"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "sha256"),
        Index("ix_instances_study_series", "study_id", "series_instance_uid"),
        Index("ix_instances_sender", "calling_ae_title", "study_id"),
        Index(
            "ix_instances_quarantined",
            "id",
            sqlite_where=text("disposition = 'quarantined'"),
            postgresql_where=text("disposition = 'quarantined'"),
        ),
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
    called_ae_title: Mapped[str] = mapped_column(String(16), default="", server_default="")
    is_derived: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it may be made from a result of ours: looked at before its study closes."""
    association_id: Mapped[str] = mapped_column(String(36), index=True)
    received_at: Mapped[dt.datetime]
    peer_address: Mapped[str] = mapped_column(String(45), default="", server_default="")
    """Address that it came from; empty where none is known."""
    purged_at: Mapped[dt.datetime | None]
    """When its file was given up by retention; the row stays, so that it is known again."""
    is_purge_pending: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the file of a purged row may still lie there."""


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
    purged_at: Mapped[dt.datetime | None]
    """When its file was given up by retention; the row stays, so that it is known again."""
    is_purge_pending: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the file of a purged row may still lie there."""


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
    purged_at: Mapped[dt.datetime | None]
    """When its file was given up by retention; the row stays, so that it is known again."""
    is_purge_pending: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the file of a purged row may still lie there."""
