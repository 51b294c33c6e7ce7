"""Reads of the record about one study: its timeline, generations, series and refusals.

Patient attributes are never read here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, cast, func, select

from gateway.store.engine import reading
from gateway.store.tables import (
    Delivery,
    Event,
    Generation,
    Instance,
    Refusal,
    ResultObject,
    Study,
    WorkItem,
)

MAX_EVENTS = 500
MAX_SERIES = 200
MAX_REFUSALS = 50
MAX_PICTURES = 24
MAX_ASSOCIATIONS = 100

# PostgreSQL hands out ids before the commit, so a lower id may appear after a higher one.
_LATE_IDS = 1000


@dataclass(frozen=True, kw_only=True)
class TimelineEvent:
    """One line of a timeline."""

    id: int
    at: dt.datetime
    action: str
    level: str
    """info, warning or alarm."""
    analysis: str
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GenerationStatus:
    """One generation of a study."""

    number: int
    state: str
    """receiving, closed or routed."""
    opened_at: dt.datetime
    closes_at: dt.datetime
    closed_at: dt.datetime | None
    routed_at: dt.datetime | None
    next_attempt_at: dt.datetime | None
    attempts: int
    reason: str
    instances: int
    """Instances that came in with it, those of its predecessors not counted."""
    plan: dict[str, Any] | None
    """What the rules decided and why (``gateway.rules.plan``); None before they looked."""


@dataclass(frozen=True, kw_only=True)
class SeriesStatus:
    """The instances of one series that share SOP class, transfer syntax, sender and fate."""

    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    calling_ae_title: str
    disposition: str
    """accepted, quarantined, own_result or prior."""
    reason: str
    instances: int
    size_bytes: int
    first_at: dt.datetime
    last_at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class RefusalStatus:
    """One C-STORE of the study that was not accepted."""

    at: dt.datetime
    status: int
    """DIMSE status (PS3.4 B.2.3)."""
    reason: str
    calling_ae_title: str
    sop_class_uid: str


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened to one study, the oldest first."""

    events: tuple[TimelineEvent, ...]
    """The newest ``MAX_EVENTS``."""
    generations: tuple[GenerationStatus, ...]
    series: tuple[SeriesStatus, ...]
    refusals: tuple[RefusalStatus, ...]
    """The newest ``MAX_REFUSALS``."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """Where a result object lies."""

    role: str
    path: str
    """Relative to the results folder."""
    sha256: str


class HistoryReader:
    """Answers "what happened to this study?"."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def history(self, study_id: int) -> History:
        """Return what happened to a study, by its internal id."""
        with reading(self._engine) as connection:
            return History(
                events=_events(connection, study_id),
                generations=_generations(connection, study_id),
                series=_series(connection, study_id),
                refusals=_refusals(connection, study_id),
            )

    def result_object(self, study_id: int, result_object_id: int) -> StoredObject | None:
        """Return one result object of a study, by their ids; None when it is not known."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(ResultObject.role, ResultObject.path, ResultObject.sha256)
                .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
                .where(ResultObject.id == result_object_id, WorkItem.study_id == study_id)
            ).first()
        return StoredObject(**row._mapping) if row is not None else None

    def instance(self, study_id: int, instance_id: int) -> StoredObject | None:
        """Return one received instance of a study, its path relative to the spool."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(Instance.disposition.label("role"), Instance.path, Instance.sha256).where(
                    Instance.id == instance_id,
                    Instance.study_id == study_id,
                    Instance.purged_at.is_(None),
                )
            ).first()
        return StoredObject(**row._mapping) if row is not None else None

    def pictures(self, study_id: int) -> list[int]:
        """Return the ids of the first received instances of a study whose files are there."""
        with reading(self._engine) as connection:
            return list(
                connection.execute(
                    select(Instance.id)
                    .where(Instance.study_id == study_id, Instance.purged_at.is_(None))
                    .order_by(Instance.id)
                    .limit(MAX_PICTURES)
                ).scalars()
            )

    def is_held(self, study_id: int) -> bool:
        """Return whether a study is held."""
        with reading(self._engine) as connection:
            held_at = connection.execute(select(Study.held_at).where(Study.id == study_id)).scalar()
        return held_at is not None

    def marks(self, study_ids: Sequence[int]) -> dict[int | None, str]:
        """Return a mark of the whole record (key None) and of some studies.

        A mark is an opaque text that changes whenever a line is added to the timeline.
        """
        with reading(self._engine) as connection:
            newest = connection.execute(select(func.max(Event.id))).scalar() or 0
            recent = connection.execute(
                select(func.count()).select_from(Event).where(Event.id > newest - _LATE_IDS)
            ).scalar_one()
            marks: dict[int | None, str] = {None: f"{newest}.{recent}"}
            for study_id, last, count in connection.execute(
                select(Event.study_id, func.max(Event.id), func.count())
                .where(Event.study_id.in_(study_ids))
                .group_by(Event.study_id)
            ):
                marks[study_id] = f"{last}.{count}"
        return marks


def _events(connection: Connection, study_id: int) -> tuple[TimelineEvent, ...]:
    rows = connection.execute(
        select(Event.id, Event.at, Event.action, Event.level, Event.detail, WorkItem.analysis)
        .outerjoin(WorkItem, Event.work_item_id == WorkItem.id)
        .where(Event.study_id == study_id)
        .order_by(Event.id.desc())
        .limit(MAX_EVENTS)
    ).all()
    roles = _delivery_roles(connection, study_id)
    events = []
    for row in reversed(rows):
        detail = dict(row.detail)
        if "delivery" in detail:
            # The number of a delivery says nothing to a person.
            role, destination = roles.get(detail.pop("delivery"), ("", ""))
            detail = {"object": role, "destination": destination, **detail}
        analysis = detail.pop("analysis", None) or row.analysis or ""
        events.append(
            TimelineEvent(
                id=row.id,
                at=row.at,
                action=row.action,
                level=row.level,
                analysis=analysis,
                detail=detail,
            )
        )
    events += _associations(connection, study_id)
    return tuple(sorted(events, key=lambda each: (each.at, each.id)))


def _associations(connection: Connection, study_id: int) -> list[TimelineEvent]:
    """Return a line for each association that brought instances, at its first one."""
    rows = connection.execute(
        select(
            Instance.association_id,
            Instance.calling_ae_title,
            Instance.peer_address,
            func.count().label("instances"),
            cast(func.sum(Instance.size_bytes), BigInteger).label("size_bytes"),
            func.min(Instance.received_at).label("first_at"),
            func.max(Instance.received_at).label("last_at"),
        )
        .where(Instance.study_id == study_id)
        .group_by(Instance.association_id, Instance.calling_ae_title, Instance.peer_address)
        .order_by(func.min(Instance.id).desc())
        .limit(MAX_ASSOCIATIONS)
    )
    return [
        TimelineEvent(
            id=0,
            at=row.first_at,
            action="association.brought",
            level="info",
            analysis="",
            detail={
                "from": row.calling_ae_title,
                "address": row.peer_address,
                "instances": row.instances,
                "bytes_received": row.size_bytes,
                "over_s": (row.last_at - row.first_at).total_seconds(),
            },
        )
        for row in rows
    ]


def _delivery_roles(connection: Connection, study_id: int) -> dict[int, tuple[str, str]]:
    rows = connection.execute(
        select(Delivery.id, ResultObject.role, Delivery.destination)
        .join(ResultObject, Delivery.result_object_id == ResultObject.id)
        .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
        .where(WorkItem.study_id == study_id)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _generations(connection: Connection, study_id: int) -> tuple[GenerationStatus, ...]:
    arrived = (
        select(func.count())
        .select_from(Instance)
        .where(Instance.generation_id == Generation.id)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(
            Generation.number,
            Generation.state,
            Generation.opened_at,
            Generation.closes_at,
            Generation.closed_at,
            Generation.routed_at,
            Generation.next_attempt_at,
            Generation.attempts,
            Generation.reason,
            Generation.plan,
            arrived.label("instances"),
        )
        .where(Generation.study_id == study_id)
        .order_by(Generation.number)
    )
    return tuple(GenerationStatus(**row._mapping) for row in rows)


def _series(connection: Connection, study_id: int) -> tuple[SeriesStatus, ...]:
    alike = (
        Instance.series_instance_uid,
        Instance.sop_class_uid,
        Instance.transfer_syntax_uid,
        Instance.modality,
        Instance.calling_ae_title,
        Instance.disposition,
        Instance.reason,
    )
    rows = connection.execute(
        select(
            *alike,
            func.count().label("instances"),
            cast(func.sum(Instance.size_bytes), BigInteger).label("size_bytes"),
            func.min(Instance.received_at).label("first_at"),
            func.max(Instance.received_at).label("last_at"),
        )
        .where(Instance.study_id == study_id)
        .group_by(*alike)
        .order_by(func.min(Instance.id))
        .limit(MAX_SERIES)
    )
    return tuple(SeriesStatus(**row._mapping) for row in rows)


def _refusals(connection: Connection, study_id: int) -> tuple[RefusalStatus, ...]:
    rows = connection.execute(
        select(
            Refusal.at,
            Refusal.status,
            Refusal.reason,
            Refusal.calling_ae_title,
            Refusal.sop_class_uid,
        )
        .where(Refusal.study_id == study_id)
        .order_by(Refusal.id.desc())
        .limit(MAX_REFUSALS)
    ).all()
    return tuple(RefusalStatus(**row._mapping) for row in reversed(rows))
