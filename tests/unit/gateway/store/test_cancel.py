"""Cancelling work items on request: decided once, and the worker writes nothing afterwards."""

import pytest
from sqlalchemy import select

from gateway.errors import LeaseLost
from gateway.store.engine import reading
from gateway.store.tables import Delivery, Event, Study, WorkItem
from gateway.store.work.cancel import CancelAnswer, CancelDesk
from gateway.store.work.worklist import Worklist
from tests.records import new_object, new_uid


@pytest.fixture
def desk(record):
    return CancelDesk(record.engine, record.clock)


def item(record, work_item_id):
    with reading(record.engine) as connection:
        return connection.execute(select(WorkItem).where(WorkItem.id == work_item_id)).one()


def test_what_is_scheduled_is_canceled_at_once(record, desk):
    uid = new_uid()
    (work_item_id,) = record.schedule(study_instance_uid=uid)
    answer = desk.cancel(
        work_item_id, requested_by="admin", reason="wrong\x00 patient\n" + "x" * 300
    )
    assert answer is CancelAnswer.CANCELED
    row = item(record, work_item_id)
    assert (row.state, row.next_attempt_at, row.finished_at) == (
        "CANCELED",
        None,
        record.clock.now,
    )
    assert row.reason.startswith("canceled on request of admin: wrong patient xxx")
    assert len(row.reason) < 250
    assert record.ledger.claim(work_item_id, owner="w", lease_s=30) is None
    assert not [hint for hint in record.ledger.due_hints(0) if hint.id == work_item_id]
    with reading(record.engine) as connection:
        study = connection.execute(select(Study)).one()
        events = connection.execute(select(Event.action)).scalars().all()
    assert (study.state, study.reason) == ("failed", row.reason)
    assert "work_item.canceled" in events


def test_what_is_in_progress_is_canceled_and_its_worker_writes_nothing(record, desk):
    (work_item_id,) = record.schedule()
    claim = record.claim(work_item_id)
    assert desk.cancel(work_item_id, requested_by="admin") is CancelAnswer.CANCELED
    with pytest.raises(LeaseLost):
        record.ledger.extend(claim, 30)
    with pytest.raises(LeaseLost):
        record.ledger.save_results(
            claim, (new_object(),), destinations=[], outcome="assessed", reason="", summary={}
        )
    for write in (
        lambda: record.ledger.retry_later(claim, reason="", delay_s=1),
        lambda: record.ledger.fail(claim, kind="DEFECT", reason=""),
        lambda: record.ledger.complete(claim),
        lambda: record.ledger.change_model(claim, "e" * 64),
    ):
        with pytest.raises(LeaseLost):
            write()
    row = item(record, work_item_id)
    assert (row.state, row.lease_token, row.failure_kind) == ("CANCELED", None, "")
    entry = Worklist(record.engine).entry(work_item_id)
    assert entry.outputs == ()


def test_what_is_final_stays_as_it_is(record, desk):
    (canceled,) = record.schedule()
    desk.cancel(canceled, requested_by="admin", reason="first")
    record.clock.advance(60)
    assert desk.cancel(canceled, requested_by="x", reason="y") is CancelAnswer.ALREADY_CANCELED
    assert item(record, canceled).reason.endswith("first")
    record.completed()
    completed = canceled + 1
    assert desk.cancel(completed, requested_by="x") is CancelAnswer.ALREADY_COMPLETED
    assert item(record, completed).state == "COMPLETED"
    assert desk.cancel(10**6, requested_by="x") is CancelAnswer.UNKNOWN


def test_results_that_wait_for_a_pacs_may_be_stopped(record, desk):
    (work_item_id,) = record.schedule()
    record.analyse(work_item_id)
    claim = record.claim(work_item_id)
    assert desk.cancel(work_item_id, requested_by="x") is CancelAnswer.DECLINED  # being sent now
    record.ledger.retry_later(claim, reason="the PACS does not answer", delay_s=600)
    assert desk.cancel(work_item_id, requested_by="x") is CancelAnswer.CANCELED
    with reading(record.engine) as connection:
        (delivery,) = connection.execute(select(Delivery)).all()
    assert (delivery.state, delivery.reason) == ("REFUSED", "the work item was canceled on request")


@pytest.mark.parametrize("state", ["STORED", "CONFIRMED"])
def test_results_that_are_in_a_pacs_are_not_taken_back(record, desk, state):
    (work_item_id,) = record.schedule()
    record.analyse(work_item_id, objects=(new_object(), new_object("seg")))
    claim = record.claim(work_item_id)
    first, _ = record.ledger.load_deliveries(claim)
    record.ledger.mark_delivery(claim, first.id, state=state, status=0)
    record.ledger.retry_later(claim, reason="", delay_s=1)
    assert desk.cancel(work_item_id, requested_by="x") is CancelAnswer.DECLINED
    assert item(record, work_item_id).state == "IN PROGRESS"


def test_a_lease_that_ran_out_declines_nothing(record, desk):
    (work_item_id,) = record.schedule()
    record.analyse(work_item_id)
    record.claim(work_item_id, lease_s=30)
    record.clock.advance(31)
    assert desk.cancel(work_item_id, requested_by="x") is CancelAnswer.CANCELED


def test_the_worklist_reads_what_the_record_holds(record):
    uid = new_uid()
    (work_item_id,) = record.schedule(study_instance_uid=uid)
    record.analyse(work_item_id, objects=(new_object(), new_object("seg")))
    claim = record.claim(work_item_id)
    first, _ = record.ledger.load_deliveries(claim)
    record.ledger.mark_delivery(claim, first.id, state="CONFIRMED", status=0)
    entry = Worklist(record.engine).entry(work_item_id)
    assert entry.study_instance_uid == uid
    assert (entry.state, entry.step) == ("IN PROGRESS", "deliver")
    assert (entry.deliveries, entry.delivered) == (2, 1)
    assert [len(each.held_by) for each in entry.outputs] == [1, 0]
    assert len(entry.inputs) == 1
    assert entry.identity["patient_id"] == "CANARY-ID"
    assert "CANARY" not in repr(entry)
    assert entry.changed_at == record.clock.now
    assert Worklist(record.engine).entry(work_item_id + 1) is None
