"""The circuit breaker of each destination, in the record, so that all workers share it.

A destination that gave no answer several times in a row is *open*: it is left alone for a growing
pause. Then one worker tries it (*half-open*) while the others wait; its answer closes the breaker
and wakes everything that waited.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Delivery, DestinationHealth, ResultObject, WorkItem
from gateway.store.work.commitment import wake

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"

FAILURES_TO_OPEN = 3
"""Attempts in a row without an answer after which a destination is left alone."""
_FIRST_PAUSE_S = 2.0
_REMEMBER_S = 60.0  # an answer is noted at most so often
_WAIT_FOR_PROBE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether a destination may be tried now."""

    is_admitted: bool
    is_probe: bool = False
    """The caller is the one that tries an open destination."""
    retry_in_s: float = 0.0
    """When to ask again, if not."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class DestinationState:
    """How a destination is doing."""

    destination: str
    state: str
    failures: int
    reason: str
    since: dt.datetime
    next_probe_at: dt.datetime | None
    last_answer_at: dt.datetime | None


class DestinationBoard:
    """Reads and writes the breakers.

    Parameters
    ----------
    max_pause_s
        Longest pause between two tries of an open destination.
    probe_s
        Time that one try may take; after it another worker may try.
    """

    def __init__(
        self, engine: Engine, *, max_pause_s: float, probe_s: float, clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._max_pause_s = max_pause_s
        self._probe_s = probe_s
        self._clock = clock

    def admit(self, destination: str) -> Admission:
        """Say whether a destination may be tried now; the first to ask when it is time probes."""
        now = self._clock()
        with reading(self._engine) as connection:
            row = connection.execute(
                select(DestinationHealth).where(DestinationHealth.destination == destination)
            ).first()
        if row is None or row.state == CLOSED:
            return Admission(is_admitted=True)
        wait_s = (row.next_probe_at - now).total_seconds() if row.next_probe_at else 0.0
        if wait_s <= 0 and self._begin_probe(destination, now):
            return Admission(is_admitted=True, is_probe=True)
        jitter = 1.0 + 0.25 * random.random()
        pause_s = _WAIT_FOR_PROBE_S if row.state == HALF_OPEN or wait_s <= 0 else wait_s
        return Admission(is_admitted=False, retry_in_s=pause_s * jitter, reason=row.reason)

    def _begin_probe(self, destination: str, now: dt.datetime) -> bool:
        with writing(self._engine) as connection:
            changed = connection.execute(
                update(DestinationHealth)
                .where(
                    DestinationHealth.destination == destination,
                    DestinationHealth.state != CLOSED,
                    or_(
                        DestinationHealth.next_probe_at.is_(None),
                        DestinationHealth.next_probe_at <= now,
                    ),
                )
                .values(
                    state=HALF_OPEN,
                    next_probe_at=now + dt.timedelta(seconds=self._probe_s),
                )
            ).rowcount
        return changed == 1

    def answered(self, destination: str) -> None:
        """Note that a destination answered; close its breaker and wake what waited."""
        now = self._clock()
        with reading(self._engine) as connection:
            row = connection.execute(
                select(DestinationHealth).where(DestinationHealth.destination == destination)
            ).first()
        is_news = row is None or row.state != CLOSED or row.failures
        if not is_news and row is not None and row.last_answer_at is not None:
            is_news = (now - row.last_answer_at).total_seconds() > _REMEMBER_S
        if not is_news:
            return
        with writing(self._engine) as connection:
            self._ensure(connection, destination, now)
            connection.execute(
                update(DestinationHealth)
                .where(DestinationHealth.destination == destination)
                .values(failures=0, reason="", last_answer_at=now, next_probe_at=None)
            )
            closed = connection.execute(
                update(DestinationHealth)
                .where(
                    DestinationHealth.destination == destination, DestinationHealth.state != CLOSED
                )
                .values(state=CLOSED, since=now)
            ).rowcount
            if closed:
                states.note(connection, now, "destination.answers", destination=destination)
                wake(connection, _waiting(connection, destination), now)

    def unanswered(self, destination: str, reason: str) -> None:
        """Count an attempt without any answer; open the breaker when there are too many."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._ensure(connection, destination, now)
            row = connection.execute(
                update(DestinationHealth)
                .where(DestinationHealth.destination == destination)
                .values(failures=DestinationHealth.failures + 1, reason=reason)
                .returning(DestinationHealth.failures, DestinationHealth.state)
            ).one()
            if row.failures < FAILURES_TO_OPEN:
                return
            pause_s = _pause_s(row.failures - FAILURES_TO_OPEN, self._max_pause_s)
            values = {"state": OPEN, "next_probe_at": now + dt.timedelta(seconds=pause_s)}
            if row.state == CLOSED:
                states.note(
                    connection,
                    now,
                    "destination.silent",
                    level="warning",
                    destination=destination,
                    reason=reason,
                )
                values["since"] = now
            connection.execute(
                update(DestinationHealth)
                .where(DestinationHealth.destination == destination)
                .values(**values)
            )

    def all(self) -> list[DestinationState]:
        """Return every destination that was ever tried, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(DestinationHealth).order_by(DestinationHealth.destination)
            ).all()
        return [DestinationState(**row._mapping) for row in rows]

    def _ensure(self, connection: Connection, destination: str, now: dt.datetime) -> None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(
            dialect.insert(DestinationHealth)
            .values(destination=destination, state=CLOSED, failures=0, reason="", since=now)
            .on_conflict_do_nothing()
        )


def _pause_s(opened_times: int, max_s: float) -> float:
    """Return the pause before the next try: exponential with jitter."""
    full = min(max_s, _FIRST_PAUSE_S * 2.0 ** min(opened_times, 30))
    return full * (0.5 + 0.5 * random.random())


def _waiting(connection: Connection, destination: str) -> list[int]:
    return list(
        connection.execute(
            select(ResultObject.work_item_id)
            .join(Delivery, Delivery.result_object_id == ResultObject.id)
            .join(WorkItem, WorkItem.id == ResultObject.work_item_id)
            .where(
                Delivery.destination == destination,
                Delivery.state == "PENDING",
                WorkItem.step == states.DELIVER,
                WorkItem.state.not_in(states.UPS_FINAL),
            )
            .distinct()
        ).scalars()
    )
