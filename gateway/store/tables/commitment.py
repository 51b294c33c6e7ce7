"""Storage commitment (PS3.4 J) in both roles, and how each destination is doing."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class CommitmentRequest(Base):
    """One N-ACTION to a destination: a Transaction UID of ours and what became of it."""

    __tablename__ = "commitment_requests"
    __table_args__ = (Index("ix_commitment_requests_destination", "destination", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    work_item_id: Mapped[int] = mapped_column(ForeignKey("work_items.id"), index=True)
    destination: Mapped[str] = mapped_column(String(128))
    asked_at: Mapped[dt.datetime]
    """Written before the N-ACTION is sent: the answer may come on another association."""
    expires_at: Mapped[dt.datetime]
    """From then on it counts as not answered; a late answer is taken all the same."""
    answered_at: Mapped[dt.datetime | None]
    refused_at: Mapped[dt.datetime | None]
    """When the destination declined the N-ACTION itself."""
    settled_at: Mapped[dt.datetime | None]
    """When the answer was carried into the deliveries."""
    reason: Mapped[str] = mapped_column(Text, default="")


class CommitmentObject(Base):
    """One object of a request."""

    __tablename__ = "commitment_objects"
    __table_args__ = (UniqueConstraint("request_id", "delivery_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("commitment_requests.id"), index=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(String(16), default="")
    """committed or failed; empty without an answer."""
    failure_reason: Mapped[int | None]
    """Failure Reason (0008,1197), PS3.3 C.14.1.1."""


class DestinationHealth(Base):
    """The circuit breaker of one destination, shared by all workers."""

    __tablename__ = "destination_health"

    destination: Mapped[str] = mapped_column(String(128), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """closed: it is used; open: it is left alone; half-open: one worker is trying it."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts in a row to which it gave no answer."""
    reason: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[dt.datetime]
    """Of the state."""
    next_probe_at: Mapped[dt.datetime | None]
    last_answer_at: Mapped[dt.datetime | None]


class DeliveryFault(Base):
    """How often a destination ended the association at one object."""

    __tablename__ = "delivery_faults"

    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    faults: Mapped[int]
    """In a row."""


class ReceivedCommitment(Base):
    """A sender's request for storage commitment, and our report on it."""

    __tablename__ = "received_commitments"
    __table_args__ = (
        UniqueConstraint("calling_ae_title", "transaction_uid"),
        Index("ix_received_commitments_due", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    called_ae_title: Mapped[str] = mapped_column(String(16))
    transaction_uid: Mapped[str] = mapped_column(String(64))
    instances: Mapped[dict[str, Any]]
    """SOP Instance UID -> SOP Class UID."""
    received_at: Mapped[dt.datetime]
    state: Mapped[str] = mapped_column(String(16))
    """waiting, reported, or given up."""
    failed: Mapped[int] = mapped_column(default=0)
    """Instances that we do not commit to, at the newest check."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[dt.datetime | None]
    reported_at: Mapped[dt.datetime | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    """Why the report was not taken yet; no patient attribute."""
