"""What the sweeper puts right: deadlines that pass, work without a next attempt, old marks."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, exists, select, update

from gateway.rules.plan import URGENT
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import AssociationEnd, Generation, Study, WorkItem
from gateway.store.work.clock_watch import ClockWatch

_MEND_EVERY_S = 30.0
_KEEP_ENDS = dt.timedelta(days=7)
_BATCH = 200


class Upkeep:
    """Keeps the promises that need somebody to look at the clock."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._monotonic = monotonic
        self._clock_watch = ClockWatch(engine, clock, monotonic)
        self._mended: float | None = None

    def run(self) -> None:
        """Look once; raises ``RecordUnavailable``, and then the next look does the same."""
        self._clock_watch.look()
        self.check_deadlines()
        moment = self._monotonic()
        if self._mended is None or moment - self._mended >= _MEND_EVERY_S:
            self.mend()
            self._mended = moment

    def check_deadlines(self) -> int:
        """Raise an alarm for every deadline that passed, and make its work urgent.

        Nothing is dropped: late results are results. Returns how many passed.
        """
        now = self._clock()
        with reading(self._engine) as connection:
            due = connection.execute(
                select(Generation.id, Generation.study_id, Generation.number)
                .where(Generation.deadline_at <= now)
                .order_by(Generation.deadline_at)
                .limit(_BATCH)
            ).all()
        return sum(self._pass_deadline(row.id, row.study_id, row.number, now) for row in due)

    def _pass_deadline(
        self, generation_id: int, study_id: int, number: int, now: dt.datetime
    ) -> bool:
        with writing(self._engine) as connection:
            states.lock_study(connection, study_id)
            row = connection.execute(
                update(Generation)
                .where(Generation.id == generation_id, Generation.deadline_at <= now)
                .values(deadline_at=None)
                .returning(Generation.state, Generation.opened_at)
            ).first()
            if row is None:
                return False
            pending = connection.execute(
                select(WorkItem.id).where(
                    WorkItem.generation_id == generation_id,
                    WorkItem.state.not_in(states.UPS_FINAL),
                )
            ).all()
            if row.state == states.ROUTED and not pending:
                return False  # it was met
            connection.execute(update(Study).where(Study.id == study_id).values(urgency=URGENT))
            hurry(connection, study_id, row.opened_at)
            states.note(
                connection,
                now,
                "generation.deadline_missed",
                study_id=study_id,
                level="alarm",
                generation=number,
                work_items=len(pending),
            )
        return True

    def mend(self) -> int:
        """Give everything unfinished that has no next attempt one now; return how many.

        No way of the code leads there; should one be found, the work goes on, with an alarm.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            connection.execute(
                delete(AssociationEnd).where(
                    AssociationEnd.ended_at < now - _KEEP_ENDS,
                    ~exists().where(Generation.state == states.RECEIVING),
                )
            )
            items = connection.execute(
                update(WorkItem)
                .where(WorkItem.state.not_in(states.UPS_FINAL), WorkItem.next_attempt_at.is_(None))
                .values(next_attempt_at=now, hinted_at=None)
            ).rowcount
            generations = connection.execute(
                update(Generation)
                .where(Generation.state == states.CLOSED, Generation.next_attempt_at.is_(None))
                .values(next_attempt_at=now)
            ).rowcount
            if items or generations:
                states.note(
                    connection,
                    now,
                    "record.mended",
                    level="alarm",
                    work_items=items,
                    generations=generations,
                )
        return int(items + generations)


def hurry(connection: Connection, study_id: int, rank_at: dt.datetime) -> int:
    """Put the unfinished work of a study in front; return how many work items there are."""
    changed = connection.execute(
        update(WorkItem)
        .where(WorkItem.study_id == study_id, WorkItem.state.not_in(states.UPS_FINAL))
        .values(urgency=URGENT, rank_at=rank_at, hinted_at=None)
    ).rowcount
    return int(changed)
