"""Reads of the record for people: where each study is, and how it got there.

Every read is one transaction with a fixed number of statements, whatever the number of studies;
lists are cut to a page. Patient attributes are never read here.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.reading.study_filter import StudyFilter
from gateway.store.tables import Delivery, Generation, Instance, ResultObject, Study, WorkItem

# SQLite's limit on variables is 32766 and PostgreSQL plans long lists badly.
_CHUNK = 500

# The type parameters of Select differ between SQLAlchemy 2.0 and 2.1.
Query = Any


@dataclass(frozen=True, kw_only=True)
class DeliveryStatus:
    """What one destination said about one result object."""

    destination: str
    state: str
    """PENDING, STORED, CONFIRMED or REFUSED."""
    confirmed_by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ObjectStatus:
    """One result object."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    """Absolute."""
    deliveries: tuple[DeliveryStatus, ...]
    id: int = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class WorkItemStatus:
    """One analysis of one generation of a study."""

    analysis: str
    state: str
    """UPS state (PS3.4 CC.1.1)."""
    step: str
    outcome: str
    reason: str
    generation: int
    model_digest: str
    attempts: int
    """Attempts at the current step."""
    failure_kind: str
    """TRANSIENT, REJECTED or DEFECT; empty without a failure."""
    created_at: dt.datetime
    started_at: dt.datetime | None
    analysed_at: dt.datetime | None
    finished_at: dt.datetime | None
    next_attempt_at: dt.datetime | None
    summary: dict[str, Any] | None
    objects: tuple[ObjectStatus, ...]


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """Where one study is."""

    study_instance_uid: str
    state: str
    """received, analysing, delivering, completed, failed or refused."""
    reason: str
    received_at: dt.datetime
    """When its first instance came."""
    last_received_at: dt.datetime
    """When its last one came."""
    age_s: float
    """Seconds since then."""
    generation: int
    """Number of the newest generation; 0 when no instance was accepted."""
    instances: int
    """Accepted instances."""
    work_items: tuple[WorkItemStatus, ...]
    """Of all generations, oldest first."""
    id: int = field(repr=False)
    """The study's number in the record; orders the list, newest highest."""

    @property
    def newest_items(self) -> tuple[WorkItemStatus, ...]:
        """The work items of the newest generation that has any."""
        newest = max((item.generation for item in self.work_items), default=0)
        return tuple(item for item in self.work_items if item.generation == newest)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON; times in ISO 8601, UTC."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"number": plain.pop("id"), **plain}


@dataclass(frozen=True, kw_only=True)
class StateCount:
    """How many studies are in one state."""

    state: str
    count: int
    oldest_at: dt.datetime | None
    """Since when the oldest of them has been in it; None without any."""


class StatusReader:
    """Answers "where is my study?"."""

    def __init__(self, engine: Engine, results_folder: Path, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._results_folder = results_folder
        self._clock = clock

    def study(self, study_instance_uid: str) -> StudyStatus | None:
        """Return one study; None when it is not known."""
        query = _studies().where(Study.study_instance_uid == study_instance_uid)
        with reading(self._engine) as connection:
            found = self._load(connection, query)
        return found[0] if found else None

    def numbered(self, study_id: int) -> StudyStatus | None:
        """Return one study by its number in the record; None when it is not known."""
        with reading(self._engine) as connection:
            found = self._load(connection, _studies().where(Study.id == study_id))
        return found[0] if found else None

    def studies(self, wanted: StudyFilter | None = None) -> list[StudyStatus]:
        """Return studies, the newest first."""
        with reading(self._engine) as connection:
            return self._load(connection, _filtered(_studies(), wanted or StudyFilter()))

    def size(self) -> tuple[int, int]:
        """Return about how many (studies, instances) there are: the numbers of the newest ones."""
        newest = [select(func.max(each.id)).scalar_subquery() for each in (Study, Instance)]
        with reading(self._engine) as connection:
            studies, instances = connection.execute(select(*newest)).one()
        return studies or 0, instances or 0

    def unsettled(self, study_instance_uid: str = "") -> tuple[int, int]:
        """Return (known, under way): how many studies there are, and how many are not final."""
        # Grouped by state, the answer comes from an index alone.
        query = select(Study.state, func.count()).group_by(Study.state)
        if study_instance_uid:
            query = query.where(Study.study_instance_uid == study_instance_uid)
        with reading(self._engine) as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        under_way = sum(count for state, count in found.items() if state not in states.FINAL_STATES)
        return sum(found.values()), under_way

    def counts(self) -> list[StateCount]:
        """Return every state with its number of studies and its oldest one."""
        # Counted and looked up apart: each answer then comes from an index, and the oldest from
        # its first entry.
        oldest = [
            select(func.min(Study.state_changed_at)).where(Study.state == state).scalar_subquery()
            for state in states.STUDY_STATES
        ]
        with reading(self._engine) as connection:
            rows = connection.execute(select(Study.state, func.count()).group_by(Study.state))
            counts = {row[0]: row[1] for row in rows}
            moments = connection.execute(select(*oldest)).one()
        return [
            StateCount(state=state, count=counts.get(state, 0), oldest_at=moment)
            for state, moment in zip(states.STUDY_STATES, moments, strict=True)
        ]

    def _load(self, connection: Connection, query: Query) -> list[StudyStatus]:
        now = self._clock()
        rows = connection.execute(query).all()
        found = []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            ids = [row.id for row in chunk]
            generations = _newest_generations(connection, ids)
            instances = _instance_counts(connection, ids)
            items = self._work_items(connection, ids)
            found += [
                StudyStatus(
                    id=row.id,
                    study_instance_uid=row.study_instance_uid,
                    state=row.state,
                    reason=row.reason,
                    received_at=row.first_received_at,
                    last_received_at=row.last_received_at,
                    age_s=round(max((now - row.first_received_at).total_seconds(), 0.0), 3),
                    generation=generations.get(row.id, 0),
                    instances=instances.get(row.id, 0),
                    work_items=tuple(items[row.id]),
                )
                for row in chunk
            ]
        return found

    def _work_items(
        self, connection: Connection, study_ids: Sequence[int]
    ) -> dict[int, list[WorkItemStatus]]:
        rows = connection.execute(
            select(
                WorkItem.id,
                WorkItem.study_id,
                WorkItem.analysis,
                WorkItem.state,
                WorkItem.step,
                WorkItem.outcome,
                WorkItem.reason,
                WorkItem.model_digest,
                WorkItem.attempts,
                WorkItem.failure_kind,
                WorkItem.created_at,
                WorkItem.started_at,
                WorkItem.analysed_at,
                WorkItem.finished_at,
                WorkItem.next_attempt_at,
                WorkItem.summary,
                Generation.number.label("generation"),
            )
            .join(Generation, WorkItem.generation_id == Generation.id)
            .where(WorkItem.study_id.in_(study_ids))
            .order_by(WorkItem.id)
        ).all()
        objects = self._objects(connection, study_ids)
        items: dict[int, list[WorkItemStatus]] = defaultdict(list)
        for row in rows:
            values = dict(row._mapping)
            work_item_id, study_id = values.pop("id"), values.pop("study_id")
            items[study_id].append(
                WorkItemStatus(**values, objects=tuple(objects.get(work_item_id, ())))
            )
        return items

    def _objects(
        self, connection: Connection, study_ids: Sequence[int]
    ) -> dict[int, list[ObjectStatus]]:
        rows = connection.execute(
            select(
                ResultObject.id,
                ResultObject.work_item_id,
                ResultObject.role,
                ResultObject.sop_class_uid,
                ResultObject.sop_instance_uid,
                ResultObject.path,
            )
            .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
            .where(WorkItem.study_id.in_(study_ids))
            .order_by(ResultObject.id)
        ).all()
        deliveries = _deliveries(connection, study_ids) if rows else {}
        objects: dict[int, list[ObjectStatus]] = defaultdict(list)
        for row in rows:
            objects[row.work_item_id].append(
                ObjectStatus(
                    id=row.id,
                    role=row.role,
                    sop_class_uid=row.sop_class_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    path=str(self._results_folder / row.path),
                    deliveries=tuple(deliveries.get(row.id, ())),
                )
            )
        return objects


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _studies() -> Query:
    return select(
        Study.id,
        Study.study_instance_uid,
        Study.state,
        Study.reason,
        Study.first_received_at,
        Study.last_received_at,
    ).order_by(Study.id.desc())


def _filtered(query: Query, wanted: StudyFilter) -> Query:
    query = query.where(*wanted.conditions())
    return query.limit(wanted.limit) if wanted.limit is not None else query


def _newest_generations(connection: Connection, study_ids: Iterable[int]) -> dict[int, int]:
    rows = connection.execute(
        select(Generation.study_id, func.max(Generation.number))
        .where(Generation.study_id.in_(study_ids))
        .group_by(Generation.study_id)
    )
    return {row[0]: row[1] for row in rows}


def _instance_counts(connection: Connection, study_ids: Iterable[int]) -> dict[int, int]:
    rows = connection.execute(
        select(Instance.study_id, func.count())
        .where(Instance.study_id.in_(study_ids), Instance.disposition == "accepted")
        .group_by(Instance.study_id)
    )
    return {row[0]: row[1] for row in rows}


def _deliveries(
    connection: Connection, study_ids: Iterable[int]
) -> dict[int, list[DeliveryStatus]]:
    rows = connection.execute(
        select(
            Delivery.result_object_id,
            Delivery.destination,
            Delivery.state,
            Delivery.confirmed_by,
            Delivery.reason,
        )
        .join(ResultObject, Delivery.result_object_id == ResultObject.id)
        .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
        .where(WorkItem.study_id.in_(study_ids))
        .order_by(Delivery.id)
    )
    deliveries: dict[int, list[DeliveryStatus]] = defaultdict(list)
    for row in rows:
        values = dict(row._mapping)
        deliveries[values.pop("result_object_id")].append(DeliveryStatus(**values))
    return deliveries


def study_list(engine: Engine, results_folder: Path = Path()) -> list[dict[str, Any]]:
    """Return every study as plain values, the newest first, as ``lentigo status --json`` does.

    Without ``results_folder`` the paths of result objects stay relative to it.
    """
    return [study.as_json() for study in StatusReader(engine, results_folder).studies()]
