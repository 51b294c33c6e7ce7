"""What is told outside: counts, events on their way, drift, and the rhythm of each source."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Float, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class FollowedTable(Base):
    """How far the observer has read a table that only grows."""

    __tablename__ = "followed_tables"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    position: Mapped[int]
    """Newest id that was read."""
    gaps: Mapped[dict[str, Any]]
    """Ids below it that were not there yet (PostgreSQL commits out of order) -> when missed."""


class Tally(Base):
    """One counter, or one bucket of a histogram; it only grows."""

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(256), primary_key=True)
    """JSON object with sorted keys; no patient attribute, no UID."""
    value: Mapped[float] = mapped_column(Float)


class Notice(Base):
    """One event on its way to one receiver outside: a webhook, a mailbox, a FHIR server."""

    __tablename__ = "notices"
    __table_args__ = (
        UniqueConstraint("cause", "target"),
        Index("ix_notices_due", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    cause: Mapped[str] = mapped_column(String(64))
    """What it is about, e.g. ``event:17``: one notice for each cause and receiver."""
    kind: Mapped[str] = mapped_column(String(64))
    """Of the event, e.g. ``study.completed``."""
    target: Mapped[str] = mapped_column(String(128))
    """``webhook:HOST:DIGEST``, ``mail`` or ``fhir``; never an address with its secrets."""
    payload: Mapped[dict[str, Any]]
    """Ids of the record only; no patient attribute, no UID."""
    created_at: Mapped[dt.datetime]
    state: Mapped[str] = mapped_column(String(16))
    """waiting, delivered, or given up."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[dt.datetime | None]
    """While it waits: when it is due, or when the process that sends it has had its time."""
    delivered_at: Mapped[dt.datetime | None]
    status: Mapped[int | None]
    """Last HTTP or SMTP status of the receiver."""
    reason: Mapped[str] = mapped_column(Text, default="")


class DriftSeries(Base):
    """One measure of one model's answers for one source, against its reference."""

    __tablename__ = "drift_series"
    __table_args__ = (UniqueConstraint("source", "analysis", "model_digest", "measure"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(16))
    """AE title that the study came from; ``other`` beyond a bounded number."""
    analysis: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))
    measure: Mapped[str] = mapped_column(String(16))
    """``score`` or ``unassessed``."""
    reference: Mapped[dict[str, Any]]
    """``values``: the first ones."""
    recent: Mapped[dict[str, Any]]
    """``values``: the newest ones."""
    psi: Mapped[float | None] = mapped_column(Float)
    ks: Mapped[float | None] = mapped_column(Float)
    state: Mapped[str] = mapped_column(String(16))
    """collecting, stable or drifting."""
    since: Mapped[dt.datetime]
    """Of the state."""
    updated_at: Mapped[dt.datetime]


class SourceRhythm(Base):
    """How often a source sends, so that its silence is noticed."""

    __tablename__ = "source_rhythms"

    ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    last_at: Mapped[dt.datetime]
    """Of its newest study."""
    pauses: Mapped[dict[str, Any]]
    """``seconds``: the newest pauses between two of its studies."""
    silent_since: Mapped[dt.datetime | None]
    """When its silence was reported; null while it sends."""
