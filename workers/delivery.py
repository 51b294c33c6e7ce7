"""The delivery step of one claimed work item: send, mark what the destination said, conclude.

A destination that does not answer is asked again for ever, with growing pauses; an object that it
refuses for good is named and does not hold up its siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.faults import failpoint
from gateway.store.values import Claim, DeliveryRow
from workers.failure import FailureKind

RESEND_EVERY = 5
"""Attempts after which an object that was stored but is still not listed is sent once more."""


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


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """How a delivery step ended."""

    failure: FailureKind | None
    """TRANSIENT: try again later; REJECTED: nothing was taken; None: done."""
    reason: str
    """What was refused, or what is waited for."""


def deliver(
    claim: Claim,
    record: DeliveryRecord,
    courier_to: Callable[[str], Courier],
    results: Path,
) -> Delivered:
    """Make one attempt at everything that is not confirmed or refused yet.

    Parameters
    ----------
    courier_to
        Returns the courier to a destination, given its name in the record.
    results
        The results folder.

    Raises
    ------
    LeaseLost, RecordUnavailable
        From the record; what the destination stored is found stored by the next attempt.
    """
    deliveries = record.load_deliveries(claim)
    failpoint("delivery.loaded")
    states = {each.id: ObjectState(each.state) for each in deliveries}
    waiting: dict[str, str] = {}
    refused: dict[int, str] = {}
    for destination in dict.fromkeys(each.destination for each in deliveries):
        own = [each for each in deliveries if each.destination == destination]
        still = [
            each for each in own if states[each.id] in (ObjectState.PENDING, ObjectState.STORED)
        ]
        if not still:
            continue
        is_resent = claim.attempt % RESEND_EVERY == 0
        outgoing = [_outgoing(each, results, is_resent=is_resent) for each in still]
        outcomes = courier_to(destination).deliver(outgoing)
        failpoint("delivery.answered")
        for each, outcome in zip(still, outcomes, strict=True):
            _mark(claim, record, each, outcome)
            failpoint("delivery.marked")
            states[each.id] = outcome.state
            if outcome.state in (ObjectState.PENDING, ObjectState.STORED):
                waiting.setdefault(outcome.reason, each.role)
            if outcome.state is ObjectState.REFUSED:
                refused[each.id] = outcome.reason
    if waiting:
        return Delivered(failure=FailureKind.TRANSIENT, reason=_list_reasons(waiting))
    return _conclude(deliveries, states, refused)


def _outgoing(row: DeliveryRow, results: Path, *, is_resent: bool) -> Outgoing:
    return Outgoing(
        id=row.id,
        path=results / row.path,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        sha256=row.sha256,
        is_stored=row.state == ObjectState.STORED.value and not is_resent,
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


def _list_reasons(waiting: dict[str, str]) -> str:
    return "; ".join(reason or "not confirmed yet" for reason in waiting)


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
