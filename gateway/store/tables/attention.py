"""What people keep beside the record: who looks after a cause of failures, views of the studies."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class FailureCare(Base):
    """What was decided about one cause of failures."""

    __tablename__ = "failure_care"

    cause: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Digest that names the cause (``gateway.store.people.failures``)."""
    assigned_to: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Account; empty where nobody has it."""
    snoozed_until: Mapped[dt.datetime | None]
    note: Mapped[str] = mapped_column(Text, default="", server_default="")
    """In the words of whoever looks after it; no patient attribute."""
    changed_by: Mapped[str] = mapped_column(String(64))
    changed_at: Mapped[dt.datetime]


class SavedView(Base):
    """A filter of the list of studies under a name."""

    __tablename__ = "saved_views"
    __table_args__ = (UniqueConstraint("account", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(60))
    query: Mapped[str] = mapped_column(Text)
    """As in the address of the list."""
    created_at: Mapped[dt.datetime]
