"""Storage commitment that we ask of destinations: requests, answers, and whom an answer wakes.

A request is written before its N-ACTION is sent, and its answer by whichever process the report
reaches. Only the worker that holds the work item carries an answer into its deliveries; the answer
itself makes the work item due.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import generate_uid
from sqlalchemy import Connection, Engine, exists, insert, or_, select, update

from gateway.delivery.confirmation import CommitmentView
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import (
    CommitmentObject,
    CommitmentRequest,
    Delivery,
    ResultObject,
    WorkItem,
)
from gateway.store.work.resend import reopen

COMMITTED = "committed"
FAILED = "failed"

MOST_SILENT = 3
"""Requests in a row without an answer after which a destination is not waited for any more."""


@dataclass(frozen=True, kw_only=True)
class ReportedOutcome:
    """What the record made of an event report."""

    is_known: bool
    """Whether the transaction is ours, and the reporter the one that was asked."""
    is_new: bool = False
    """Whether it changed anything."""


class CommitmentBook:
    """Requests for storage commitment and their answers."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def open(self, destination: str, objects: Mapping[int, str], timeout_s: float) -> str:
        """Write a request down, to be sent now; return its Transaction UID.

        Parameters
        ----------
        destination
            Its name in the record.
        objects
            Delivery id -> SOP Instance UID; all of one work item.
        timeout_s
            How long the answer is waited for.
        """
        now = self._clock()
        transaction_uid = str(generate_uid(prefix=None))
        with writing(self._engine) as connection:
            owner = connection.execute(
                select(WorkItem.id, WorkItem.study_id)
                .join(ResultObject, ResultObject.work_item_id == WorkItem.id)
                .join(Delivery, Delivery.result_object_id == ResultObject.id)
                .where(Delivery.id == min(objects))
            ).one()
            request_id = connection.execute(
                insert(CommitmentRequest)
                .values(
                    transaction_uid=transaction_uid,
                    work_item_id=owner.id,
                    destination=destination,
                    asked_at=now,
                    expires_at=now + dt.timedelta(seconds=timeout_s),
                    reason="",
                )
                .returning(CommitmentRequest.id)
            ).scalar_one()
            connection.execute(
                insert(CommitmentObject),
                [
                    {
                        "request_id": request_id,
                        "delivery_id": delivery_id,
                        "sop_instance_uid": uid,
                        "answer": "",
                    }
                    for delivery_id, uid in objects.items()
                ],
            )
            states.note(
                connection,
                now,
                "commitment.asked",
                study_id=owner.study_id,
                work_item_id=owner.id,
                destination=destination,
                objects=len(objects),
            )
        return transaction_uid

    def decline(self, transaction_uid: str, reason: str) -> None:
        """Note that the destination did not take the request itself: no answer is waited for."""
        now = self._clock()
        with writing(self._engine) as connection:
            connection.execute(
                update(CommitmentRequest)
                .where(
                    CommitmentRequest.transaction_uid == transaction_uid,
                    CommitmentRequest.answered_at.is_(None),
                )
                .values(refused_at=now, settled_at=now, reason=reason)
            )

    def is_answered(self, transaction_uid: str) -> bool:
        """Whether the answer to a request has come, by whichever association."""
        with reading(self._engine) as connection:
            found = connection.execute(
                select(CommitmentRequest.answered_at).where(
                    CommitmentRequest.transaction_uid == transaction_uid
                )
            ).scalar()
        return found is not None

    def is_silent(self, destination: str) -> bool:
        """Whether a destination took the last requests and answered none of them in time."""
        now = self._clock()
        with reading(self._engine) as connection:
            newest = connection.execute(
                select(CommitmentRequest.answered_at)
                .where(
                    CommitmentRequest.destination == destination,
                    CommitmentRequest.refused_at.is_(None),
                    or_(
                        CommitmentRequest.answered_at.is_not(None),
                        CommitmentRequest.expires_at <= now,
                    ),
                )
                .order_by(CommitmentRequest.id.desc())
                .limit(MOST_SILENT)
            ).all()
        return len(newest) == MOST_SILENT and all(row.answered_at is None for row in newest)

    def answer(
        self,
        transaction_uid: str,
        *,
        reporter: str,
        committed: Sequence[str],
        failed: Mapping[str, int],
    ) -> ReportedOutcome:
        """Write down an event report; wake the work item that waits for it.

        Parameters
        ----------
        reporter
            AE title of the application entity that reports.
        committed
            SOP Instance UIDs that it holds for good.
        failed
            SOP Instance UID -> Failure Reason of the others.

        Notes
        -----
        A report that comes again changes nothing, except that it may commit what was left out or
        failed before. One that fails an object after its work item was completed, for want of an
        answer, opens the work item again.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            request = connection.execute(
                select(CommitmentRequest)
                .where(CommitmentRequest.transaction_uid == transaction_uid)
                .with_for_update()
            ).first()
            if request is None or request.destination.partition("@")[0].strip() != reporter.strip():
                return ReportedOutcome(is_known=False)
            changed = _write_answers(connection, request.id, committed, failed)
            if not changed and request.answered_at is not None:
                return ReportedOutcome(is_known=True)
            connection.execute(
                update(CommitmentRequest)
                .where(CommitmentRequest.id == request.id)
                .values(answered_at=now, refused_at=None, settled_at=None)
            )
            self._tell(connection, request, changed, now)
        return ReportedOutcome(is_known=True, is_new=True)

    def _tell(
        self,
        connection: Connection,
        request: Any,
        changed: Mapping[int, int | None],
        now: dt.datetime,
    ) -> None:
        item = connection.execute(
            select(WorkItem.id, WorkItem.study_id, WorkItem.state).where(
                WorkItem.id == request.work_item_id
            )
        ).one()
        failures = {delivery: code for delivery, code in changed.items() if code is not None}
        is_late = item.state in states.UPS_FINAL
        states.note(
            connection,
            now,
            "commitment.answered",
            study_id=item.study_id,
            work_item_id=item.id,
            level="warning" if failures else "info",
            destination=request.destination,
            committed=len(changed) - len(failures),
            failed=len(failures),
            **(
                {"reasons": sorted({f"{code:04X}" for code in failures.values()})}
                if failures
                else {}
            ),
            **({"after": "the work item had ended"} if is_late else {}),
        )
        if not is_late:
            wake(connection, [item.id], now)
            return
        connection.execute(
            update(CommitmentRequest)
            .where(CommitmentRequest.id == request.id)
            .values(settled_at=now)
        )
        if failures and item.state == states.UPS_COMPLETED:
            reopen(
                connection,
                item.id,
                sorted(failures),
                now,
                reason="the destination reported late that it does not hold what it took",
            )

    def load(self, work_item_id: int) -> dict[int, CommitmentView]:
        """Return what is known of each delivery of a work item that was ever asked for."""
        now = self._clock()
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    CommitmentObject.delivery_id,
                    CommitmentObject.answer,
                    CommitmentObject.failure_reason,
                    CommitmentRequest.answered_at,
                    CommitmentRequest.expires_at,
                    CommitmentRequest.refused_at,
                )
                .join(CommitmentRequest, CommitmentObject.request_id == CommitmentRequest.id)
                .where(
                    CommitmentRequest.work_item_id == work_item_id,
                )
                .order_by(CommitmentRequest.id)
            ).all()
        by_delivery: dict[int, list[Any]] = {}
        for row in rows:
            by_delivery.setdefault(row.delivery_id, []).append(row)
        return {delivery: _status(asked, now) for delivery, asked in by_delivery.items()}

    def unsettled(self, work_item_id: int, destination: str) -> list[int]:
        """Return the ids of a destination's answers that are not in the deliveries yet."""
        with reading(self._engine) as connection:
            return list(
                connection.execute(
                    select(CommitmentRequest.id).where(
                        CommitmentRequest.work_item_id == work_item_id,
                        CommitmentRequest.destination == destination,
                        CommitmentRequest.answered_at.is_not(None),
                        CommitmentRequest.settled_at.is_(None),
                    )
                ).scalars()
            )

    def settle(self, request_ids: Sequence[int]) -> None:
        """Note that these answers are in the deliveries."""
        with writing(self._engine) as connection:
            connection.execute(
                update(CommitmentRequest)
                .where(CommitmentRequest.id.in_(request_ids))
                .values(settled_at=self._clock())
            )

    def wake_answered(self, work_item_id: int) -> None:
        """Make a work item due if an answer came while its worker was still writing."""
        with writing(self._engine) as connection:
            is_unsettled = connection.execute(
                select(
                    exists().where(
                        CommitmentRequest.work_item_id == work_item_id,
                        CommitmentRequest.answered_at.is_not(None),
                        CommitmentRequest.settled_at.is_(None),
                    )
                )
            ).scalar_one()
            if is_unsettled:
                wake(connection, [work_item_id], self._clock())


def wake(connection: Connection, work_item_ids: Sequence[int], now: dt.datetime) -> None:
    """Make unfinished work items due now; one that a worker holds is due when it is given back."""
    connection.execute(
        update(WorkItem)
        .where(WorkItem.id.in_(work_item_ids), WorkItem.state.not_in(states.UPS_FINAL))
        .values(next_attempt_at=now, hinted_at=None)
    )


def _write_answers(
    connection: Connection, request_id: int, committed: Sequence[str], failed: Mapping[str, int]
) -> dict[int, int | None]:
    """Return delivery id -> failure reason (None: committed) of every object that has news."""
    rows = connection.execute(
        select(CommitmentObject).where(CommitmentObject.request_id == request_id)
    ).all()
    held = set(committed)
    changed: dict[int, int | None] = {}
    for row in rows:
        if row.sop_instance_uid in held and row.answer != COMMITTED:
            values: dict[str, Any] = {"answer": COMMITTED, "failure_reason": None}
        elif row.sop_instance_uid in failed and not row.answer:
            values = {"answer": FAILED, "failure_reason": failed[row.sop_instance_uid]}
        else:
            continue
        changed[row.delivery_id] = values["failure_reason"]
        connection.execute(
            update(CommitmentObject).where(CommitmentObject.id == row.id).values(**values)
        )
    return changed


def _status(asked: Sequence[Any], now: dt.datetime) -> CommitmentView:
    """Sum up the requests for one delivery, oldest first."""
    answers = [row for row in asked if row.answer]
    newest = max(answers, key=lambda row: row.answered_at) if answers else None
    last = asked[-1]
    is_declined = last.answered_at is None and last.refused_at is not None
    is_waiting = not is_declined and last.answered_at is None and last.expires_at > now
    after = max((number for number, row in enumerate(asked) if row.answer), default=-1) + 1
    since = asked[after:]
    return CommitmentView(
        is_committed=newest is not None and newest.answer == COMMITTED,
        waits_s=(last.expires_at - now).total_seconds() if is_waiting else None,
        failure_reason=newest.failure_reason if newest is not None else None,
        failures=sum(row.answer == FAILED for row in answers),
        unanswered=sum(
            row.refused_at is None and (row.answered_at is not None or row.expires_at <= now)
            for row in since
        ),
        is_declined=is_declined,
    )
