"""Failures by cause: what went wrong how often, who looks after it, and what is kept apart.

A cause is what differs only in numbers and names of the same kind: digits in a reason do not count.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.errors import OrderRefused
from gateway.store import audit, states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.reading.study_filter import is_unconfirmed
from gateway.store.tables import (
    Delivery,
    FailureCare,
    Instance,
    Refusal,
    ResultObject,
    Study,
    WorkItem,
)

ANALYSIS, DELIVERY, ARRIVAL = "analysis", "delivery", "arrival"
MAX_ROWS = 5000
"""Different reasons that are looked at."""
MAX_STUDIES = 5000
MAX_NOTE_CHARACTERS = 500
REFUSALS_SINCE = dt.timedelta(days=30)
MAX_QUARANTINED = 100
MAX_SNOOZE = dt.timedelta(days=90)

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class Care:
    """What was decided about a cause."""

    assigned_to: str = ""
    snoozed_until: dt.datetime | None = None
    note: str = ""
    changed_by: str = ""
    changed_at: dt.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Failures that have the same cause."""

    cause: str
    """Names it, for orders."""
    kind: str
    """analysis, delivery or arrival."""
    where: str
    """The analysis, the destination, or the sender."""
    failure_kind: str
    """TRANSIENT, REJECTED or DEFECT of an analysis; else a DIMSE status; may be empty."""
    reason: str
    """That of the newest one."""
    count: int
    first_at: dt.datetime | None
    last_at: dt.datetime | None
    can_replay: bool
    """Whether it can be tried again from here."""
    care: Care = Care()


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """An instance that is kept apart."""

    id: int
    study_id: int
    received_at: dt.datetime
    reason: str
    sop_class_uid: str
    calling_ae_title: str
    size_bytes: int


def cause_of(kind: str, where: str, failure_kind: str, reason: str) -> str:
    """Return the name of a cause: a digest of what its failures have in common.

    Examples
    --------
    >>> cause_of("analysis", "diagnosis", "REJECTED", "frame 3 of 7") == cause_of(
    ...     "analysis", "diagnosis", "REJECTED", "frame 1 of 2"
    ... )
    True
    """
    text = "\n".join((kind, where, failure_kind, _NUMBERS.sub("#", reason)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class FailureDesk:
    """Shows failures by cause and keeps who looks after them."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def causes(self, *, with_snoozed: bool = True) -> list[Cause]:
        """Return the causes of what has failed and was not put right, the newest failure first.

        Refused instances count for ``REFUSALS_SINCE``; nobody can put them right here.
        """
        now = self._clock()
        with reading(self._engine) as connection:
            found = _gather(
                (
                    *_analyses(connection),
                    *_deliveries(connection),
                    *_arrivals(connection, now - REFUSALS_SINCE),
                )
            )
            cared = {row.cause: row for row in connection.execute(select(FailureCare))}
        causes = [
            replace(
                each,
                care=Care(
                    assigned_to=row.assigned_to,
                    snoozed_until=(
                        row.snoozed_until if row.snoozed_until and row.snoozed_until > now else None
                    ),
                    note=row.note,
                    changed_by=row.changed_by,
                    changed_at=row.changed_at,
                ),
            )
            if (row := cared.get(each.cause)) is not None
            else each
            for each in found
        ]
        shown = [each for each in causes if with_snoozed or each.care.snoozed_until is None]
        return sorted(
            shown,
            key=lambda each: each.last_at or dt.datetime.min.replace(tzinfo=dt.UTC),
            reverse=True,
        )

    def studies_of(self, cause: str) -> list[int]:
        """Return the studies that failed by a cause and can be tried again, the oldest first."""
        with reading(self._engine) as connection:
            rows = [
                *connection.execute(
                    _failed_items(
                        WorkItem.study_id, WorkItem.analysis, WorkItem.failure_kind, WorkItem.reason
                    )
                )
            ]
            found = {
                row.study_id
                for row in rows
                if cause_of(ANALYSIS, row.analysis, row.failure_kind, row.reason) == cause
            }
            refused = connection.execute(
                _refused_deliveries(
                    WorkItem.study_id, Delivery.destination, Delivery.status, Delivery.reason
                )
            )
            found |= {
                row.study_id
                for row in refused
                if cause_of(DELIVERY, row.destination, _status(row.status), row.reason) == cause
            }
        return sorted(found)[:MAX_STUDIES]

    def look_after(
        self,
        cause: str,
        *,
        actor: str,
        assigned_to: str = "",
        snoozed_until: dt.datetime | None = None,
        note: str = "",
    ) -> None:
        """Keep who looks after a cause, until when it is not shown first, and a note.

        Raises
        ------
        OrderRefused
            There is no such cause, or a value is too long or too far away.
        """
        now = self._clock()
        if len(assigned_to) > 64 or len(note) > MAX_NOTE_CHARACTERS:
            raise OrderRefused(
                f"a note has at most {MAX_NOTE_CHARACTERS} characters, an account's name 64"
            )
        if snoozed_until is not None and snoozed_until > now + MAX_SNOOZE:
            raise OrderRefused(f"a cause can be snoozed for at most {MAX_SNOOZE.days} days")
        if all(each.cause != cause for each in self.causes()):
            raise OrderRefused("nothing fails by this cause any more")
        values = {
            "assigned_to": assigned_to.replace("\0", ""),
            "snoozed_until": snoozed_until,
            "note": note.replace("\0", ""),
            "changed_by": actor[:64],
            "changed_at": now,
        }
        with writing(self._engine) as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(
                dialect.insert(FailureCare)
                .values(cause=cause, **values)
                .on_conflict_do_update(index_elements=["cause"], set_=values)
            )
            audit.append(
                connection,
                now,
                actor,
                "failure.looked_after",
                cause=cause,
                assigned_to=assigned_to,
                snoozed_until=snoozed_until.isoformat() if snoozed_until else "",
            )

    def quarantined(self) -> list[Quarantined]:
        """Return the instances that are kept apart, the newest first."""
        columns = [getattr(Instance, name) for name in Quarantined.__dataclass_fields__]
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(*columns)
                .where(Instance.disposition == "quarantined", Instance.purged_at.is_(None))
                .order_by(Instance.id.desc())
                .limit(MAX_QUARANTINED)
            ).all()
        return [Quarantined(**row._mapping) for row in rows]


# -- reads ----------------------------------------------------------------------------------------


def _failed_items(*columns: Any) -> Any:
    """Select failed work items of studies that stand as failed, not canceled by a person."""
    return (
        select(*columns)
        .join(Study, WorkItem.study_id == Study.id)
        .where(
            Study.state == states.FAILED,
            WorkItem.state == states.UPS_CANCELED,
            WorkItem.failure_kind != "",
        )
    )


def _refused_deliveries(*columns: Any) -> Any:
    return (
        select(*columns)
        .join(ResultObject, Delivery.result_object_id == ResultObject.id)
        .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
        # By the index over what is unconfirmed; a CASE, so that no index over the many completed
        # work items is tried instead.
        .where(is_unconfirmed(), Delivery.state == "REFUSED")
        .where(case((WorkItem.state == states.UPS_COMPLETED, 1), else_=0) == 1)
    )


def _status(status: int | None) -> str:
    return "" if status is None else f"{status:04X}"


def _analyses(connection: Connection) -> Iterable[Cause]:
    alike = (WorkItem.analysis, WorkItem.failure_kind, WorkItem.reason)
    rows = connection.execute(
        _failed_items(
            *alike, func.count().label("failures"), *_first_and_last(WorkItem.finished_at)
        )
        .group_by(*alike)
        .limit(MAX_ROWS)
    )
    for row in rows:
        yield _cause(ANALYSIS, row.analysis, row.failure_kind, row, can_replay=True)


def _deliveries(connection: Connection) -> Iterable[Cause]:
    alike = (Delivery.destination, Delivery.status, Delivery.reason)
    rows = connection.execute(
        _refused_deliveries(
            *alike, func.count().label("failures"), *_first_and_last(WorkItem.finished_at)
        )
        .group_by(*alike)
        .limit(MAX_ROWS)
    )
    for row in rows:
        yield _cause(DELIVERY, row.destination, _status(row.status), row, can_replay=True)


def _arrivals(connection: Connection, since: dt.datetime) -> Iterable[Cause]:
    alike = (Refusal.calling_ae_title, Refusal.status, Refusal.reason)
    rows = connection.execute(
        select(*alike, func.count().label("failures"), *_first_and_last(Refusal.at))
        .where(Refusal.at >= since)
        .group_by(*alike)
        .limit(MAX_ROWS)
    )
    for row in rows:
        yield _cause(ARRIVAL, row.calling_ae_title, _status(row.status), row, can_replay=False)


def _first_and_last(moment: Any) -> tuple[Any, Any]:
    return func.min(moment).label("first_at"), func.max(moment).label("last_at")


def _cause(kind: str, where: str, failure_kind: str, row: Any, *, can_replay: bool) -> Cause:
    return Cause(
        cause=cause_of(kind, where, failure_kind, row.reason),
        kind=kind,
        where=where,
        failure_kind=failure_kind,
        reason=row.reason,
        count=row.failures,
        first_at=row.first_at,
        last_at=row.last_at,
        can_replay=can_replay,
    )


def _gather(found: Iterable[Cause]) -> list[Cause]:
    """Add up what has the same cause."""
    gathered: dict[str, Cause] = {}
    for each in found:
        known = gathered.get(each.cause)
        gathered[each.cause] = each if known is None else _sum(known, each)
    return list(gathered.values())


def _sum(one: Cause, other: Cause) -> Cause:
    moments = [each for each in (one.first_at, other.first_at) if each is not None]
    ends = [each for each in (one.last_at, other.last_at) if each is not None]
    newer = other if other.last_at == max(ends, default=None) else one
    return replace(
        newer,
        count=one.count + other.count,
        first_at=min(moments, default=None),
        last_at=max(ends, default=None),
    )
