"""What the overview shows: what waits where and how long, and how fast it went."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, cast, func, select

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.tables import Delivery, Generation, ResultObject, Study, WorkItem
from gateway.store.timing import seconds_between, slot_of


@dataclass(frozen=True, kw_only=True)
class Window:
    """A span of time up to now, cut into slots."""

    name: str
    seconds: int
    slot_s: int

    @property
    def slots(self) -> int:
        """How many slots it has."""
        return self.seconds // self.slot_s


WINDOWS = {
    "1h": Window(name="1h", seconds=3600, slot_s=120),
    "24h": Window(name="24h", seconds=86400, slot_s=3600),
    "7d": Window(name="7d", seconds=7 * 86400, slot_s=6 * 3600),
}


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """What is in one stage now."""

    stage: str
    """receiving, routing, queued, analysing, delivering or held."""
    count: int
    oldest_at: dt.datetime | None
    """Since when the oldest of them has been there."""
    study_id: int | None
    """The study it belongs to."""


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """How many studies of a span came so far."""

    step: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What ended in one slot of time."""

    begins_at: dt.datetime
    count: int
    p95_s: float | None
    """95th percentile of how long the stage took, in seconds; None where nothing ended."""


@dataclass(frozen=True, kw_only=True)
class StageHistory:
    """One stage over a window."""

    stage: str
    count: int
    p95_s: float | None
    """Over the whole window."""
    slots: tuple[Slot, ...]
    """The oldest first, without gaps."""


class OverviewReader:
    """Reads what the overview shows."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def received_since(self, moment: dt.datetime) -> int:
        """Return how many studies came since a moment."""
        with reading(self._engine) as connection:
            return int(
                connection.execute(
                    select(func.count()).select_from(Study).where(Study.first_received_at >= moment)
                ).scalar_one()
            )

    def loads(self) -> list[StageLoad]:
        """Return what is in each stage now, in the order of the stages."""
        with reading(self._engine) as connection:
            found = [
                _load(connection, stage, Generation.study_id, since, condition)
                for stage, since, condition in (
                    ("receiving", Generation.opened_at, Generation.state == states.RECEIVING),
                    ("routing", Generation.closed_at, Generation.state == states.CLOSED),
                )
            ]
            open_ = WorkItem.state.in_((states.UPS_SCHEDULED, states.UPS_IN_PROGRESS))
            is_analysis = WorkItem.step == states.ANALYSE
            found += [
                _load(connection, stage, WorkItem.study_id, since, condition)
                for stage, since, condition in (
                    (
                        "queued",
                        WorkItem.created_at,
                        (WorkItem.state == states.UPS_SCHEDULED) & is_analysis,
                    ),
                    (
                        "analysing",
                        WorkItem.started_at,
                        (WorkItem.state == states.UPS_IN_PROGRESS) & is_analysis,
                    ),
                    ("delivering", WorkItem.analysed_at, open_ & ~is_analysis),
                )
            ]
            found.append(
                _load(connection, "held", Study.id, Study.held_at, Study.held_at.is_not(None))
            )
        return found

    def funnel(self, since: dt.datetime) -> list[FunnelStep]:
        """Return how far the studies came whose first instance arrived since a moment."""
        recent = Study.first_received_at >= since
        # Looked up study by study: a short span touches few rows, however long the record.
        closed = select(Generation.id).where(
            Generation.study_id == Study.id, Generation.closed_at.is_not(None)
        )
        items = select(WorkItem.id).where(WorkItem.study_id == Study.id)
        made = items.join(ResultObject, ResultObject.work_item_id == WorkItem.id)
        sent = made.join(Delivery, Delivery.result_object_id == ResultObject.id)
        studies = select(func.count()).select_from(Study).where(recent)
        steps = {
            "received": studies,
            "assembled": studies.where(closed.exists()),
            "queued": studies.where(items.exists()),
            "inferred": studies.where(items.where(WorkItem.analysed_at.is_not(None)).exists()),
            "encoded": studies.where(made.exists()),
            "delivered": studies.where(
                sent.where(Delivery.state.in_(("STORED", "CONFIRMED"))).exists()
            ),
            "confirmed": studies.where(sent.where(Delivery.state == "CONFIRMED").exists()),
        }
        with reading(self._engine) as connection:
            return [
                FunnelStep(step=step, count=connection.execute(query).scalar_one())
                for step, query in steps.items()
            ]

    def histories(self, window: Window) -> list[StageHistory]:
        """Return throughput and 95th percentile of each stage over a window."""
        now = self._clock()
        last = int(now.timestamp()) // window.slot_s
        since = dt.datetime.fromtimestamp((last - window.slots + 1) * window.slot_s, dt.UTC)
        stages: tuple[tuple[str, Any, Any, ColumnElement[bool] | None], ...] = (
            ("assembled", Generation.opened_at, Generation.closed_at, None),
            ("waited for a worker", WorkItem.created_at, WorkItem.started_at, None),
            ("inferred and encoded", WorkItem.started_at, WorkItem.analysed_at, None),
            (
                "delivered and confirmed",
                WorkItem.analysed_at,
                WorkItem.finished_at,
                WorkItem.state == states.UPS_COMPLETED,
            ),
        )
        with reading(self._engine) as connection:
            return [
                _history(connection, stage, begin, end, condition, since, window)
                for stage, begin, end, condition in stages
            ]


def _load(
    connection: Connection, stage: str, study_id: Any, since: Any, condition: Any
) -> StageLoad:
    count = connection.execute(select(func.count()).where(condition)).scalar_one()
    oldest = (
        connection.execute(
            select(study_id, since).where(condition, since.is_not(None)).order_by(since).limit(1)
        ).first()
        if count
        else None
    )
    return StageLoad(
        stage=stage,
        count=count,
        oldest_at=oldest[1] if oldest is not None else None,
        study_id=oldest[0] if oldest is not None else None,
    )


def _history(
    connection: Connection,
    stage: str,
    begin: Any,
    end: Any,
    condition: ColumnElement[bool] | None,
    since: dt.datetime,
    window: Window,
) -> StageHistory:
    took = seconds_between(connection, begin, end)
    # Moments that are looked for by an index: for a work item's start there is none, but what
    # started since was analysed since, or is not yet.
    indexed = WorkItem.analysed_at if end is WorkItem.started_at else end
    ended = (
        select(slot_of(connection, end, window.slot_s).label("slot"), took.label("took"))
        .where(indexed >= since, end >= since, begin.is_not(None))
        .where(*(() if condition is None else (condition,)))
        .subquery()
    )
    ranked = select(
        ended.c.slot,
        ended.c.took,
        func.row_number().over(partition_by=ended.c.slot, order_by=ended.c.took).label("place"),
        func.count().over(partition_by=ended.c.slot).label("ended"),
        func.row_number().over(order_by=ended.c.took).label("overall"),
        func.count().over().label("total"),
    ).subquery()
    rows = connection.execute(
        select(ranked.c.slot, ranked.c.ended, ranked.c.took, ranked.c.place, ranked.c.overall)
        .add_columns(ranked.c.total)
        .where(
            (ranked.c.place == _rank(ranked.c.ended)) | (ranked.c.overall == _rank(ranked.c.total))
        )
    ).all()
    total = rows[0].total if rows else 0
    place = {row.slot: row for row in rows if row.place == _place(row.ended)}
    overall = next((row.took for row in rows if row.overall == _place(total)), None)
    first = int(since.timestamp()) // window.slot_s
    return StageHistory(
        stage=stage,
        count=total,
        p95_s=_seconds(overall),
        slots=tuple(
            Slot(
                begins_at=dt.datetime.fromtimestamp(slot * window.slot_s, dt.UTC),
                count=place[slot].ended if slot in place else 0,
                p95_s=_seconds(place[slot].took) if slot in place else None,
            )
            for slot in range(first, first + window.slots)
        ),
    )


def _rank(count: Any) -> Any:
    """Return the expression of the place that the 95th percentile has: ceil(0.95 count)."""
    return cast((count * 95 + 99), Integer) // 100


def _place(count: int) -> int:
    return (count * 95 + 99) // 100


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(max(float(value), 0.0), 3)
