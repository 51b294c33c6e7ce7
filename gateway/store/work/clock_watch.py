"""A clock that jumps: every moment that something waits for is moved along with it.

Leases, quiet windows and pauses are moments of the wall clock, because several hosts and restarts
share them. When an administrator, a time server or a host that slept moves that clock, the sweeper
sees it against the monotonic one, or, after a restart, against the mark it left in the record:

- forwards: what still had time keeps it, so that no study closes while it is being sent and no
  living worker loses its work;
- backwards: what waited for a moment that has become distant waits for the same span as before.

A jump that nobody saw (forwards, while no sweeper ran) looks like a pause: studies close, leases
end, and the steps are done again by the same UIDs.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import (
    ClockMark,
    CommitmentRequest,
    DestinationHealth,
    Generation,
    Notice,
    ReceivedCommitment,
    WorkItem,
)

TOLERANCE_S = 30.0
"""Jumps up to this are waited out."""
_MARK_EVERY_S = 5.0
_MARK_ID = 1


_AWAITED: tuple[tuple[InstrumentedAttribute[Any], InstrumentedAttribute[Any]], ...] = (
    (ReceivedCommitment.id, ReceivedCommitment.next_attempt_at),
    (CommitmentRequest.id, CommitmentRequest.expires_at),
    (DestinationHealth.destination, DestinationHealth.next_probe_at),
    (Notice.id, Notice.next_attempt_at),
)
"""What else waits for a moment: key and moment. Forwards it is due early, which harms nothing."""


class ClockWatch:
    """Compares the wall clock with the monotonic one, look by look."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._monotonic = monotonic
        self._last: tuple[dt.datetime, float] | None = None
        self._marked: float | None = None

    def look(self) -> float:
        """Mend what a jump has shifted; return its seconds, 0 where there was none.

        Raises
        ------
        RecordUnavailable
            Nothing was mended; the next look finds the same jump.
        """
        now, moment = self._clock(), self._monotonic()
        expected = self._expected(moment)
        jump_s = 0.0
        if expected is not None:
            jump_s = (now - expected).total_seconds()
            # After a restart only the way back can be told from a pause.
            is_jump = abs(jump_s) > TOLERANCE_S and (self._last is not None or jump_s < 0)
            jump_s = jump_s if is_jump and self._mend(expected, now) else 0.0
        if self._marked is None or moment - self._marked >= _MARK_EVERY_S or jump_s:
            with writing(self._engine) as connection:
                _mark(connection, now)
            self._marked = moment
        self._last = (now, moment)
        return jump_s

    def _expected(self, moment: float) -> dt.datetime | None:
        """Return what the wall clock should say; None where nothing is known of it."""
        if self._last is not None:
            before, then = self._last
            return before + dt.timedelta(seconds=moment - then)
        with reading(self._engine) as connection:
            return connection.execute(select(ClockMark.seen_at)).scalar()

    def _mend(self, expected: dt.datetime, now: dt.datetime) -> bool:
        """Shift what waits, once; False where another sweeper has done it."""
        with writing(self._engine) as connection:
            mark = connection.execute(select(ClockMark.seen_at).with_for_update()).scalar()
            if mark is not None and abs((now - mark).total_seconds()) <= TOLERANCE_S / 2:
                return False
            _mark(connection, now)
            shift = now - expected
            if shift > dt.timedelta():
                changed = _mend_forwards(connection, expected, now, shift)
            else:
                changed = _mend_backwards(connection, expected, now, shift)
            states.note(
                connection,
                now,
                "clock.jumped",
                level="alarm",
                seconds=round(shift.total_seconds()),
                moved=changed,
            )
        return True


def _mark(connection: Connection, now: dt.datetime) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(ClockMark)
        .values(id=_MARK_ID, seen_at=now)
        .on_conflict_do_update(index_elements=[ClockMark.id], set_={"seen_at": now})
    )


def _pending(connection: Connection) -> list[Any]:
    return list(
        connection.execute(
            select(
                WorkItem.id,
                WorkItem.created_at,
                WorkItem.rank_at,
                WorkItem.next_attempt_at,
                WorkItem.hinted_at,
                WorkItem.lease_token,
                WorkItem.lease_expires_at,
            )
            .where(WorkItem.state.not_in(states.UPS_FINAL))
            .with_for_update()
        )
    )


def _open_generations(connection: Connection) -> list[Any]:
    return list(
        connection.execute(
            select(
                Generation.id,
                Generation.state,
                Generation.opened_at,
                Generation.last_instance_at,
                Generation.closes_at,
                Generation.next_attempt_at,
                Generation.deadline_at,
            )
            .where((Generation.state != states.ROUTED) | Generation.deadline_at.is_not(None))
            .with_for_update()
        )
    )


def _mend_forwards(
    connection: Connection, before: dt.datetime, now: dt.datetime, shift: dt.timedelta
) -> int:
    changed = 0
    for item in _pending(connection):
        expiry = item.lease_expires_at
        if item.lease_token is not None and before < expiry <= now:
            changed += _set_item(connection, item.id, lease_expires_at=expiry + shift)
    for row in _open_generations(connection):
        values: dict[str, Any] = {}
        if row.state == states.RECEIVING and row.last_instance_at <= before < row.closes_at:
            values = {
                "closes_at": row.closes_at + shift,
                "last_instance_at": row.last_instance_at + shift,
            }
        if row.deadline_at is not None and row.opened_at <= before < row.deadline_at:
            values["deadline_at"] = row.deadline_at + shift
        changed += _set_generation(connection, row.id, **values)
    return changed


def _mend_backwards(
    connection: Connection, before: dt.datetime, now: dt.datetime, shift: dt.timedelta
) -> int:
    def moved(moment: dt.datetime | None) -> dt.datetime | None:
        """Keep the span that was left of a moment to come; what had passed has passed."""
        if moment is None or moment <= now:
            return moment
        return max(now, moment + shift)

    changed = 0
    for item in _pending(connection):
        values: dict[str, Any] = {
            "next_attempt_at": moved(item.next_attempt_at),
            "lease_expires_at": moved(item.lease_expires_at),
            "hinted_at": None,
        }
        if item.created_at > now and item.rank_at is not None:
            values["rank_at"] = item.rank_at + shift
        changed += _set_item(connection, item.id, **values)
    for row in _open_generations(connection):
        values = {"next_attempt_at": moved(row.next_attempt_at)}
        if row.opened_at > now:
            values["deadline_at"] = row.deadline_at + shift if row.deadline_at else None
        if row.state == states.RECEIVING and (row.last_instance_at > now or row.closes_at > before):
            values["closes_at"] = moved(row.closes_at)
            values["last_instance_at"] = min(row.last_instance_at, now)
        changed += _set_generation(connection, row.id, **values)
    for key, awaited in _AWAITED:
        for name, moment in connection.execute(select(key, awaited).where(awaited > now)).all():
            connection.execute(
                update(awaited.class_).where(key == name).values({awaited: moved(moment)})
            )
            changed += 1
    return changed


def _set_item(connection: Connection, item_id: int, **values: Any) -> int:
    connection.execute(update(WorkItem).where(WorkItem.id == item_id).values(**values))
    return 1


def _set_generation(connection: Connection, generation_id: int, **values: Any) -> int:
    if not values:
        return 0
    connection.execute(update(Generation).where(Generation.id == generation_id).values(**values))
    return 1
