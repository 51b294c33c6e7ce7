"""Checks on the work in the record: nothing waits for nobody, and every state is true."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from gateway.store import states
from gateway.store.engine import reading
from gateway.store.tables import Generation, Study, WorkItem
from gateway.store.verification.findings import Finding, Subject, Tally, rows_of

_LONGEST_WAIT = dt.timedelta(days=2)
"""Nothing is planned further ahead: quiet windows and back-offs are minutes, leases seconds."""


def check_owners(subject: Subject) -> Finding:
    """Nothing waits for nobody."""
    tally = Tally(
        "all unfinished work has an owner or a time of its next attempt",
        "are the sweeper, the workers and the broker running? `lentigo doctor` says",
    )
    now = subject.clock()
    for row in rows_of(subject, _unfinished_generations()):
        problem = _generation_problem(row, now, subject.grace_s)
        tally.see(problem and f"study {row.study_id}, generation {row.number}: {problem}")
    with reading(subject.engine) as connection:
        busy = set(
            connection.execute(
                select(WorkItem.analysis).where(
                    WorkItem.state == states.UPS_IN_PROGRESS, WorkItem.lease_expires_at >= now
                )
            ).scalars()
        )
    for row in rows_of(subject, _items()):
        problem = _item_problem(row, now, subject.grace_s, is_busy=row.analysis in busy)
        tally.see(
            problem and f"study {row.study_id}, work item {row.id} ({row.analysis}): {problem}"
        )
    return tally.finding()


def _unfinished_generations() -> Any:
    return (
        select(
            Generation.id,
            Generation.study_id,
            Generation.number,
            Generation.state,
            Generation.closes_at,
            Generation.next_attempt_at,
            Study.held_at,
        )
        .join(Study, Generation.study_id == Study.id)
        .where(Generation.state != states.ROUTED)
    )


def _items() -> Any:
    return select(
        WorkItem.id,
        WorkItem.study_id,
        WorkItem.analysis,
        WorkItem.state,
        WorkItem.next_attempt_at,
        WorkItem.lease_token,
        WorkItem.lease_expires_at,
        Study.held_at,
    ).join(Study, WorkItem.study_id == Study.id)


def due_problem(
    due: dt.datetime | None, now: dt.datetime, what: str, *, late_s: float | None
) -> str:
    """Return what is wrong with a moment; None for ``late_s``: it may be as late as it likes."""
    if due is None:
        return f"{what} never"
    if due > now + _LONGEST_WAIT:
        return f"{what} at {due:%Y-%m-%d %H:%M} only: was the clock of this host wrong?"
    overdue_s = (now - due).total_seconds()
    if late_s is None or overdue_s <= late_s:
        return ""
    return f"{what} {overdue_s:.0f} s ago, and nobody does it"


def _generation_problem(row: Any, now: dt.datetime, grace_s: float) -> str:
    late_s = None if row.held_at is not None else grace_s
    if row.state == states.RECEIVING:
        return due_problem(row.closes_at, now, "to be closed", late_s=late_s)
    return due_problem(row.next_attempt_at, now, "to be routed", late_s=late_s)


def _item_problem(row: Any, now: dt.datetime, grace_s: float, *, is_busy: bool) -> str:
    """Return what is wrong with a work item.

    A held study waits on purpose, and where others of the same analysis are being worked on there
    is a queue, however long.
    """
    if row.state in states.UPS_FINAL:
        return "has ended and is still held" if row.lease_token is not None else ""
    late_s = None if row.held_at is not None or is_busy else grace_s
    if row.lease_token is not None:
        return due_problem(row.lease_expires_at, now, "free", late_s=late_s)
    return due_problem(row.next_attempt_at, now, "due", late_s=late_s)


def check_states(subject: Subject) -> Finding:
    """A study's state says where it stands, and one that waits says for what."""
    tally = Tally(
        "every study's state agrees with its work, and one that stays says why",
        "see the study on the admin page; report it, this is a defect",
    )
    now = subject.clock()
    for study in rows_of(
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
