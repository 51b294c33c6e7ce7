"""The audit trail: a chain of entries, its head, and how far it was handed on."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class AuditEntry(Base):
    """Who did what; rows are only ever added, by ``gateway.store.audit.append``.

    Triggers of the database refuse to change or remove one.
    """

    __tablename__ = "audit_trail"
    __table_args__ = (
        Index("ix_audit_trail_action", "action", "id"),
        Index("ix_audit_trail_actor", "actor", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Place in the chain: 1, 2, 3 and so on, without a gap."""
    at: Mapped[dt.datetime]
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]]
    previous_sha256: Mapped[str] = mapped_column(String(64))
    """Of the entry before; empty for the first."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of this entry and ``previous_sha256``, see ``gateway.store.audit.entry_digest``."""


class AuditState(Base):
    """The one row that serialises the writers of the chain."""

    __tablename__ = "audit_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    entries: Mapped[int]
    """How many entries the chain has."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the last one; empty while there is none."""
    event_id: Mapped[int]
    """Newest line of ``events`` that the trail has summed up."""
    event_gaps: Mapped[dict[str, Any]]
    """Ids below it that were not there yet (PostgreSQL commits out of order) -> when missed."""


class AuditSink(Base):
    """How far the trail was handed on to one place outside the record."""

    __tablename__ = "audit_sinks"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    """``file`` or ``syslog``."""
    position: Mapped[int]
    """Last entry that was handed on."""
    error: Mapped[str] = mapped_column(Text)
    """Why it is behind; empty while it is not."""
    failing_since: Mapped[dt.datetime | None]
    holder: Mapped[str] = mapped_column(String(64))
    """Process that is handing on now, so that two sweepers do not both send."""
    held_until: Mapped[dt.datetime | None]
