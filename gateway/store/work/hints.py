"""What the sweeper asks of the record: work that is due, unheld and not announced lately."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, and_, func, or_, select, update

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Generation, Study, WorkItem
from gateway.store.values import Hint


def is_due(now: dt.datetime) -> Any:
    """Condition: the work item is not finished, is due, and neither it nor its study is held."""
    held = select(Study.id).where(Study.held_at.is_not(None))
    return and_(
        WorkItem.state.in_([states.UPS_SCHEDULED, states.UPS_IN_PROGRESS]),
        WorkItem.next_attempt_at <= now,
        or_(WorkItem.lease_token.is_(None), WorkItem.lease_expires_at < now),
        WorkItem.study_id.not_in(held),
    )


def in_order_of_claims() -> tuple[Any, Any]:
    """Order of work items: the rank they were given, then their age."""
    return func.coalesce(WorkItem.rank_at, WorkItem.created_at), WorkItem.id


class HintBoard:
    """Finds work to announce, and remembers what was announced."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def due_hints(self, hint_interval_s: float, limit: int = 500) -> list[Hint]:
        """Return work that is due, that nobody holds and that the broker was not told of lately."""
        now = self._clock()
        stale = now - dt.timedelta(seconds=hint_interval_s)
        with reading(self._engine) as connection:
            generations = connection.execute(
                select(Generation.id)
                .join(Study, Generation.study_id == Study.id)
                .where(
                    Generation.state == states.CLOSED,
                    Generation.next_attempt_at <= now,
                    Study.held_at.is_(None),
                )
                .order_by(Generation.id)
                .limit(limit)
            ).scalars()
            hints = [Hint(kind="route", id=generation_id) for generation_id in generations]
            items = connection.execute(
                select(WorkItem.id, WorkItem.step, WorkItem.analysis, WorkItem.priority)
                .where(is_due(now), or_(WorkItem.hinted_at.is_(None), WorkItem.hinted_at <= stale))
                .order_by(*in_order_of_claims())
                .limit(limit)
            )
            hints += [
                Hint(kind=row.step, id=row.id, analysis=row.analysis, priority=row.priority)
                for row in items
            ]
        return hints

    def mark_hinted(self, hints: Sequence[Hint], hint_interval_s: float) -> None:
        """Remember that the broker was told.

        Of work that was taken and given back meanwhile nothing is remembered: it is due again at a
        moment of its own, and has to be announced then.
        """
        now = self._clock()
        generations = [hint.id for hint in hints if hint.kind == "route"]
        with writing(self._engine) as connection:
            for step in (states.ANALYSE, states.DELIVER):
                work_items = [hint.id for hint in hints if hint.kind == step]
                if work_items:
                    connection.execute(
                        update(WorkItem)
                        .where(WorkItem.id.in_(work_items), WorkItem.step == step, is_due(now))
                        .values(hinted_at=now)
                    )
            if generations:
                connection.execute(
                    update(Generation)
                    .where(
                        Generation.id.in_(generations),
                        Generation.state == states.CLOSED,
                        Generation.next_attempt_at <= now,
                    )
                    .values(next_attempt_at=now + dt.timedelta(seconds=hint_interval_s))
                )
