"""Checks what the gateway promises, over the record and the files: nothing lost, nothing doubled.

Each check looks at one invariant and says how much it looked at and what breaks it. Nothing is
changed, and a running installation may be checked: what is in motion (a file that was renamed a
second ago and has no row yet) is given ``grace_s`` to arrive.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from gateway.journal_segment import Segment
from gateway.store import states
from gateway.store.engine import reading
from gateway.store.tables import Delivery, Document, Instance, Refusal, ResultObject, WorkItem
from gateway.store.verification.findings import Finding, Subject, Tally, rows_of
from gateway.store.verification.kept import check_audit, check_commitments, check_once, check_purged
from gateway.store.verification.work import check_owners, check_states

__all__ = ["CHECKS", "Finding", "Subject", "verify"]


def verify(subject: Subject) -> list[Finding]:
    """Run every check on the record and the files.

    Raises
    ------
    RecordUnavailable
        The database does not answer, so nothing can be said.
    """
    return [check(subject) for check in CHECKS]


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
    tally = Tally(
        "every acknowledged instance and document is on disk, whole",
        "restore the file from backup or send the instance again; then check the disk",
    )
    journalled: frozenset[str] | None = None
    for table in (Instance, Document):
        statement = select(table.id, table.path, table.size_bytes, table.sha256).where(
            table.purged_at.is_(None)  # retention has given it up, on purpose
        )
        for row in rows_of(subject, statement):
            problem = _file_problem(subject, subject.spool / row.path, row.size_bytes, row.sha256)
            if problem and journalled is None:
                journalled = _journalled(subject)
            if problem and journalled and row.sha256 in journalled:
                problem += "; the journal has it: restart the listener, which restores it"
            tally.see(problem and f"{table.__tablename__} {row.id}: {problem} ({row.path})")
    return tally.finding()


def _journalled(subject: Subject) -> frozenset[str]:
    """Return the digests of what the spool's journal holds, for the time being."""
    found: set[str] = set()
    for path in sorted((subject.spool / "journal").glob("*.journal")):
        try:
            segment = Segment.view(path)
        except OSError:
            continue  # no journal any more, or none that helps
        try:
            found.update(digest for digest, _ in segment.records())
        finally:
            segment.close()
    return frozenset(found)


def check_results(subject: Subject) -> Finding:
    """What was made is on disk as it was sent."""
    tally = Tally(
        "every result object is on disk, whole",
        "the object at the PACS is the same one; retrieve it from there",
    )
    statement = select(
        ResultObject.id, ResultObject.path, ResultObject.size_bytes, ResultObject.sha256
    ).where(ResultObject.purged_at.is_(None))
    for row in rows_of(subject, statement):
        problem = _file_problem(subject, subject.results / row.path, row.size_bytes, row.sha256)
        tally.see(problem and f"result object {row.id}: {problem} ({row.path})")
    return tally.finding()


def check_orphans(subject: Subject) -> Finding:
    """Files that no row names: receptions and analyses that were cut short."""
    tally = Tally(
        "every file in the spool and the results folder is named by the record",
        "harmless: left by a process that died before it answered; may be deleted",
        is_promise=False,
    )
    known = {str(subject.spool / row.path) for row in _known_files(subject)}
    known |= {
        str(subject.results / row.path)
        for row in rows_of(subject, select(ResultObject.id, ResultObject.path))
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
    yield from rows_of(subject, select(Instance.id, Instance.path))
    yield from rows_of(subject, select(Document.id, Document.path))
    yield from rows_of(subject, select(Refusal.id, Refusal.path))


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield Path(place) / name


def check_result_sets(subject: Subject) -> Finding:
    """One result set for each generation, analysis and model digest, and all of it confirmed."""
    tally = Tally(
        "a completed work item has exactly one result set, each object confirmed",
        "see the work item on the admin page; report it, this is a defect",
    )
    with reading(subject.engine) as connection:  # one snapshot of items and what they made
        objects = _objects_of_items(connection)
        doubled = _doubled_items(connection)
        items = connection.execute(
            select(
                WorkItem.id,
                WorkItem.state,
                WorkItem.step,
                WorkItem.analysis,
                WorkItem.failure_kind,
            ).order_by(WorkItem.id)
        ).all()
    for row in items:
        problem = _set_problem(row, objects.get(row.id, [])) or doubled.get(row.id, "")
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
    if item.state == states.UPS_CANCELED:
        return _canceled_problem(item, objects)
    if item.step == states.ANALYSE and objects:
        return "has results and is still to be analysed"
    if item.step == states.DELIVER and not objects:
        return "is to be delivered and has no results"
    return ""


def _canceled_problem(item: Any, objects: list[Any]) -> str:
    if item.step != states.DELIVER or not item.failure_kind:  # canceled on somebody's request
        return ""
    waiting = [each for each in objects if each.state in ("PENDING", "STORED")]
    return f"was given up while {len(waiting)} objects waited" if waiting else ""


def _completed_problem(objects: list[Any]) -> str:
    if not objects:
        return "completed without a result"
    open_ones = [each for each in objects if each.state in ("PENDING", "STORED")]
    if open_ones:
        return f"completed with {len(open_ones)} objects unconfirmed"
    destinations = {each.destination for each in objects if each.destination}
    takers = {each.destination for each in objects if each.state == "CONFIRMED"}
    return "completed, confirmed by no destination" if destinations - takers else ""


CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    check_received,
    check_results,
    check_once,
    check_result_sets,
    check_owners,
    check_commitments,
    check_states,
    check_purged,
    check_audit,
    check_orphans,
)
