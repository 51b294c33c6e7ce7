"""Checks what the gateway promises, over the record and the files: nothing lost, nothing doubled.

Each check looks at one invariant and says how much it looked at and what breaks it. Nothing is
changed, and a running installation may be checked: what is in motion (a file that was renamed a
second ago and has no row yet) is given ``grace_s`` to arrive.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.tables import (
    Delivery,
    Document,
    Generation,
    Instance,
    Refusal,
    ResultObject,
    Study,
    WorkItem,
)

_EXAMPLES = 10
_BATCH = 1000
_LONGEST_WAIT = dt.timedelta(days=2)
"""Nothing is planned further ahead: quiet windows and back-offs are minutes, leases seconds."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check saw."""

    invariant: str
    """The promise, in words."""
    is_promise: bool = True
    """False: what breaks it is worth knowing and harms nothing."""
    checked: int
    """Rows or files that were looked at."""
    broken: int
    remedy: str = ""
    examples: tuple[str, ...] = field(default=())
    """The first few that break it: internal ids and paths, no patient attribute."""

    @property
    def verdict(self) -> str:
        """``PASS``, ``NOTE`` or ``FAIL``."""
        if not self.broken:
            return "PASS"
        return "FAIL" if self.is_promise else "NOTE"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One installation under examination."""

    engine: Engine
    spool: Path
    results: Path
    is_deep: bool = False
    """Whether every file is read and its SHA-256 compared."""
    grace_s: float = 60.0
    """How long what is in motion may take."""
    clock: Clock = utc_now


class _Tally:
    """Counts what was looked at and what breaks an invariant."""

    def __init__(self, invariant: str, remedy: str, *, is_promise: bool = True) -> None:
        self._invariant, self._remedy, self._is_promise = invariant, remedy, is_promise
        self.checked, self._broken = 0, 0
        self._examples: list[str] = []

    def see(self, problem: str = "") -> None:
        """Count one; ``problem`` says what is wrong with it."""
        self.checked += 1
        if problem:
            self._broken += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append(problem)

    def finding(self) -> Finding:
        """Return the result."""
        return Finding(
            invariant=self._invariant,
            is_promise=self._is_promise,
            checked=self.checked,
            broken=self._broken,
            remedy=self._remedy if self._broken else "",
            examples=tuple(self._examples),
        )


def verify(subject: Subject) -> list[Finding]:
    """Run every check on the record and the files.

    Raises
    ------
    RecordUnavailable
        The database does not answer, so nothing can be said.
    """
    return [check(subject) for check in CHECKS]


def _rows(subject: Subject, statement: Any) -> Iterator[Any]:
    """Yield rows in batches by ``id``, so that a large record needs little memory."""
    key = statement.selected_columns.id
    last = 0
    while True:
        with reading(subject.engine) as connection:
            found = connection.execute(
                statement.where(key > last).order_by(key).limit(_BATCH)
            ).all()
        yield from found
        if len(found) < _BATCH:
            return
        last = found[-1].id


def _file_problem(subject: Subject, path: Path, size_bytes: int, sha256: str) -> str:
    """Return what is wrong with a file, empty when nothing is."""
    try:
        found = path.stat().st_size
        if found != size_bytes:
            return f"its file has {found} bytes, the record says {size_bytes}"
        if subject.is_deep:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                    return "its file was changed on disk"
    except FileNotFoundError:
        return "its file is gone"
    except OSError as exc:
        return f"its file cannot be read ({exc.strerror})"
    return ""


def check_received(subject: Subject) -> Finding:
    """What was acknowledged is on disk."""
    tally = _Tally(
        "every acknowledged instance and document is on disk, whole",
        "restore the file from backup or send the instance again; then check the disk",
    )
    for table in (Instance, Document):
        statement = select(table.id, table.path, table.size_bytes, table.sha256).where(
            table.purged_at.is_(None)  # retention has given it up, on purpose
        )
        for row in _rows(subject, statement):
            problem = _file_problem(subject, subject.spool / row.path, row.size_bytes, row.sha256)
            tally.see(problem and f"{table.__tablename__} {row.id}: {problem} ({row.path})")
    return tally.finding()


def check_results(subject: Subject) -> Finding:
    """What was made is on disk as it was sent."""
    tally = _Tally(
        "every result object is on disk, whole",
        "the object at the PACS is the same one; retrieve it from there",
    )
    statement = select(
        ResultObject.id, ResultObject.path, ResultObject.size_bytes, ResultObject.sha256
    ).where(ResultObject.purged_at.is_(None))
    for row in _rows(subject, statement):
        problem = _file_problem(subject, subject.results / row.path, row.size_bytes, row.sha256)
        tally.see(problem and f"result object {row.id}: {problem} ({row.path})")
    return tally.finding()


def check_orphans(subject: Subject) -> Finding:
    """Files that no row names: receptions and analyses that were cut short."""
    tally = _Tally(
        "every file in the spool and the results folder is named by the record",
        "harmless: left by a process that died before it answered; may be deleted",
        is_promise=False,
    )
    known = {str(subject.spool / row.path) for row in _known_files(subject)}
    known |= {
        str(subject.results / row.path)
        for row in _rows(subject, select(ResultObject.id, ResultObject.path))
    }
    newest = subject.clock().timestamp() - subject.grace_s
    folders = (subject.spool / "instances", subject.spool / "documents", subject.results)
    for path in (path for folder in folders for path in _files(folder)):
        try:
            is_orphan = str(path) not in known and path.stat().st_mtime < newest
        except FileNotFoundError:
            continue  # replaced or removed while we looked
        tally.see(f"{path}: no row" if is_orphan else "")
    return tally.finding()


def _known_files(subject: Subject) -> Iterator[Any]:
    yield from _rows(subject, select(Instance.id, Instance.path))
    yield from _rows(subject, select(Document.id, Document.path))
    yield from _rows(subject, select(Refusal.id, Refusal.path))


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place) / name


def check_result_sets(subject: Subject) -> Finding:
    """One result set for each generation, analysis and model digest, and all of it confirmed."""
    tally = _Tally(
        "a completed work item has exactly one result set, each object confirmed",
        "see the work item on the admin page; report it, this is a defect",
    )
    with reading(subject.engine) as connection:
        objects = _objects_of_items(connection)
        doubled = _doubled_items(connection)
    statement = select(WorkItem.id, WorkItem.state, WorkItem.step, WorkItem.analysis)
    for row in _rows(subject, statement):
        found = objects.get(row.id, [])
        problem = _set_problem(row, found) or doubled.get(row.id, "")
        tally.see(problem and f"work item {row.id} ({row.analysis}): {problem}")
    return tally.finding()


def _objects_of_items(connection: Connection) -> dict[int, list[Any]]:
    """Return (role, delivery state) of every object of every work item."""
    found: dict[int, list[Any]] = {}
    rows = connection.execute(
        select(
            ResultObject.work_item_id,
            ResultObject.id,
            ResultObject.role,
            Delivery.destination,
            Delivery.state,
        ).join(Delivery, Delivery.result_object_id == ResultObject.id, isouter=True)
    )
    for row in rows:
        found.setdefault(row.work_item_id, []).append(row)
    return found


def _doubled_items(connection: Connection) -> dict[int, str]:
    """Return work items that share their key; the database forbids it, a restored one may not."""
    key = (WorkItem.generation_id, WorkItem.analysis, WorkItem.model_digest)
    rows = connection.execute(
        select(func.max(WorkItem.id), func.count()).group_by(*key).having(func.count() > 1)
    )
    return {row[0]: f"{row[1]} work items of one generation, analysis and model" for row in rows}


def _set_problem(item: Any, objects: list[Any]) -> str:
    roles: dict[str, set[int]] = {}
    for each in objects:
        roles.setdefault(each.role, set()).add(each.id)
    twice = sorted(role for role, ids in roles.items() if len(ids) > 1)
    if twice:
        return f"more than one {', '.join(twice)}"
    if item.state == states.UPS_COMPLETED:
        return _completed_problem(objects)
    if item.step == states.ANALYSE and objects:
        return "has results and is still to be analysed"
    if item.step == states.DELIVER and not objects:
        return "is to be delivered and has no results"
    waiting = [each for each in objects if each.state in ("PENDING", "STORED")]
    if item.state == states.UPS_CANCELED and item.step == states.DELIVER and waiting:
        return f"was given up while {len(waiting)} objects waited"
    return ""


def _completed_problem(objects: list[Any]) -> str:
    if not objects:
        return "completed without a result"
    open_ones = [each for each in objects if each.state in ("PENDING", "STORED")]
    if open_ones:
        return f"completed with {len(open_ones)} objects unconfirmed"
    destinations = {each.destination for each in objects if each.destination}
    takers = {each.destination for each in objects if each.state == "CONFIRMED"}
    return "completed, confirmed by no destination" if destinations - takers else ""


def check_owners(subject: Subject) -> Finding:
    """Nothing waits for nobody."""
    tally = _Tally(
        "all unfinished work has an owner or a time of its next attempt",
        "are the sweeper, the workers and the broker running? `lentigo doctor` says",
    )
    now = subject.clock()
    for row in _rows(subject, _unfinished_generations()):
        problem = _generation_problem(row, now, subject.grace_s)
        tally.see(problem and f"study {row.study_id}, generation {row.number}: {problem}")
    statement = select(
        WorkItem.id,
        WorkItem.study_id,
        WorkItem.analysis,
        WorkItem.state,
        WorkItem.next_attempt_at,
        WorkItem.lease_token,
        WorkItem.lease_expires_at,
    )
    for row in _rows(subject, statement):
        problem = _item_problem(row, now, subject.grace_s)
        tally.see(
            problem and f"study {row.study_id}, work item {row.id} ({row.analysis}): {problem}"
        )
    return tally.finding()


def _unfinished_generations() -> Any:
    return select(
        Generation.id,
        Generation.study_id,
        Generation.number,
        Generation.state,
        Generation.closes_at,
        Generation.next_attempt_at,
    ).where(Generation.state != states.ROUTED)


def _due_problem(due: dt.datetime | None, now: dt.datetime, grace_s: float, what: str) -> str:
    if due is None:
        return f"{what} never"
    if due > now + _LONGEST_WAIT:
        return f"{what} at {due:%Y-%m-%d %H:%M} only: was the clock of this host wrong?"
    late_s = (now - due).total_seconds()
    return f"{what} {late_s:.0f} s ago, and nobody does it" if late_s > grace_s else ""


def _generation_problem(row: Any, now: dt.datetime, grace_s: float) -> str:
    if row.state == states.RECEIVING:
        return _due_problem(row.closes_at, now, grace_s, "to be closed")
    return _due_problem(row.next_attempt_at, now, grace_s, "to be routed")


def _item_problem(row: Any, now: dt.datetime, grace_s: float) -> str:
    if row.state in states.UPS_FINAL:
        return "has ended and is still held" if row.lease_token is not None else ""
    if row.lease_token is not None:
        return _due_problem(row.lease_expires_at, now, grace_s, "free")
    return _due_problem(row.next_attempt_at, now, grace_s, "due")


def check_states(subject: Subject) -> Finding:
    """A study's state says where it stands, and one that waits says for what."""
    tally = _Tally(
        "every study's state agrees with its work, and one that stays says why",
        "see the study on the admin page; report it, this is a defect",
    )
    now = subject.clock()
    for study in _rows(
        subject, select(Study.id, Study.state, Study.reason, Study.state_changed_at)
    ):
        with reading(subject.engine) as connection:
            derived = _derived_state(connection, study.id)
            is_new = (now - study.state_changed_at).total_seconds() < max(subject.grace_s, 3600.0)
            current = connection.execute(select(Study.state).where(Study.id == study.id)).scalar()
        problem = ""
        if current != derived:
            problem = f"is called {current}, its work says {derived}"
        elif current not in states.FINAL_STATES and not study.reason and not is_new:
            problem = f"{current} since {study.state_changed_at:%Y-%m-%d %H:%M}, without a reason"
        tally.see(problem and f"study {study.id}: {problem}")
    return tally.finding()


def _derived_state(connection: Connection, study_id: int) -> str:
    generation = connection.execute(
        select(Generation.id, Generation.state, Generation.reason)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
    ).first()
    items: Iterable[Any] = connection.execute(
        select(WorkItem.generation_id, WorkItem.state, WorkItem.step, WorkItem.reason).where(
            WorkItem.study_id == study_id
        )
    ).all()
    state, _ = states.derive_state(
        (generation[0], generation[1], generation[2]) if generation else None,
        [(row[0], row[1], row[2], row[3]) for row in items],
    )
    return state


CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    check_received,
    check_results,
    check_result_sets,
    check_owners,
    check_states,
    check_orphans,
)
