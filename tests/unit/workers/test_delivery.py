"""The delivery step over a scripted destination."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.store.values import DeliveryRow
from tests.unit.workers.fakes import FakeRecord, claim
from workers.delivery import RESEND_EVERY, Delivered, deliver
from workers.failure import FailureKind


class Scripted:
    """A destination that answers as told, by role order."""

    def __init__(self, *states: ObjectState, reason: str = "because") -> None:
        self._states = states
        self._reason = reason
        self.asked: list[Outgoing] = []

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        self.asked += objects
        return [
            Outcome(
                id=each.id,
                state=state,
                reason="" if state is ObjectState.CONFIRMED else self._reason,
                confirmed_by="c-find" if state is ObjectState.CONFIRMED else "",
            )
            for each, state in zip(objects, self._states, strict=True)
        ]


def row(number: int, state: str = "PENDING", destination: str = "A@h:1") -> DeliveryRow:
    return DeliveryRow(
        id=number,
        destination=destination,
        state=state,
        role=f"role-{number}",
        sop_class_uid="1.2",
        sop_instance_uid=f"1.2.{number}",
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        path=f"1.4/{number}.dcm",
        sha256="ab" * 32,
    )


def run(record: FakeRecord, destination: Scripted, *, attempt: int = 1) -> Delivered:
    return deliver(
        claim(step="deliver", attempt=attempt), record, lambda _: destination, Path("/results")
    )


CONFIRMED, STORED = ObjectState.CONFIRMED, ObjectState.STORED
PENDING, REFUSED = ObjectState.PENDING, ObjectState.REFUSED


@pytest.mark.parametrize(
    ("states", "failure", "words"),
    [
        ((CONFIRMED, CONFIRMED), None, ""),
        ((CONFIRMED, REFUSED), None, "role-2 refused: because"),
        ((REFUSED, REFUSED), FailureKind.REJECTED, "takes no result"),
        ((PENDING, CONFIRMED), FailureKind.TRANSIENT, "because"),
        ((STORED, CONFIRMED), FailureKind.TRANSIENT, "because"),
        ((PENDING, REFUSED), FailureKind.TRANSIENT, "because"),
    ],
)
def test_conclusion(
    states: tuple[ObjectState, ...], failure: FailureKind | None, words: str
) -> None:
    record = FakeRecord(deliveries=[row(1), row(2)])
    delivered = run(record, Scripted(*states))
    assert delivered.failure is failure
    assert words in delivered.reason
    assert bool(delivered.reason) == bool(words)


def test_what_is_confirmed_or_refused_is_not_sent_again() -> None:
    record = FakeRecord(deliveries=[row(1, "CONFIRMED"), row(2, "REFUSED"), row(3)])
    destination = Scripted(CONFIRMED)
    delivered = run(record, destination)
    assert [each.id for each in destination.asked] == [3]
    assert delivered.failure is None
    assert "role-2" in delivered.reason


def test_stored_object_is_asked_for_and_now_and_then_sent_again() -> None:
    record = FakeRecord(deliveries=[row(1, "STORED")])
    for attempt in range(1, RESEND_EVERY + 1):
        destination = Scripted(STORED)
        run(record, destination, attempt=attempt)
        assert destination.asked[0].is_stored == (attempt < RESEND_EVERY)


def test_only_news_is_written() -> None:
    record = FakeRecord(deliveries=[row(1, "STORED"), row(2)])
    run(record, Scripted(STORED, STORED))
    assert record.marks == [(2, "STORED")]


def test_every_destination_gets_its_own() -> None:
    record = FakeRecord(deliveries=[row(1), row(2, destination="B@h:2")])
    couriers = {"A@h:1": Scripted(CONFIRMED), "B@h:2": Scripted(PENDING)}
    delivered = deliver(claim(step="deliver"), record, couriers.__getitem__, Path("/results"))
    assert delivered.failure is FailureKind.TRANSIENT
    assert record.marks == [(1, "CONFIRMED")]
    assert couriers["A@h:1"].asked[0].path == Path("/results/1.4/1.dcm")


def test_destination_that_takes_nothing_is_named_beside_one_that_takes_all() -> None:
    rows = [row(1, "CONFIRMED"), row(2, "REFUSED", "B@h:1"), row(3, "CONFIRMED")]
    done = run(FakeRecord(deliveries=rows), Scripted())
    assert done.failure is FailureKind.REJECTED
    assert "role-2 refused by B@h:1" in done.reason
    rows = [row(1, "CONFIRMED"), row(2, "REFUSED", "B@h:1"), row(3, "CONFIRMED", "B@h:1")]
    done = run(FakeRecord(deliveries=rows), Scripted())
    assert done.failure is None
    assert "role-2 refused by B@h:1" in done.reason


def test_work_item_without_anything_to_send_is_done() -> None:
    done = run(FakeRecord(deliveries=[]), Scripted())
    assert (done.failure, done.reason) == (None, "")
