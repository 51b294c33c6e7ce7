"""What the page of queues and workers shows."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, case, func, select

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.tables import DestinationHealth, Event, Study, WorkItem
from gateway.store.work.hints import in_order_of_claims

WORKERS_SINCE = dt.timedelta(hours=24)
MAX_NEXT = 20
_RECENT_EVENTS = 5000
_STARTED = ("work_item.analyse.started", "work_item.deliver.started")


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The unfinished work items of one analysis at one step."""

    analysis: str
    step: str
    """analyse or deliver."""
    running: int
    """A worker has it and its lease stands."""
    due: int
    """Waits for a worker."""
    later: int
    """Waits for the moment of its next attempt."""
    held: int
    """Its study is held."""
    lost: int
    """Its worker let the lease run out; the sweeper hands it on."""
    oldest_at: dt.datetime | None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker, by what it did in the record."""

    name: str
    running: int
    started: int
    """Steps begun among the newest ones that were looked at."""
    last_at: dt.datetime | None
    """When it last began a step."""
    lease_expires_at: dt.datetime | None
    """Of its work in hand, the first to run out without a heartbeat."""


@dataclass(frozen=True, kw_only=True)
class NextItem:
    """A work item that waits, in the order of claims."""

    id: int
    study_id: int
    analysis: str
    step: str
    urgency: str
    attempts: int
    reason: str
    created_at: dt.datetime
    next_attempt_at: dt.datetime | None
    is_held: bool


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A destination and its circuit breaker."""

    destination: str
    state: str
    """closed: it is used; open: it is left alone; half-open: one worker is trying it."""
    failures: int
    reason: str
    since: dt.datetime
    next_probe_at: dt.datetime | None
    last_answer_at: dt.datetime | None


@dataclass(frozen=True, kw_only=True)
class Queues:
    """All of it at one moment."""

    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    next_items: tuple[NextItem, ...]
    destinations: tuple[Destination, ...]


class QueueReader:
    """Reads the queues."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def read(self) -> Queues:
        """Return the queues, the workers, what is next, and the destinations."""
        now = self._clock()
        with reading(self._engine) as connection:
            return Queues(
                queues=_queues(connection, now),
                workers=_workers(connection, now),
                next_items=_next_items(connection, now),
                destinations=_destinations(connection),
            )


def _open() -> Any:
    return WorkItem.state.in_((states.UPS_SCHEDULED, states.UPS_IN_PROGRESS))


def _situation(now: dt.datetime) -> Any:
    has_lease = WorkItem.lease_token.is_not(None)
    return case(
        (has_lease & (WorkItem.lease_expires_at >= now), "running"),
        (Study.held_at.is_not(None), "held"),
        (has_lease, "lost"),
        (WorkItem.next_attempt_at > now, "later"),
        else_="due",
    )


def _queues(connection: Connection, now: dt.datetime) -> tuple[Queue, ...]:
    rows = connection.execute(
        select(
            WorkItem.analysis,
            WorkItem.step,
            _situation(now).label("situation"),
            func.count().label("items"),
            func.min(WorkItem.created_at).label("oldest_at"),
        )
        .join(Study, WorkItem.study_id == Study.id)
        .where(_open())
        .group_by(WorkItem.analysis, WorkItem.step, "situation")
    )
    counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    oldest: dict[tuple[str, str], dt.datetime] = {}
    for row in rows:
        key = (row.analysis, row.step)
        counts[key][row.situation] = row.items
        oldest[key] = min(oldest.get(key, row.oldest_at), row.oldest_at)
    return tuple(
        Queue(
            analysis=analysis,
            step=step,
            oldest_at=oldest[analysis, step],
            **{name: found[name] for name in ("running", "due", "later", "held", "lost")},
        )
        for (analysis, step), found in sorted(counts.items())
    )


def _workers(connection: Connection, now: dt.datetime) -> tuple[Worker, ...]:
    busy = {
        row.lease_owner: row
        for row in connection.execute(
            select(
                WorkItem.lease_owner,
                func.count().label("items"),
                func.min(WorkItem.lease_expires_at).label("expires_at"),
            )
            .where(_open(), WorkItem.lease_token.is_not(None))
            .group_by(WorkItem.lease_owner)
        )
    }
    newest = connection.execute(select(func.max(Event.id))).scalar() or 0
    events = connection.execute(
        select(Event.at, Event.detail).where(
            Event.id > newest - _RECENT_EVENTS,
            Event.action.in_(_STARTED),
            Event.at >= now - WORKERS_SINCE,
        )
    )
    started: dict[str, int] = defaultdict(int)
    last_at: dict[str, dt.datetime] = {}
    for row in events:
        name = str(row.detail.get("worker", ""))
        started[name] += 1
        last_at[name] = max(last_at.get(name, row.at), row.at)
    return tuple(
        Worker(
            name=name,
            running=busy[name].items if name in busy else 0,
            started=started[name],
            last_at=last_at.get(name),
            lease_expires_at=busy[name].expires_at if name in busy else None,
        )
        for name in sorted({*busy, *last_at} - {""})
    )


def _next_items(connection: Connection, now: dt.datetime) -> tuple[NextItem, ...]:
    free = WorkItem.lease_token.is_(None) | (WorkItem.lease_expires_at < now)
    rows = connection.execute(
        select(
            WorkItem.id,
            WorkItem.study_id,
            WorkItem.analysis,
            WorkItem.step,
            WorkItem.urgency,
            WorkItem.attempts,
            WorkItem.reason,
            WorkItem.created_at,
            WorkItem.next_attempt_at,
            Study.held_at.is_not(None).label("is_held"),
        )
        .join(Study, WorkItem.study_id == Study.id)
        .where(_open(), free)
        .order_by(*in_order_of_claims())
        .limit(MAX_NEXT)
    )
    return tuple(NextItem(**row._mapping) for row in rows)


def _destinations(connection: Connection) -> tuple[Destination, ...]:
    columns = [getattr(DestinationHealth, name) for name in Destination.__dataclass_fields__]
    rows = connection.execute(select(*columns).order_by(DestinationHealth.destination))
    return tuple(Destination(**row._mapping) for row in rows)
