"""States of studies and work items, and the one function that keeps a study's state true."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, case, insert, literal, select, update

from gateway.store.tables import Event, Generation, Instance, Refusal, Study, WorkItem

# Study states, in the order in which a study passes through them.
RECEIVED = "received"
ANALYSING = "analysing"
DELIVERING = "delivering"
COMPLETED = "completed"
FAILED = "failed"
REFUSED = "refused"
STUDY_STATES = (RECEIVED, ANALYSING, DELIVERING, COMPLETED, FAILED, REFUSED)
FINAL_STATES = frozenset({COMPLETED, FAILED, REFUSED})

# Work item states of the Unified Procedure Step (PS3.4 CC.1.1).
UPS_SCHEDULED = "SCHEDULED"
UPS_IN_PROGRESS = "IN PROGRESS"
UPS_COMPLETED = "COMPLETED"
UPS_CANCELED = "CANCELED"
UPS_FINAL = frozenset({UPS_COMPLETED, UPS_CANCELED})

# Steps of a work item.
ANALYSE = "analyse"
DELIVER = "deliver"

# Generation states.
RECEIVING = "receiving"
CLOSED = "closed"
ROUTED = "routed"


def note(
    connection: Connection,
    at: dt.datetime,
    action: str,
    *,
    study_id: int | None = None,
    work_item_id: int | None = None,
    level: str = "info",
    **detail: Any,
) -> None:
    """Add one line to the timeline; ``detail`` must hold no patient attribute."""
    connection.execute(
        insert(Event).values(
            at=at,
            study_id=study_id,
            work_item_id=work_item_id,
            action=action,
            level=level,
            detail=detail,
        )
    )


def derive_state(
    generation: tuple[int, str, str] | None, items: list[tuple[int, str, str, str]]
) -> tuple[str, str]:
    """Return (state, reason) of a study.

    Parameters
    ----------
    generation
        (id, state, reason) of the newest generation, None when nothing was accepted.
    items
        (generation id, UPS state, step, reason) of every work item of the study.

    Examples
    --------
    >>> derive_state((1, "routed", ""), [(1, "IN PROGRESS", "deliver", "")])
    ('delivering', '')
    """
    if generation is None:
        return REFUSED, "no instance of this study was accepted for analysis"
    generation_id, generation_state, generation_reason = generation
    pending = [item for item in items if item[1] not in UPS_FINAL]
    if generation_state != ROUTED:
        return RECEIVED, generation_reason
    if pending:
        state = ANALYSING if any(item[2] == ANALYSE for item in pending) else DELIVERING
        return state, next((item[3] for item in pending if item[3]), "")
    newest = [item for item in items if item[0] == generation_id]
    if not newest:
        return REFUSED, generation_reason
    failures = [item[3] for item in newest if item[1] == UPS_CANCELED]
    if failures:
        return FAILED, "; ".join(dict.fromkeys(failures))
    return COMPLETED, "; ".join(dict.fromkeys(item[3] for item in newest if item[3]))


def lock_study(connection: Connection, study_id: int) -> None:
    """Let transactions that touch the same study pass one after the other.

    Notes
    -----
    SQLite has one writer at a time anyway. On PostgreSQL rows are locked in the order work item,
    study, generation everywhere, so that no two transactions wait for each other.
    """
    connection.execute(select(Study.id).where(Study.id == study_id).with_for_update(key_share=True))


def _without_generation(connection: Connection, study_id: int) -> str:
    """Return why a study whose instances are none of ours to analyse is in the record."""
    prior = connection.execute(
        select(Instance.id)
        .where(Instance.study_id == study_id, Instance.disposition == "prior")
        .limit(1)
    ).first()
    if prior is None:
        return ""
    return "only earlier images, fetched for comparison with a newer study; not analysed"


def refresh_study(connection: Connection, study_id: int, at: dt.datetime) -> str:
    """Bring a study's stored state in line with its generations and work items; return it."""
    # Two work items that end at once would each see the other one as unfinished.
    lock_study(connection, study_id)
    generation = connection.execute(
        select(Generation.id, Generation.state, Generation.reason)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
    ).first()
    items = connection.execute(
        select(WorkItem.generation_id, WorkItem.state, WorkItem.step, WorkItem.reason)
        .where(WorkItem.study_id == study_id)
        .order_by(WorkItem.id)
    ).all()
    state, reason = derive_state(
        (generation[0], generation[1], generation[2]) if generation else None,
        [(row[0], row[1], row[2], row[3]) for row in items],
    )
    if generation is None:
        refusal = connection.execute(
            select(Refusal.reason)
            .where(Refusal.study_id == study_id)
            .order_by(Refusal.id.desc())
            .limit(1)
        ).scalar()
        reason = refusal or _without_generation(connection, study_id) or reason
    is_held = Study.held_at.is_not(None)
    shown = case((is_held, literal("held: ") + Study.hold_reason), else_=reason)
    changed = connection.execute(
        update(Study)
        .where(Study.id == study_id, Study.state != state)
        .values(state=state, reason=shown, state_changed_at=at)
    ).rowcount
    if changed:
        note(connection, at, f"study.{state}", study_id=study_id)
    else:
        connection.execute(update(Study).where(Study.id == study_id).values(reason=shown))
    return state
