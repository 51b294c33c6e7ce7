"""Leases of the dead, work that waited too long, and hints of work that was given back."""

import pytest
from sqlalchemy import select, update

from gateway.errors import LeaseLost
from gateway.store.engine import reading, writing
from gateway.store.tables import WorkItem
from gateway.store.values import Hint
from gateway.store.work.recovery import RecoveryDesk
from tests.records import Record


def hinted(record: Record) -> list[int]:
    return [hint.id for hint in record.ledger.due_hints(10.0) if hint.kind != "route"]


def crashes(record: Record, item: int) -> int:
    with reading(record.engine) as connection:
        return int(
            connection.execute(select(WorkItem.crashes).where(WorkItem.id == item)).scalar_one()
        )


def test_the_leases_of_dead_processes_of_this_host_end(record: Record) -> None:
    items = [record.schedule()[0] for _ in range(4)]
    claims = [
        record.claim(item, owner=owner, lease_s=600.0)
        for item, owner in zip(items, ("here:1", "here:2", "there:1", "here:x"), strict=True)
    ]
    desk = RecoveryDesk(record.engine, record.clock)
    assert desk.end_leases("here", lambda pid: pid != 1) == 1
    assert hinted(record) == [items[0]]
    taken = record.claim(items[0], owner="here:3")
    assert crashes(record, items[0]) == 1
    with pytest.raises(LeaseLost):
        record.ledger.extend(claims[0], 600.0)
    record.ledger.extend(claims[1], 600.0)
    record.ledger.extend(taken, 600.0)
    assert desk.end_leases("here", lambda pid: pid != 1) == 0


def test_work_that_waits_for_a_passing_failure_is_due_at_once(record: Record) -> None:
    waiting, delivering, running, other = (
        record.schedule()[0],
        record.schedule()[0],
        record.schedule()[0],
        record.schedule("prognosis")[0],
    )
    record.analyse(delivering)
    for item in (waiting, delivering, other):
        claim = record.claim(item)
        record.ledger.retry_later(claim, reason="away", delay_s=300.0)
    record.claim(running)
    desk = RecoveryDesk(record.engine, record.clock)
    assert hinted(record) == []
    assert desk.wake_analysis("diagnosis") == 1
    assert hinted(record) == [waiting]
    assert desk.wake_analysis("diagnosis") == 0


def test_a_hint_of_work_that_was_given_back_meanwhile_is_not_remembered(record: Record) -> None:
    """The worker is faster than the sweeper, which then notes that it has told the broker."""
    (item,) = record.schedule()
    record.clock.advance(10.0)
    (hint,) = [each for each in record.ledger.due_hints(10.0) if each.kind != "route"]
    claim = record.claim(item)
    record.ledger.retry_later(claim, reason="away", delay_s=1.0)
    record.ledger.mark_hinted([hint], 10.0)
    record.clock.advance(1.0)
    assert hinted(record) == [item]


def test_a_hint_of_a_step_that_is_done_meanwhile_is_not_remembered(record: Record) -> None:
    (item,) = record.schedule()
    record.clock.advance(10.0)
    hint = Hint(kind="analyse", id=item, analysis="diagnosis")
    record.analyse(item)
    with writing(record.engine) as connection:
        connection.execute(update(WorkItem).values(hinted_at=None))
    record.ledger.mark_hinted([hint], 10.0)
    assert hinted(record) == [item]


def test_a_routing_that_was_postponed_meanwhile_keeps_its_moment(record: Record) -> None:
    record.receive()
    generation = record.close()
    (hint,) = record.ledger.due_hints(10.0)
    record.ledger.postpone_routing(generation, "away", 1.0)
    record.ledger.mark_hinted([hint], 10.0)
    record.clock.advance(1.0)
    assert record.ledger.due_hints(10.0) == [Hint(kind="route", id=generation)]
