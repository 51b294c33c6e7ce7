"""What a purge may take, in which order, and how far it has come.

The order is rows first, files second. A row that is marked says "its file is not to be relied on";
then the file is moved away under the row's lock; then it is removed. A crash between any two steps
leaves a file too many, and the next purge goes on there; never a row that points to nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    delete,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, aliased

from gateway.delivery.routes import FOLDER
from gateway.store import audit, states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import (
    Delivery,
    Document,
    Event,
    Generation,
    Identity,
    Instance,
    Refusal,
    ResultObject,
    RetentionHold,
    Study,
    WorkItem,
)

INSTANCES, RESULTS, QUARANTINE, DOCUMENTS = "instances", "results", "quarantine", "documents"
KINDS = (INSTANCES, RESULTS, QUARANTINE, DOCUMENTS)
"""What files a purge removes; embeddings and lines of timelines have none of their own."""

_EVENT_PAGE = 2000
_PENDING_PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Until when what came in may go; None keeps it."""

    instances_before: dt.datetime | None = None
    unconfirmed_before: dt.datetime | None = None
    results_before: dt.datetime | None = None
    quarantine_before: dt.datetime | None = None
    documents_before: dt.datetime | None = None
    events_before: dt.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Files of one study that the policy lets go."""

    kind: str
    """One of ``KINDS``."""
    study_id: int | None
    """None for what belongs to no known study."""
    study_instance_uid: str
    files: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PendingFile:
    """A marked row whose file may still lie there."""

    kind: str
    id: int
    path: str
    size_bytes: int


Condition = ColumnElement[bool]
# The type parameters of Select differ between SQLAlchemy 2.0 and 2.1.
PurgeQuery = Any


def _is_held(study_uid: ColumnElement[str] | InstrumentedAttribute[str]) -> Condition:
    return exists().where(
        RetentionHold.study_instance_uid == study_uid, RetentionHold.released_at.is_(None)
    )


def _is_settled() -> Condition:
    """Whether nothing of the study is under way, held, or being compared with."""
    # Aliases throughout: the query around may name the same tables.
    own, other, active = aliased(Identity), aliased(Identity), aliased(Study)
    generation, item = aliased(Generation), aliased(WorkItem)
    is_compared = (
        exists()
        .where(own.study_id == Study.id, own.patient_key != "")
        .where(other.patient_key == own.patient_key, other.study_id == active.id)
        .where(active.id != Study.id, active.state.not_in(states.FINAL_STATES))
    )
    is_open = exists().where(generation.study_id == Study.id, generation.state != states.ROUTED)
    is_worked_on = exists().where(item.study_id == Study.id, item.state.not_in(states.UPS_FINAL))
    return and_(
        Study.state.in_(states.FINAL_STATES),
        Study.held_at.is_(None),
        not_(_is_held(Study.study_instance_uid)),
        not_(is_open),
        not_(is_worked_on),
        not_(is_compared),
    )


def _is_confirmed() -> Condition:
    """Whether a PACS has confirmed every result, or there is nothing that was ours to analyse."""
    delivery, made, item = aliased(Delivery), aliased(ResultObject), aliased(WorkItem)
    instance = aliased(Instance)
    is_open = (
        exists()
        .where(delivery.result_object_id == made.id)
        .where(made.work_item_id == item.id, item.study_id == Study.id)
        .where(or_(delivery.state != "CONFIRMED", delivery.destination == FOLDER))
    )
    is_ours = exists().where(instance.study_id == Study.id, instance.disposition == "accepted")
    return or_(not_(is_ours), and_(Study.state == states.COMPLETED, not_(is_open)))


def _past(policy: Policy) -> Condition:
    """Whether a settled study is past the days of its kind."""
    confirmed, other = policy.instances_before, policy.unconfirmed_before
    rules: list[Condition] = []
    if confirmed is not None:
        rules.append(and_(_is_confirmed(), Study.last_received_at <= confirmed))
    if other is not None:
        rules.append(and_(not_(_is_confirmed()), Study.last_received_at <= other))
    return or_(false(), *rules)


def _results_past(policy: Policy) -> Condition:
    own = exists().where(
        Delivery.result_object_id == ResultObject.id,
        or_(Delivery.state != "CONFIRMED", Delivery.destination == FOLDER),
    )
    sent = exists().where(Delivery.result_object_id == ResultObject.id)
    rules: list[Condition] = []
    if policy.results_before is not None:
        rules.append(and_(sent, not_(own), ResultObject.created_at <= policy.results_before))
    if policy.unconfirmed_before is not None:
        unconfirmed = or_(own, not_(sent))
        rules.append(and_(unconfirmed, ResultObject.created_at <= policy.unconfirmed_before))
    return or_(false(), *rules)


def _before(column: ColumnElement[dt.datetime] | Any, moment: dt.datetime | None) -> Condition:
    return false() if moment is None else column <= moment


def _instances(policy: Policy) -> PurgeQuery:
    return (
        select(Instance.id, Study.id, Study.study_instance_uid, Instance.size_bytes)
        .join(Study, Instance.study_id == Study.id)
        .where(Instance.purged_at.is_(None), Instance.disposition != "quarantined")
        .where(_is_settled(), _past(policy))
    )


def _results(policy: Policy) -> PurgeQuery:
    return (
        select(ResultObject.id, Study.id, Study.study_instance_uid, ResultObject.size_bytes)
        .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
        .join(Study, WorkItem.study_id == Study.id)
        .where(ResultObject.purged_at.is_(None), _is_settled(), _results_past(policy))
    )


def _documents(policy: Policy) -> PurgeQuery:
    return (
        select(Document.id, Study.id, Document.study_instance_uid, Document.size_bytes)
        .join(Study, Document.study_instance_uid == Study.study_instance_uid, isouter=True)
        .where(
            Document.purged_at.is_(None),
            _before(Document.received_at, policy.documents_before),
            or_(
                and_(Study.id.is_(None), not_(_is_held(Document.study_instance_uid))),
                _is_settled(),
            ),
        )
    )


def _refusals(policy: Policy) -> PurgeQuery:
    return (
        select(Refusal.id, Study.id, Study.study_instance_uid, literal(0).label("size_bytes"))
        .join(Study, Refusal.study_id == Study.id, isouter=True)
        .where(
            Refusal.purged_at.is_(None),
            Refusal.path != "",
            _before(Refusal.at, policy.quarantine_before),
            or_(
                Study.id.is_(None),
                and_(Study.held_at.is_(None), not_(_is_held(Study.study_instance_uid))),
            ),
        )
    )


def _conflicts(policy: Policy) -> PurgeQuery:
    """Instances in quarantine: their UID was known with other bytes."""
    return (
        select(Instance.id, Study.id, Study.study_instance_uid, Instance.size_bytes)
        .join(Study, Instance.study_id == Study.id)
        .where(
            Instance.purged_at.is_(None),
            Instance.disposition == "quarantined",
            _before(Instance.received_at, policy.quarantine_before),
            Study.held_at.is_(None),
            not_(_is_held(Study.study_instance_uid)),
        )
    )


Purgeable = type[Instance] | type[ResultObject] | type[Document] | type[Refusal]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of one table that hold files of one kind."""

    kind: str
    table: Purgeable
    query: Callable[[Policy], PurgeQuery]
    """(row id, study id, Study Instance UID, size in bytes) of those that may go."""


_ROWS = (
    _Rows(kind=INSTANCES, table=Instance, query=_instances),
    _Rows(kind=RESULTS, table=ResultObject, query=_results),
    _Rows(kind=DOCUMENTS, table=Document, query=_documents),
    _Rows(kind=QUARANTINE, table=Refusal, query=_refusals),
    _Rows(kind=QUARANTINE, table=Instance, query=_conflicts),
)


class PurgeRecord:
    """Says what may go, marks it, and notes what is gone."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def candidates(self, policy: Policy) -> list[Candidate]:
        """Return what the policy lets go now, study by study; changes nothing."""
        found: dict[tuple[str, int | None, str], list[int]] = {}
        with reading(self._engine) as connection:
            for rows in _ROWS:
                for _, study_id, uid, size in connection.execute(rows.query(policy)):
                    found.setdefault((rows.kind, study_id, uid or ""), []).append(size)
        return [
            Candidate(
                kind=kind,
                study_id=study_id,
                study_instance_uid=uid,
                files=len(sizes),
                size_bytes=sum(sizes),
            )
            for (kind, study_id, uid), sizes in found.items()
        ]

    def mark(self, candidate: Candidate, policy: Policy) -> int:
        """Mark what may go of a candidate, after looking again; return how many files.

        Between plan and mark a late instance or a hold may have come. Timeline and audit trail
        say it in the same transaction.
        """
        now = self._clock()
        files, size = 0, 0
        study = candidate.study_id
        with writing(self._engine) as connection:
            if study is not None:
                states.lock_study(connection, study)
            for rows in _ROWS:
                if rows.kind != candidate.kind:
                    continue
                is_of = Study.id == study if study is not None else Study.id.is_(None)
                found = connection.execute(rows.query(policy).where(is_of)).all()
                _mark(connection, rows.table, [row[0] for row in found], now)
                files += len(found)
                size += sum(row[3] for row in found)
            if files:
                said: dict[str, Any] = {"kind": candidate.kind, "files": files, "size_bytes": size}
                if study is not None:
                    states.note(connection, now, "retention.purged", study_id=study, **said)
                audit.append(connection, now, "retention", "instances.purged", study=study, **said)
        return files

    def pending(self) -> list[PendingFile]:
        """Return some marked rows whose files may still lie there; none when all are gone."""
        found = []
        with reading(self._engine) as connection:
            for rows in _ROWS[:4]:
                size = getattr(rows.table, "size_bytes", literal(0))
                page = connection.execute(
                    select(rows.table.id, rows.table.path, size)
                    .where(rows.table.is_purge_pending)
                    .order_by(rows.table.id)
                    .limit(_PENDING_PAGE)
                )
                found += [
                    PendingFile(kind=rows.kind, id=row[0], path=row[1], size_bytes=row[2])
                    for row in page
                ]
        return found

    def give_up(
        self, files: Sequence[PendingFile], move_away: Callable[[PendingFile], None]
    ) -> int:
        """Let go of the files of marked rows, under the rows' locks; return how many.

        Parameters
        ----------
        move_away
            Takes a file out of its place. It is called only while no instance that came again can
            have been acknowledged on the strength of it: taking one back waits for the same lock.
        """
        given = 0
        with writing(self._engine) as connection:
            for each in files:
                table = next(rows.table for rows in _ROWS if rows.kind == each.kind)
                is_ours = connection.execute(
                    update(table)
                    .where(table.id == each.id, table.is_purge_pending)
                    .values(is_purge_pending=False)
                ).rowcount
                if not is_ours:
                    continue  # it was sent again, or another purge was faster
                others = connection.execute(
                    select(table.id)
                    .where(table.path == each.path, table.purged_at.is_(None))
                    .limit(1)
                ).first()
                if others is None:
                    move_away(each)
                given += 1
        return given

    def purge_events(self, before: dt.datetime) -> int:
        """Remove lines of the timelines of studies that have ended; return how many.

        Lines that the audit trail has not summed up yet stay, and so does the newest one.
        """
        removed = 0
        while True:
            with writing(self._engine) as connection:
                position, _ = audit.cursor(connection)
                newest = connection.execute(select(func.max(Event.id))).scalar() or 0
                ended = exists().where(Study.id == Event.study_id, _is_settled())
                ids = (
                    connection.execute(
                        select(Event.id)
                        .where(
                            Event.id <= position,
                            Event.id < newest,
                            Event.at < before,
                            or_(Event.study_id.is_(None), ended),
                        )
                        .order_by(Event.id)
                        .limit(_EVENT_PAGE)
                    )
                    .scalars()
                    .all()
                )
                if ids:
                    connection.execute(delete(Event).where(Event.id.in_(ids)))
            removed += len(ids)
            if len(ids) < _EVENT_PAGE:
                return removed


def _mark(connection: Connection, table: Purgeable, ids: Sequence[int], now: dt.datetime) -> None:
    for start in range(0, len(ids), 500):
        connection.execute(
            update(table)
            .where(table.id.in_(ids[start : start + 500]))
            .values(purged_at=now, is_purge_pending=True)
        )
