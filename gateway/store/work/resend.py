"""Sends results again: a study's on demand, or what its destination turned out to lack."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update

from gateway.delivery.routes import Route
from gateway.errors import ResendRefused
from gateway.store import states
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.tables import (
    CommitmentObject,
    Delivery,
    DeliveryFault,
    Generation,
    ResultObject,
    Study,
    WorkItem,
)
from gateway.store.work.leases import AS_NEW


def reopen(
    connection: Connection,
    work_item_id: int,
    delivery_ids: Sequence[int],
    now: dt.datetime,
    *,
    reason: str,
) -> None:
    """Make deliveries of a work item pending and the work item due for delivery.

    Whoever holds the work item loses it: the fence keeps what it still writes out of the record.
    """
    study_id = connection.execute(
        update(WorkItem)
        .where(WorkItem.id == work_item_id)
        .values(step=states.DELIVER, next_attempt_at=now, **AS_NEW)
        .returning(WorkItem.study_id)
    ).scalar_one()
    connection.execute(
        update(Delivery)
        .where(Delivery.id.in_(delivery_ids))
        .values(
            state="PENDING",
            status=None,
            reason="",
            confirmed_by="",
            stored_at=None,
            confirmed_at=None,
        )
    )
    connection.execute(delete(DeliveryFault).where(DeliveryFault.delivery_id.in_(delivery_ids)))
    # What was said about the objects before does not count any more.
    connection.execute(
        delete(CommitmentObject).where(CommitmentObject.delivery_id.in_(delivery_ids))
    )
    states.note(
        connection,
        now,
        "work_item.reopened",
        study_id=study_id,
        work_item_id=work_item_id,
        level="warning",
        reason=reason,
        objects=len(delivery_ids),
    )
    states.refresh_study(connection, study_id, now)


@dataclass(frozen=True, kw_only=True)
class Resent:
    """What is on its way again."""

    work_items: int
    deliveries: int


class ResendDesk:
    """Sends the results of a study again on demand."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def resend(self, study_instance_uid: str, routes: Sequence[Route], *, by: str) -> Resent:
        """Send everything that the newest analysed generation of a study made once more.

        Objects keep their UIDs, so a destination that has them has nothing new. A destination that
        is no longer among ``routes`` is not tried any more; a new one gets what its route takes.

        Parameters
        ----------
        study_instance_uid
            The study.
        routes
            The destinations in force.
        by
            Who asked, for the timeline.

        Raises
        ------
        ResendRefused
            The study is not known, or has no results.
        """
        with writing(self._engine) as connection:
            study_id = connection.execute(
                select(Study.id).where(Study.study_instance_uid == study_instance_uid)
            ).scalar()
            if study_id is None:
                raise ResendRefused("the record has no such study")
            return resend_study(connection, study_id, routes, self._clock(), by=by)


def resend_study(
    connection: Connection, study_id: int, routes: Sequence[Route], now: dt.datetime, *, by: str
) -> Resent:
    """Do the same for a study by its id, in a transaction of the caller's.

    Raises
    ------
    ResendRefused
        The study has no results.
    """
    items = _items(connection, study_id)
    if not items:
        raise ResendRefused("the study has no results to send yet")
    sent = 0
    for work_item_id in items:
        deliveries = _align(connection, work_item_id, routes)
        reopen(connection, work_item_id, deliveries, now, reason=f"sent again by {by}")
        sent += len(deliveries)
    return Resent(work_items=len(items), deliveries=sent)


def _items(connection: Connection, study_id: int) -> list[int]:
    """Return the work items with results of the newest generation that has any, locked."""
    rows = connection.execute(
        select(WorkItem.id, Generation.number)
        .join(Generation, WorkItem.generation_id == Generation.id)
        .where(
            WorkItem.study_id == study_id,
            WorkItem.step == states.DELIVER,
            WorkItem.id.in_(select(ResultObject.work_item_id)),
        )
        .order_by(WorkItem.id)
    ).all()
    newest = max((row.number for row in rows), default=0)
    return [row.id for row in rows if row.number == newest]


def _align(connection: Connection, work_item_id: int, routes: Sequence[Route]) -> list[int]:
    """Give a work item one delivery for each object and route; return their ids."""
    objects = connection.execute(
        select(ResultObject.id, ResultObject.sop_class_uid)
        .where(ResultObject.work_item_id == work_item_id)
        .order_by(ResultObject.id)
    ).all()
    known = connection.execute(
        select(Delivery.id, Delivery.result_object_id, Delivery.destination, Delivery.state).where(
            Delivery.result_object_id.in_([row.id for row in objects])
        )
    ).all()
    wanted = {
        (row.id, route.name)
        for row in objects
        for route in routes
        if route.takes(row.sop_class_uid)
    }
    for row in known:
        if (row.result_object_id, row.destination) not in wanted and row.state != "CONFIRMED":
            for table in (CommitmentObject, DeliveryFault):
                connection.execute(delete(table).where(table.delivery_id == row.id))
            connection.execute(delete(Delivery).where(Delivery.id == row.id))
    there = {(row.result_object_id, row.destination): row.id for row in known}
    for result_object_id, destination in sorted(wanted - set(there)):
        there[(result_object_id, destination)] = connection.execute(
            insert(Delivery)
            .values(
                result_object_id=result_object_id,
                destination=destination,
                state="PENDING",
                reason="",
                confirmed_by="",
            )
            .returning(Delivery.id)
        ).scalar_one()
    return sorted(there[key] for key in wanted)
