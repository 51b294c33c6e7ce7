"""Cancelling a work item on request (PS3.4 CC.2.2): decided and written in one transaction.

The lease is taken away with the state. A worker that is at the work item finds its token void at
its next checkpoint, stops, and can write nothing any more; what it was given (the instances) is
untouched. Results that a PACS may hold already are not taken back: such a request is declined.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from gateway.store import states
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.tables import Delivery, ResultObject, WorkItem
from gateway.store.work.leases import NO_LEASE

_MAX_REASON = 200


class CancelAnswer(enum.Enum):
    """What became of a request; the values are the statuses of PS3.4 Table CC.2.2-2."""

    CANCELED = 0x0000
    """It is canceled now."""
    ALREADY_CANCELED = 0xB304
    """It was canceled before."""
    ALREADY_COMPLETED = 0xC311
    """It is completed."""
    UNKNOWN = 0xC307
    """There is no such work item."""
    DECLINED = 0xC313
    """Its results are on their way to a PACS, or there."""


class CancelDesk:
    """Cancels work items."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def cancel(self, work_item_id: int, *, requested_by: str, reason: str = "") -> CancelAnswer:
        """Cancel a work item, unless it is too late.

        Parameters
        ----------
        requested_by
            Account, for the timeline.
        reason
            In the requestor's words; cut to 200 printable characters.

        Raises
        ------
        RecordUnavailable
            Nothing was written.
        """
        with writing(self._engine) as connection:
            return self.cancel_within(
                connection, work_item_id, requested_by=requested_by, reason=reason
            )

    def cancel_within(
        self, connection: Connection, work_item_id: int, *, requested_by: str, reason: str = ""
    ) -> CancelAnswer:
        """Do the same in a transaction of the caller's."""
        now = self._clock()
        row = connection.execute(
            select(WorkItem).where(WorkItem.id == work_item_id).with_for_update(key_share=True)
        ).first()
        answer = self._answer(connection, row, now)
        if row is not None and answer is CancelAnswer.CANCELED:
            self._write(connection, row, now, requested_by, _printable(reason))
        return answer

    def _answer(self, connection: Connection, row: Any, now: dt.datetime) -> CancelAnswer:
        if row is None:
            return CancelAnswer.UNKNOWN
        if row.state == states.UPS_CANCELED:
            return CancelAnswer.ALREADY_CANCELED
        if row.state == states.UPS_COMPLETED:
            return CancelAnswer.ALREADY_COMPLETED
        if row.step != states.DELIVER:
            return CancelAnswer.CANCELED
        is_held = row.lease_token is not None and row.lease_expires_at >= now
        is_there = connection.execute(
            select(Delivery.id)
            .join(ResultObject, Delivery.result_object_id == ResultObject.id)
            .where(ResultObject.work_item_id == row.id, Delivery.state.in_(("STORED", "CONFIRMED")))
            .limit(1)
        ).first()
        return CancelAnswer.DECLINED if is_held or is_there else CancelAnswer.CANCELED

    def _write(
        self, connection: Connection, row: Any, now: dt.datetime, requested_by: str, reason: str
    ) -> None:
        said = f"canceled on request of {requested_by}" + (f": {reason}" if reason else "")
        connection.execute(
            update(WorkItem)
            .where(WorkItem.id == row.id)
            .values(
                state=states.UPS_CANCELED,
                failure_kind="",
                reason=said,
                finished_at=now,
                next_attempt_at=None,
                **NO_LEASE,
            )
        )
        own = select(ResultObject.id).where(ResultObject.work_item_id == row.id)
        connection.execute(
            update(Delivery)
            .where(Delivery.result_object_id.in_(own), Delivery.state == "PENDING")
            .values(state="REFUSED", reason="the work item was canceled on request")
        )
        states.note(
            connection,
            now,
            "work_item.canceled",
            study_id=row.study_id,
            work_item_id=row.id,
            level="warning",
            analysis=row.analysis,
            by=requested_by,
            reason=reason,
        )
        states.refresh_study(connection, row.study_id, now)


def _printable(text: str) -> str:
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return words[:_MAX_REASON]
