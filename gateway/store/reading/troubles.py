"""What stands in the way right now: destinations and sources that are silent, work that waits."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from gateway.store import states
from gateway.store.engine import reading
from gateway.store.tables import DestinationHealth, SourceRhythm, WorkItem

MAX_REASONS = 5


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One thing that somebody should look at."""

    kind: str
    """destination, source or work."""
    subject: str
    """The destination, the AE title, or the analysis."""
    reason: str
    since: dt.datetime | None
    count: int = 0
    """Work items that wait for this reason."""
    study_id: int | None = None
    """One of their studies."""


def troubles(engine: Engine) -> list[Trouble]:
    """Return what stands in the way, destinations first; empty where nothing does."""
    silent = select(
        DestinationHealth.destination, DestinationHealth.reason, DestinationHealth.since
    ).where(DestinationHealth.state != "closed")
    quiet = select(SourceRhythm.ae_title, SourceRhythm.silent_since).where(
        SourceRhythm.silent_since.is_not(None)
    )
    waiting = (
        select(
            WorkItem.analysis,
            WorkItem.reason,
            func.count().label("items"),
            func.min(WorkItem.created_at).label("since"),
            func.min(WorkItem.study_id).label("study_id"),
        )
        .where(
            WorkItem.state.in_((states.UPS_SCHEDULED, states.UPS_IN_PROGRESS)),
            WorkItem.reason != "",
        )
        .group_by(WorkItem.analysis, WorkItem.reason)
        .order_by(func.count().desc(), WorkItem.analysis, WorkItem.reason)
        .limit(MAX_REASONS)
    )
    with reading(engine) as connection:
        found = [
            Trouble(kind="destination", subject=row.destination, reason=row.reason, since=row.since)
            for row in connection.execute(silent.order_by(DestinationHealth.destination))
        ]
        found += [
            Trouble(
                kind="work",
                subject=row.analysis,
                reason=row.reason,
                since=row.since,
                count=row.items,
                study_id=row.study_id,
            )
            for row in connection.execute(waiting)
        ]
        found += [
            Trouble(kind="source", subject=row.ae_title, reason="", since=row.silent_since)
            for row in connection.execute(quiet.order_by(SourceRhythm.ae_title))
        ]
    return found
