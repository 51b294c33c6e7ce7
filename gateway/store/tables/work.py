"""What is done: work items, result objects, deliveries, the timeline."""

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


class WorkItem(Base):
    """One analysis of one generation by one model digest."""

    __tablename__ = "work_items"
    __table_args__ = (
        UniqueConstraint("generation_id", "analysis", "model_digest"),
        Index("ix_work_items_due", "state", "next_attempt_at"),
        Index("ix_work_items_rank", "state", "rank_at"),
        Index("ix_work_items_analysis", "analysis", "study_id"),
        Index("ix_work_items_model", "model_digest", "id"),
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
    urgency: Mapped[str] = mapped_column(String(8), default="", server_default="")
    """urgent, routine or low."""
    rank_at: Mapped[dt.datetime | None]
    """Claims are in this order: the moment it was made, later for what is less urgent."""
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
    analysed_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    finished_at: Mapped[dt.datetime | None] = mapped_column(index=True)


class ResultObject(Base):
    """One DICOM object that a work item made."""

    __tablename__ = "result_objects"

    id: Mapped[int] = mapped_column(primary_key=True)
    work_item_id: Mapped[int] = mapped_column(ForeignKey("work_items.id"), index=True)
    role: Mapped[str] = mapped_column(String(32))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    path: Mapped[str] = mapped_column(Text)
    """Relative to the results folder."""
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[dt.datetime]
    purged_at: Mapped[dt.datetime | None]
    """When its file was given up by retention; the row stays, so that it is known again."""
    is_purge_pending: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the file of a purged row may still lie there."""


class Delivery(Base):
    """One result object on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_object_id", "destination"),
        Index(
            "ix_deliveries_refused",
            "id",
            sqlite_where=text("state = 'REFUSED'"),
            postgresql_where=text("state = 'REFUSED'"),
        ),
        Index(
            "ix_deliveries_unconfirmed",
            "state",
            "result_object_id",
            sqlite_where=text("state != 'CONFIRMED'"),
            postgresql_where=text("state != 'CONFIRMED'"),
        ),
    )

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
