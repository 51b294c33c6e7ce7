"""The delivery step of one claimed work item: send, have it confirmed, mark, conclude.

A destination that does not answer is asked again for ever, with growing pauses; an object that it
refuses for good is named and does not hold up its siblings. Nobody waits for storage commitment:
the work item goes back to the record, and the answer makes it due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from gateway.delivery.confirmation import CommitmentView, Next, Step, decide
from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.faults import failpoint
from gateway.store.values import Claim, DeliveryRow
from workers.failure import FailureKind

RESEND_EVERY = 5
"""Attempts after which an object that was stored but is still not listed is sent once more."""
MOST_FAULTS = 50
"""Associations in a row that a destination may end at one object before that counts as refused."""

_SHORTEST_WAIT_S = 0.5
_UNFINISHED = (ObjectState.PENDING, ObjectState.STORED)


class Courier(Protocol):
    """Delivers objects to one destination."""

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object; one outcome for each, in the same order."""
        ...


class DeliveryRecord(Protocol):
    """What delivery reads and writes of the record."""

    def load_deliveries(self, claim: Claim) -> list[DeliveryRow]:
        """Return every delivery of a claimed work item."""
        ...

    def mark_delivery(
        self,
        claim: Claim,
        delivery_id: int,
        *,
        state: str,
        status: int | None = None,
        reason: str = "",
        confirmed_by: str = "",
    ) -> None:
        """Write what the destination said about one object."""
        ...


class Commitments(Protocol):
    """What delivery keeps of storage commitment, and of faults at one object."""

    def load(self, work_item_id: int) -> dict[int, CommitmentView]:
        """Return what destinations said, by delivery id."""
        ...

    def unsettled(self, work_item_id: int, destination: str) -> list[int]:
        """Return the answers of a destination that are not in the deliveries yet."""
        ...

    def settle(self, request_ids: Sequence[int]) -> None:
        """Note that these answers are in the deliveries."""
        ...

    def faults(self, work_item_id: int) -> dict[int, int]:
        """Return faults in a row, by delivery id."""
        ...

    def count_fault(self, delivery_id: int) -> int:
        """Note one more fault; return how many by now."""
        ...

    def forget_faults(self, delivery_ids: Sequence[int]) -> None:
        """Start counting again."""
        ...


class NoCommitments:
    """Stands in where nothing of it is kept."""

    def load(self, work_item_id: int) -> dict[int, CommitmentView]:
        """Return nothing."""
        return {}

    def unsettled(self, work_item_id: int, destination: str) -> list[int]:
        """Return nothing."""
        return []

    def settle(self, request_ids: Sequence[int]) -> None:
        """Do nothing."""

    def faults(self, work_item_id: int) -> dict[int, int]:
        """Return nothing."""
        return {}

    def count_fault(self, delivery_id: int) -> int:
        """Count nothing."""
        return 1

    def forget_faults(self, delivery_ids: Sequence[int]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """How a delivery step ended."""

    failure: FailureKind | None
    """TRANSIENT: try again later; REJECTED: nothing was taken; None: done."""
    reason: str
    """What was refused, or what is waited for."""
    retry_in_s: float | None = None
    """With TRANSIENT: when to try again, where that is known."""
    is_expected: bool = False
    """With TRANSIENT: nothing went wrong; the destination has been asked and may take its time."""


@dataclass
class _Progress:
    """What became of the deliveries so far."""

    claim: Claim
    record: DeliveryRecord
    commitments: Commitments
    states: dict[int, ObjectState]
    waiting: list[Outcome] = field(default_factory=list)
    awaited: int = 0
    """Of those that wait, how many wait for an answer to a request that was taken."""
    refused: dict[int, str] = field(default_factory=dict)

    def note(self, row: DeliveryRow, outcome: Outcome, *, is_awaited: bool = False) -> None:
        """Mark one delivery and remember how it stands."""
        _mark(self.claim, self.record, row, outcome)
        failpoint("delivery.marked")
        self.states[row.id] = outcome.state
        if outcome.state in _UNFINISHED:
            self.waiting.append(outcome)
            self.awaited += is_awaited
        if outcome.state is ObjectState.REFUSED:
            self.refused[row.id] = outcome.reason


def deliver(
    claim: Claim,
    record: DeliveryRecord,
    courier_to: Callable[[str], Courier],
    results: Path,
    *,
    commitments: Commitments | None = None,
    confirm: str = "auto",
) -> Delivered:
    """Make one attempt at everything that is not confirmed or refused yet.

    Parameters
    ----------
    courier_to
        Returns the courier to a destination, given its name in the record.
    results
        The results folder.
    commitments
        The record of storage commitment.
    confirm
        Which confirmations count (``gateway.delivery.confirmation``).

    Raises
    ------
    LeaseLost, RecordUnavailable
        From the record; what the destination stored is found stored by the next attempt.
    """
    deliveries = record.load_deliveries(claim)
    failpoint("delivery.loaded")
    kept = commitments or NoCommitments()
    progress = _Progress(
        claim=claim,
        record=record,
        commitments=kept,
        states={each.id: ObjectState(each.state) for each in deliveries},
    )
    faults = kept.faults(claim.work_item_id)
    for destination in dict.fromkeys(each.destination for each in deliveries):
        still = [
            each
            for each in deliveries
            if each.destination == destination and progress.states[each.id] in _UNFINISHED
        ]
        if still:
            plan = _Plan(
                destination=destination,
                courier_to=courier_to,
                results=results,
                faults=faults,
                confirm=confirm,
            )
            _serve(progress, still, plan)
    if progress.waiting:
        return _wait(progress)
    return _conclude(deliveries, progress.states, progress.refused)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How one destination is served."""

    destination: str
    courier_to: Callable[[str], Courier]
    results: Path
    faults: Mapping[int, int]
    confirm: str


def _serve(progress: _Progress, still: Sequence[DeliveryRow], plan: _Plan) -> None:
    """Make one attempt at one destination."""
    kept, item = progress.commitments, progress.claim.work_item_id
    # Answers are counted before they are read: one that comes later wakes the work item again.
    answers = kept.unsettled(item, plan.destination)
    views = kept.load(item)
    steps = {each.id: _next(each, views, plan.confirm) for each in still}
    asked = [each for each in still if not _settled(progress, each, steps, views)]
    if asked:
        outgoing = [
            _outgoing(each, plan, steps[each.id], views, progress.claim.attempt) for each in asked
        ]
        outcomes = plan.courier_to(plan.destination).deliver(outgoing)
        failpoint("delivery.answered")
        answers = kept.unsettled(item, plan.destination)
        views = kept.load(item)
        _take_outcomes(progress, asked, outcomes, views, plan)
    if answers:
        kept.settle(answers)


def _next(row: DeliveryRow, views: Mapping[int, CommitmentView], confirm: str) -> Step:
    if row.state != ObjectState.STORED.value:
        return Step(next=Next.SEND)
    return decide(views.get(row.id, CommitmentView()), confirm)


def _settled(
    progress: _Progress,
    row: DeliveryRow,
    steps: Mapping[int, Step],
    views: Mapping[int, CommitmentView],
) -> bool:
    """Mark what needs no word with the destination; return False for what does."""
    step = steps[row.id]
    if step.next is Next.CONFIRM:
        outcome = Outcome(id=row.id, state=ObjectState.CONFIRMED, confirmed_by="commitment")
    elif step.next is Next.REFUSED:
        outcome = Outcome(id=row.id, state=ObjectState.REFUSED, reason=step.reason)
    elif step.next is Next.WAIT:
        outcome = _awaiting(row, step, views[row.id])
    else:
        return False
    progress.note(row, outcome, is_awaited=step.next is Next.WAIT)
    return True


def _awaiting(row: DeliveryRow, step: Step, view: CommitmentView) -> Outcome:
    return Outcome(
        id=row.id,
        state=ObjectState.STORED,
        reason=step.reason,
        retry_in_s=max(_SHORTEST_WAIT_S, view.waits_s or 0.0),
    )


def _take_outcomes(
    progress: _Progress,
    asked: Sequence[DeliveryRow],
    outcomes: Sequence[Outcome],
    views: Mapping[int, CommitmentView],
    plan: _Plan,
) -> None:
    """Mark what a destination said, with the answers on commitment that came meanwhile."""
    recovered = []
    for row, said in zip(asked, outcomes, strict=True):
        if row.id in plan.faults and said.status is not None:
            recovered.append(row.id)
        outcome = _with_fault(progress, row, said)
        view = views.get(row.id, CommitmentView())
        is_awaited = False
        if outcome.state is ObjectState.STORED and view.is_committed:
            outcome = replace(
                outcome,
                state=ObjectState.CONFIRMED,
                reason="",
                confirmed_by="commitment",
            )
        elif outcome.state is ObjectState.STORED and view.waits_s is not None:
            awaiting = _awaiting(row, decide(view, plan.confirm), view)
            outcome = replace(awaiting, status=outcome.status)
            is_awaited = True
        progress.note(row, outcome, is_awaited=is_awaited)
    if recovered:
        progress.commitments.forget_faults(recovered)


def _with_fault(progress: _Progress, row: DeliveryRow, outcome: Outcome) -> Outcome:
    if not outcome.is_fault:
        return outcome
    count = progress.commitments.count_fault(row.id)
    # Silence is the destination's; an association that ends at one object may be the object's.
    if outcome.is_unreachable or count < MOST_FAULTS:
        return outcome
    return replace(
        outcome,
        state=ObjectState.REFUSED,
        reason=f"the destination ended the association at this object {count} times in a row",
    )


def _wait(progress: _Progress) -> Delivered:
    reasons = dict.fromkeys(each.reason or "not confirmed yet" for each in progress.waiting)
    known = [each.retry_in_s for each in progress.waiting if each.retry_in_s is not None]
    return Delivered(
        failure=FailureKind.TRANSIENT,
        reason="; ".join(reasons),
        retry_in_s=min(known) if len(known) == len(progress.waiting) else None,
        is_expected=progress.awaited == len(progress.waiting),
    )


def _outgoing(
    row: DeliveryRow,
    plan: _Plan,
    step: Step,
    views: Mapping[int, CommitmentView],
    attempt: int,
) -> Outgoing:
    return Outgoing(
        id=row.id,
        path=plan.results / row.path,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        sha256=row.sha256,
        is_stored=step.next is Next.ASK and attempt % RESEND_EVERY != 0,
        asks_commitment=step.asks_commitment,
        unanswered=views[row.id].unanswered if row.id in views else 0,
        faults=plan.faults.get(row.id, 0),
    )


def _mark(claim: Claim, record: DeliveryRecord, row: DeliveryRow, outcome: Outcome) -> None:
    if outcome.state.value == row.state and outcome.status is None:
        return  # nothing new: the timeline need not say it at every attempt
    record.mark_delivery(
        claim,
        row.id,
        state=outcome.state.value,
        status=outcome.status,
        reason=outcome.reason,
        confirmed_by=outcome.confirmed_by,
    )


def _conclude(
    deliveries: Sequence[DeliveryRow], states: dict[int, ObjectState], refused: dict[int, str]
) -> Delivered:
    """Done, unless a destination took nothing at all of what it was to get."""
    # What an earlier attempt was refused belongs to the conclusion; the record has its reason.
    said = [
        (each, refused.get(each.id, "refused before"))
        for each in deliveries
        if states[each.id] is ObjectState.REFUSED
    ]
    destinations = {each.destination for each in deliveries}
    takers = {each.destination for each in deliveries if states[each.id] is ObjectState.CONFIRMED}
    text = "; ".join(
        f"{each.role} refused{f' by {each.destination}' if len(destinations) > 1 else ''}: {reason}"
        for each, reason in said
    )
    if destinations - takers:
        return Delivered(
            failure=FailureKind.REJECTED, reason=f"the destination takes no result: {text}"
        )
    return Delivered(failure=None, reason=text)
