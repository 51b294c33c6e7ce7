"""What a person may have done again, or not at all, to the work of one study.

Each function works in the transaction of its caller and answers whether anything was changed. Rows
are locked in the order work item, study, generation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from gateway.store import states
from gateway.store.tables import Delivery, Generation, ResultObject, WorkItem
from gateway.store.work.leases import AS_NEW
from gateway.store.work.resend import reopen

_SETTLED = ("CONFIRMED",)


def retry_study(connection: Connection, study_id: int, now: dt.datetime, *, actor: str) -> bool:
    """Do again what failed for the newest generation, and at once what waits for a later attempt.

    Analyses that failed or were canceled begin anew; deliveries that were refused are tried again;
    a generation to which no analysis applied is routed anew. What succeeded stays.
    """
    items = connection.execute(
        select(WorkItem)
        .where(WorkItem.study_id == study_id)
        .order_by(WorkItem.id)
        .with_for_update(key_share=True)
    ).all()
    states.lock_study(connection, study_id)
    generation = connection.execute(
        select(Generation.id, Generation.state, Generation.next_attempt_at)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
    ).first()
    if generation is None:
        return False
    newest = [row for row in items if row.generation_id == generation.id]
    done = _retry_generation(connection, generation, newest, now)
    for row in newest:
        done |= _retry_item(connection, row, now, actor)
    if done:
        states.refresh_study(connection, study_id, now)
    return done


def _retry_generation(
    connection: Connection, generation: Any, items: Sequence[Any], now: dt.datetime
) -> bool:
    is_waiting = (
        generation.state == states.CLOSED
        and generation.next_attempt_at is not None
        and generation.next_attempt_at > now
    )
    if not is_waiting and not (generation.state == states.ROUTED and not items):
        return False
    connection.execute(
        update(Generation)
        .where(Generation.id == generation.id)
        .values(state=states.CLOSED, routed_at=None, next_attempt_at=now, reason="")
    )
    return True


def _retry_item(connection: Connection, row: Any, now: dt.datetime, actor: str) -> bool:
    if row.state not in states.UPS_FINAL:
        return _hasten(connection, row, now)
    if row.step == states.DELIVER:
        open_deliveries = _unsettled(connection, row.id)
        if not open_deliveries:
            return False
        reopen(connection, row.id, open_deliveries, now, reason=f"tried again by {actor}")
        return True
    if row.state != states.UPS_CANCELED:
        return False
    connection.execute(
        update(WorkItem)
        .where(WorkItem.id == row.id)
        .values(started_at=None, next_attempt_at=now, **AS_NEW)
    )
    return True


def _hasten(connection: Connection, row: Any, now: dt.datetime) -> bool:
    """Let an attempt that waits begin now; what a worker holds goes on."""
    is_held = row.lease_token is not None and row.lease_expires_at >= now
    if is_held or row.next_attempt_at is None or row.next_attempt_at <= now:
        return False
    connection.execute(
        update(WorkItem).where(WorkItem.id == row.id).values(next_attempt_at=now, hinted_at=None)
    )
    return True


def _unsettled(connection: Connection, work_item_id: int) -> list[int]:
    rows = connection.execute(
        select(Delivery.id)
        .join(ResultObject, Delivery.result_object_id == ResultObject.id)
        .where(ResultObject.work_item_id == work_item_id, Delivery.state.not_in(_SETTLED))
    )
    return [row.id for row in rows]


def unfinished_items(connection: Connection, study_id: int) -> list[int]:
    """Return the ids of the work items of a study that are not finished, locked."""
    rows = connection.execute(
        select(WorkItem.id)
        .where(WorkItem.study_id == study_id, WorkItem.state.not_in(states.UPS_FINAL))
        .order_by(WorkItem.id)
        .with_for_update(key_share=True)
    )
    return [row.id for row in rows]
