"""Defects are counted from the timeline, on both databases; outages and earlier orders are not."""

from gateway.store.people.control import StudyControl
from tests.records import Record


def fail(record: Record, item: int, *, is_defect: bool) -> int:
    """Fail once; return how many defects there were before."""
    claim = record.claim(item)
    before = record.ledger.defects(claim)
    record.ledger.retry_later(claim, reason="no", delay_s=1.0, is_defect=is_defect)
    record.clock.advance(1.0)
    return before


def test_only_defects_of_this_step_and_this_item_count(record: Record) -> None:
    item, other = record.schedule("diagnosis", "prognosis")
    assert [fail(record, item, is_defect=each) for each in (False, True, False, True, False)] == [
        *(0, 0, 1, 1, 2)
    ]
    assert fail(record, other, is_defect=True) == 0
    claim = record.claim(item)
    assert record.ledger.defects(claim) == 2
    record.ledger.fail(claim, kind="DEFECT", reason="no")
    control = StudyControl(record.engine, record.clock)
    control.retry(claim.generation.study_id, actor="admin")
    assert fail(record, item, is_defect=True) == 0
    assert fail(record, item, is_defect=False) == 1
    record.analyse(item)
    assert fail(record, item, is_defect=False) == 0  # the step after


def test_defects_of_routing_count_by_generation(record: Record) -> None:
    uid = record.receive()
    first = record.close()
    for is_defect in (False, True, True):
        record.ledger.postpone_routing(first, "no", 1.0, is_defect=is_defect)
    assert record.ledger.routing_defects(first) == 2
    record.ledger.record_routing(first, [], "nothing applies")
    record.receive(study_instance_uid=uid)
    assert record.ledger.routing_defects(record.close()) == 0
