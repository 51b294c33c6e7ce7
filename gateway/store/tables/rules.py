"""How studies are routed: versions of the rules, ends of associations, the clock's last word."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class RuleVersion(Base):
    """One text of rules that was in force; the newest one is."""

    __tablename__ = "rule_versions"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the text, in UTF-8."""
    text: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    """File it was read from, or ``built-in``."""
    actor: Mapped[str] = mapped_column(String(64))
    """Owner of the file."""
    loaded_at: Mapped[dt.datetime]


class AssociationEnd(Base):
    """How an association ended, while a study that it brought is receiving."""

    __tablename__ = "association_ends"

    association_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    """released or aborted."""
    ended_at: Mapped[dt.datetime] = mapped_column(index=True)


class ClockMark(Base):
    """The one row that says when the sweeper last looked at the clock."""

    __tablename__ = "clock_marks"

    id: Mapped[int] = mapped_column(primary_key=True)
    seen_at: Mapped[dt.datetime]
