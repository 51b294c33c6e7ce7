"""The working half of the record: routing, leases, results, deliveries."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from gateway.delivery.routes import KINDS, Route
from gateway.errors import LeaseLost
from gateway.store.engine import reading
from gateway.store.tables import (
    Base,
    Delivery,
    Event,
    Generation,
    ResultObject,
    Study,
    WorkItem,
)
from gateway.store.values import Hint, Scheduled
from gateway.store.work.leases import MAX_CRASHES
from tests.records import PACS, new_object, new_uid

LEASE_S = 30.0


def row_of(record, table: type[Base], row_id: int):
    with reading(record.engine) as connection:
        return connection.execute(select(table).where(table.id == row_id)).one()


def state_of(record, uid: str) -> tuple[str, str]:
    with reading(record.engine) as connection:
        return tuple(
            connection.execute(
                select(Study.state, Study.reason).where(Study.study_instance_uid == uid)
            ).one()
        )


def count(record, table: type[Base]) -> int:
    with reading(record.engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def work_hints(record, interval_s: float = 10.0) -> list[Hint]:
    return [hint for hint in record.ledger.due_hints(interval_s) if hint.kind != "route"]


def save(record, claim, *objects):
    record.ledger.save_results(
        claim,
        objects or (new_object(),),
        destinations=(Route(name=PACS),),
        outcome="assessed",
        reason="",
        summary={},
    )


WRITES = {
    "extend": lambda record, claim: record.ledger.extend(claim, LEASE_S),
    "save_results": save,
    "complete": lambda record, claim: record.ledger.complete(claim),
    "retry_later": lambda record, claim: record.ledger.retry_later(claim, reason="r", delay_s=1.0),
    "fail": lambda record, claim: record.ledger.fail(claim, kind="DEFECT", reason="r"),
}


# -- routing ------------------------------------------------------------------------------------


def test_generation_is_routed_once_by_two_routers(record):
    record.receive()
    generation = record.close()
    wanted = [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="r")]
    barrier = threading.Barrier(4)

    def route() -> list[int]:
        barrier.wait(10)
        return record.ledger.record_routing(generation, wanted, "")

    with ThreadPoolExecutor(4) as pool:
        made = [future.result(30) for future in [pool.submit(route) for _ in range(4)]]
    assert sorted(len(ids) for ids in made) == [0, 0, 0, 1]
    assert count(record, WorkItem) == 1
    assert record.ledger.load_generation(generation) is None


def test_study_to_which_no_analysis_applies_is_refused_with_the_reason(record):
    uid = record.receive()
    assert record.ledger.record_routing(record.close(), [], "no rule for XC") == []
    assert state_of(record, uid) == ("refused", "no rule for XC")


def test_open_generation_cannot_be_routed(record):
    record.receive()
    with reading(record.engine) as connection:
        generation = connection.execute(select(Generation.id)).scalar_one()
    assert record.ledger.load_generation(generation) is None
    wanted = [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="r")]
    assert record.ledger.record_routing(generation, wanted, "") == []
    assert count(record, WorkItem) == 0


def test_same_analysis_twice_in_one_generation_is_refused_whole(record):
    record.receive()
    generation = record.close()
    twice = [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="r")] * 2
    with pytest.raises(IntegrityError):
        record.ledger.record_routing(generation, twice, "")
    assert count(record, WorkItem) == 0
    assert record.ledger.load_generation(generation) is not None


def test_postponed_routing_is_announced_again_after_the_delay(record):
    uid = record.receive()
    generation = record.close()
    record.ledger.postpone_routing(generation, "no model server", 5.0)
    assert state_of(record, uid) == ("received", "no model server")
    record.clock.advance(4.9)
    assert record.ledger.due_hints(10.0) == []
    record.clock.advance(0.2)
    assert record.ledger.due_hints(10.0) == [Hint(kind="route", id=generation)]
    assert row_of(record, Generation, generation).attempts == 1
    with reading(record.engine) as connection:
        noted = connection.execute(
            select(Event.detail).where(Event.action == "generation.postponed")
        ).scalar_one()
    assert noted["reason"] == "no model server"


def test_postponing_a_routed_generation_changes_nothing(record):
    uid = new_uid()
    record.schedule(study_instance_uid=uid)
    with reading(record.engine) as connection:
        generation = connection.execute(select(Generation.id)).scalar_one()
    record.ledger.postpone_routing(generation, "late", 5.0)
    assert state_of(record, uid) == ("analysing", "")


# -- hints --------------------------------------------------------------------------------------


def test_closed_generation_is_announced_again_until_it_is_routed(record):
    record.receive()
    generation = record.close()
    (hint,) = record.ledger.due_hints(10.0)
    record.ledger.mark_hinted([hint], 10.0)
    assert record.ledger.due_hints(10.0) == []
    record.clock.advance(10.0)
    assert record.ledger.due_hints(10.0) == [Hint(kind="route", id=generation)]


def test_new_work_is_not_announced_twice_at_once(record):
    (item,) = record.schedule()
    assert work_hints(record) == []  # the router tells the broker itself
    record.clock.advance(10.0)
    assert work_hints(record) == [Hint(kind="analyse", id=item, analysis="diagnosis")]
    record.ledger.mark_hinted(work_hints(record), 10.0)
    assert work_hints(record) == []


def test_more_urgent_work_is_announced_first(record):
    record.receive()
    ids = record.ledger.record_routing(
        record.close(),
        [
            Scheduled(analysis=name, model_digest="d" * 64, reason="r", priority=priority)
            for name, priority in (("a", 0), ("b", 9), ("c", 5))
        ],
        "",
    )
    record.clock.advance(10.0)
    assert [hint.analysis for hint in work_hints(record)] == ["b", "c", "a"]
    assert sorted(hint.id for hint in work_hints(record)) == sorted(ids)
    assert len(record.ledger.due_hints(10.0, limit=2)) == 2


def test_held_work_is_not_announced_and_expired_work_is(record):
    (item,) = record.schedule()
    record.claim(item, lease_s=LEASE_S)
    record.clock.advance(LEASE_S - 1)
    assert work_hints(record) == []
    record.clock.advance(2)
    assert [hint.id for hint in work_hints(record)] == [item]


def test_finished_work_is_never_announced(record):
    done, failed = record.schedule("diagnosis", "prognosis")
    record.analyse(done)
    record.deliver(done)
    record.ledger.fail(record.claim(failed), kind="REJECTED", reason="r")
    record.clock.advance(10_000)
    assert record.ledger.due_hints(10.0) == []


# -- leases -------------------------------------------------------------------------------------


def test_work_item_is_claimed_once_by_many_workers(record):
    (item,) = record.schedule()
    barrier = threading.Barrier(8)

    def claim(number: int):
        barrier.wait(10)
        return record.ledger.claim(item, owner=f"worker-{number}", lease_s=LEASE_S)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(claim, number) for number in range(8)]
        claims = [future.result(30) for future in futures]
    (held,) = [each for each in claims if each is not None]
    assert row_of(record, WorkItem, item).lease_token == held.token
    assert held.attempt == 1


def test_claim_says_what_to_do(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    claim = record.claim(item)
    assert (claim.step, claim.analysis, claim.attempt) == ("analyse", "diagnosis", 1)
    assert claim.generation.number == 1
    assert len(claim.generation.instances) == 1
    assert claim.created_at == row_of(record, WorkItem, item).created_at
    assert row_of(record, WorkItem, item).state == "IN PROGRESS"
    assert state_of(record, uid)[0] == "analysing"


def test_unknown_work_item_cannot_be_claimed(record):
    assert record.ledger.claim(4711, owner="worker", lease_s=LEASE_S) is None


def test_expired_lease_is_taken_over_with_the_same_time_and_a_new_token(record):
    (item,) = record.schedule()
    first = record.claim(item, lease_s=LEASE_S)
    record.clock.advance(LEASE_S)
    assert record.ledger.claim(item, owner="worker-2", lease_s=LEASE_S) is None
    record.clock.advance(0.1)
    second = record.claim(item, owner="worker-2")
    assert second.token != first.token
    assert second.attempt == 2
    assert second.created_at == first.created_at  # results carry it: a re-run writes the same
    assert row_of(record, WorkItem, item).crashes == 1


def test_heartbeat_keeps_the_lease(record):
    (item,) = record.schedule()
    claim = record.claim(item, lease_s=LEASE_S)
    for _ in range(5):
        record.clock.advance(LEASE_S - 1)
        record.ledger.extend(claim, LEASE_S)
    assert record.ledger.claim(item, owner="worker-2", lease_s=LEASE_S) is None


@pytest.mark.parametrize("write", WRITES)
def test_worker_that_lost_its_lease_can_write_nothing(record, write):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    lost = record.claim(item, lease_s=LEASE_S)
    record.clock.advance(LEASE_S + 1)
    record.claim(item, owner="worker-2")
    before = row_of(record, WorkItem, item)
    events = count(record, Event)
    with pytest.raises(LeaseLost):
        WRITES[write](record, lost)
    assert row_of(record, WorkItem, item) == before
    assert count(record, Event) == events
    assert count(record, ResultObject) == 0


def test_worker_that_lost_its_lease_cannot_mark_a_delivery(record):
    (item,) = record.schedule()
    record.analyse(item)
    lost = record.claim(item, lease_s=LEASE_S)
    (delivery,) = record.ledger.load_deliveries(lost)
    record.clock.advance(LEASE_S + 1)
    record.claim(item, owner="worker-2")
    with pytest.raises(LeaseLost):
        record.ledger.mark_delivery(lost, delivery.id, state="CONFIRMED", confirmed_by="c-find")
    assert row_of(record, Delivery, delivery.id).state == "PENDING"


def test_worker_that_was_late_but_not_replaced_may_still_finish(record):
    (item,) = record.schedule()
    claim = record.claim(item, lease_s=LEASE_S)
    record.clock.advance(LEASE_S * 10)
    save(record, claim)
    assert row_of(record, WorkItem, item).step == "deliver"


@pytest.mark.parametrize("write", ["complete", "retry_later", "fail", "save_results"])
def test_claim_is_spent_after_its_end(record, write):
    (item,) = record.schedule()
    claim = record.claim(item)
    WRITES[write](record, claim)
    with pytest.raises(LeaseLost):
        record.ledger.extend(claim, LEASE_S)
    assert row_of(record, WorkItem, item).lease_token is None


def test_input_that_kills_every_worker_is_set_aside(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    for _ in range(MAX_CRASHES):
        assert record.ledger.claim(item, owner="worker", lease_s=1.0) is not None
        record.clock.advance(2.0)
    assert record.ledger.claim(item, owner="worker", lease_s=1.0) is None
    row = row_of(record, WorkItem, item)
    assert (row.state, row.failure_kind, row.lease_token) == ("CANCELED", "DEFECT", None)
    state, reason = state_of(record, uid)
    assert state == "failed"
    assert f"{MAX_CRASHES} workers died" in reason


def test_crashes_are_counted_for_each_step_apart(record):
    (item,) = record.schedule()
    for _ in range(MAX_CRASHES - 1):
        record.claim(item, lease_s=1.0)
        record.clock.advance(2.0)
    record.analyse(item)
    row = row_of(record, WorkItem, item)
    assert (row.step, row.crashes, row.attempts) == ("deliver", 0, 0)


# -- ends of a step -----------------------------------------------------------------------------


def test_passing_failure_is_tried_again_after_the_delay(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.ledger.retry_later(record.claim(item), reason="no model server", delay_s=8.0)
    assert state_of(record, uid) == ("analysing", "no model server")
    assert record.ledger.claim(item, owner="worker", lease_s=LEASE_S) is None
    record.clock.advance(8.0)
    # At once, not after the hint interval: nobody was told of it.
    assert [hint.id for hint in work_hints(record, interval_s=1000.0)] == [item]
    claim = record.claim(item)
    assert claim.attempt == 2
    assert row_of(record, WorkItem, item).crashes == 0
    save(record, claim)
    assert state_of(record, uid) == ("delivering", "")


@pytest.mark.parametrize(("kind", "level"), [("REJECTED", "warning"), ("DEFECT", "alarm")])
def test_lasting_failure_ends_the_work_item(record, kind, level):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.ledger.fail(record.claim(item), kind=kind, reason="no pixel data")
    row = row_of(record, WorkItem, item)
    assert (row.state, row.failure_kind, row.reason) == ("CANCELED", kind, "no pixel data")
    assert state_of(record, uid) == ("failed", "no pixel data")
    with reading(record.engine) as connection:
        found = connection.execute(
            select(Event.level).where(Event.action == "work_item.failed")
        ).scalar_one()
    assert found == level
    assert record.ledger.claim(item, owner="worker", lease_s=LEASE_S) is None


def test_results_make_one_delivery_for_each_object_and_destination(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    objects = (new_object("sr"), new_object("seg-1"), new_object("overview-1"))
    record.analyse(item, objects=objects, destinations=(PACS, "VNA@127.0.0.1:104"))
    assert state_of(record, uid)[0] == "delivering"
    claim = record.claim(item)
    assert claim.step == "deliver"
    deliveries = record.ledger.load_deliveries(claim)
    assert [(row.role, row.destination, row.state) for row in deliveries] == [
        (made.role, destination, "PENDING")
        for made in objects
        for destination in (PACS, "VNA@127.0.0.1:104")
    ]
    assert {row.study_instance_uid for row in deliveries} == {uid}


def test_results_are_saved_whole_or_not_at_all(record):
    (item,) = record.schedule()
    claim = record.claim(item)
    made = new_object()
    with pytest.raises(IntegrityError):
        save(record, claim, made, replace(made, role="seg-1"))
    assert count(record, ResultObject) == count(record, Delivery) == 0
    assert row_of(record, WorkItem, item).step == "analyse"
    save(record, claim, made)


def test_destination_answers_are_kept(record):
    (item,) = record.schedule()
    record.analyse(item)
    claim = record.claim(item)
    (delivery,) = record.ledger.load_deliveries(claim)
    record.ledger.mark_delivery(claim, delivery.id, state="STORED", status=0xB000)
    row = row_of(record, Delivery, delivery.id)
    assert (row.state, row.status, row.stored_at) == ("STORED", 0xB000, record.clock.now)
    record.clock.advance(1.0)
    record.ledger.mark_delivery(
        claim, delivery.id, state="CONFIRMED", status=0xB000, confirmed_by="c-find"
    )
    row = row_of(record, Delivery, delivery.id)
    assert (row.state, row.confirmed_by, row.confirmed_at) == (
        "CONFIRMED",
        "c-find",
        record.clock.now,
    )
    assert row.stored_at is not None


def test_delivery_of_another_work_item_cannot_be_marked(record):
    first, second = record.schedule("diagnosis", "prognosis")
    record.analyse(first)
    record.analyse(second)
    (foreign,) = record.ledger.load_deliveries(record.claim(second))
    claim = record.claim(first)
    with pytest.raises(LeaseLost):
        record.ledger.mark_delivery(claim, foreign.id, state="CONFIRMED")
    assert row_of(record, Delivery, foreign.id).state == "PENDING"


def test_completed_study_shows_why_it_was_not_assessed_not_an_old_attempt(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, outcome="not_assessed", reason="blurred")
    record.ledger.retry_later(record.claim(item), reason="PACS does not answer", delay_s=1.0)
    assert state_of(record, uid) == ("delivering", "PACS does not answer")
    record.clock.advance(1.0)
    record.deliver(item)
    assert state_of(record, uid) == ("completed", "blurred")


def test_reason_of_the_completion_joins_that_of_the_assessment(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item, outcome="not_assessed", reason="blurred")
    record.ledger.complete(record.claim(item), reason="1 of 3 objects was refused")
    assert state_of(record, uid) == ("completed", "blurred; 1 of 3 objects was refused")


def test_study_completes_with_its_last_work_item(record):
    uid = new_uid()
    first, second = record.schedule("diagnosis", "prognosis", study_instance_uid=uid)
    record.analyse(first)
    record.deliver(first)
    assert state_of(record, uid)[0] == "analysing"
    record.analyse(second)
    record.deliver(second)
    assert state_of(record, uid)[0] == "completed"


# -- generations --------------------------------------------------------------------------------


def test_next_generation_finds_the_newest_report_before_it(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    assert record.ledger.prior_report(record.claim(item, lease_s=1.0)) is None
    record.clock.advance(2.0)
    report = new_object("sr")
    record.analyse(item, objects=(new_object("seg-1"), report))
    record.deliver(item)
    (again,) = record.schedule(study_instance_uid=uid)
    prior = record.ledger.prior_report(record.claim(again))
    assert prior.sop_instance_uid == report.sop_instance_uid
    assert prior.series_instance_uid == report.series_instance_uid
    assert prior.study_instance_uid == uid


def test_prior_report_is_of_the_same_analysis_and_study(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.analyse(item)
    (other_study,) = record.schedule()
    assert record.ledger.prior_report(record.claim(other_study)) is None
    (other_analysis,) = record.schedule("prognosis", study_instance_uid=uid)
    assert record.ledger.prior_report(record.claim(other_analysis)) is None


def test_failed_generation_is_made_good_by_the_next(record):
    uid = new_uid()
    (item,) = record.schedule(study_instance_uid=uid)
    record.ledger.fail(record.claim(item), kind="REJECTED", reason="bad")
    assert state_of(record, uid) == ("failed", "bad")
    (again,) = record.schedule(study_instance_uid=uid)
    record.analyse(again)
    record.deliver(again)
    assert state_of(record, uid) == ("completed", "")


def two_items(record) -> tuple[int, int]:
    (first,), (second,) = record.schedule(), record.schedule()
    return first, second


def test_an_analysis_has_only_so_many_places(record):
    first, second = two_items(record)
    one_place = {"diagnosis": 1}
    held = record.ledger.claim(first, owner="one", lease_s=LEASE_S, at_most=one_place)
    assert held is not None
    assert record.ledger.claim(second, owner="two", lease_s=LEASE_S, at_most=one_place) is None
    assert work_hints(record) == []
    record.clock.advance(2.5)  # announced again soon, and not counted as an attempt
    assert [hint.id for hint in work_hints(record)] == [second]
    save(record, held)
    taken = record.ledger.claim(second, owner="two", lease_s=LEASE_S, at_most=one_place)
    assert taken is not None
    assert taken.attempt == 1


def test_a_dead_worker_gives_its_place_back(record):
    first, second = two_items(record)
    record.ledger.claim(first, owner="one", lease_s=LEASE_S, at_most={"diagnosis": 1})
    record.clock.advance(LEASE_S + 1)
    assert record.ledger.claim(second, owner="two", lease_s=LEASE_S, at_most={"diagnosis": 1})


def test_places_of_another_analysis_do_not_count(record):
    first, second = two_items(record)
    record.ledger.claim(first, owner="one", lease_s=LEASE_S)
    assert record.ledger.claim(second, owner="two", lease_s=LEASE_S, at_most={"other": 1})


def test_deliveries_need_no_place(record):
    first, second = two_items(record)
    record.analyse(first)
    record.ledger.claim(second, owner="one", lease_s=LEASE_S, at_most={"diagnosis": 1})
    assert record.ledger.claim(first, owner="two", lease_s=LEASE_S, at_most={"diagnosis": 1})


def test_object_whose_kind_is_switched_off_has_no_delivery_there(record):
    (item,) = record.schedule()
    objects = (
        new_object("sr", sop_class_uid=KINDS["sr"]),
        new_object("pdf-1", sop_class_uid=KINDS["pdf"]),
    )
    record.analyse(
        item,
        objects=objects,
        destinations=(Route(name=PACS), Route(name="VIEWER@h:1", kinds=frozenset({"sr"}))),
    )
    claim = record.claim(item)
    found = [(each.role, each.destination) for each in record.ledger.load_deliveries(claim)]
    assert found == [("sr", PACS), ("sr", "VIEWER@h:1"), ("pdf-1", PACS)]
