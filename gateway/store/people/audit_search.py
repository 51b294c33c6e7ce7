"""Looks for entries of the audit trail, the newest first."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Engine, select

from gateway.store.audit import Entry
from gateway.store.engine import reading
from gateway.store.tables import AuditEntry, AuditSink


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which entries; what is empty is not asked for."""

    actor: str = ""
    action: str = ""
    """The action itself, or its beginning up to a dot: ``account`` is every ``account.*``."""
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    """Exclusive."""
    before: int | None = None
    """Entry in front of which to begin."""
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class Sink:
    """How far the trail was handed on to one place."""

    name: str
    position: int
    error: str


def search(engine: Engine, wanted: Wanted) -> list[Entry]:
    """Return entries, the newest first."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(wanted.limit)
    if wanted.before is not None:
        query = query.where(AuditEntry.id < wanted.before)
    if wanted.actor:
        query = query.where(AuditEntry.actor == wanted.actor.replace("\0", ""))
    if wanted.action:
        action = wanted.action.replace("\0", "").lower()
        query = query.where((AuditEntry.action == action) | _is_below(engine, action.rstrip(".")))
    if wanted.since is not None:
        query = query.where(AuditEntry.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditEntry.at < wanted.until)
    with reading(engine) as connection:
        return [Entry(**row._mapping) for row in connection.execute(query)]


def _is_below(engine: Engine, action: str) -> ColumnElement[bool]:
    """Condition: an action that begins so, up to a dot."""
    if engine.dialect.name == "sqlite":
        # It compares bytes, so that a range of its index says the same; "/" comes after ".".
        return (AuditEntry.action >= f"{action}.") & (AuditEntry.action < f"{action}/")
    return AuditEntry.action.startswith(f"{action}.", autoescape=True)


def sinks(engine: Engine) -> list[Sink]:
    """Return the places that the trail is handed on to."""
    query = select(AuditSink.name, AuditSink.position, AuditSink.error).order_by(AuditSink.name)
    with reading(engine) as connection:
        return [Sink(**row._mapping) for row in connection.execute(query)]
