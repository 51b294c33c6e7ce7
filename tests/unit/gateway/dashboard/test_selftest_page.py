"""The self-test on the admin page: who may begin one, what each step says, what is no self-test."""

from gateway.dashboard.pages.selftest import steps_of
from gateway.observation.selftest import report_on
from gateway.store.reading.status import StatusReader, StudyStatus
from gateway.store.values import Scheduled
from gateway.store.work.self_tests import SELF_TEST_AE_TITLE
from tests.people import browser
from tests.records import Record, association, header, stored

SCHEDULED = [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="dermoscopic image")]


def drawn(record: Record) -> str:
    image = header()
    sender = association(calling_ae_title=SELF_TEST_AE_TITLE)
    record.intake.register_instance(header=image, stored=stored(), association=sender)
    return image.study_instance_uid


def study_of(record: Record, uid: str, home) -> StudyStatus:
    found = StatusReader(record.engine, home).study(uid)
    assert found is not None
    return found


def states(record: Record, uid: str, home) -> list[str]:
    report = report_on(record.engine, uid)
    return [step.state for step in steps_of(study_of(record, uid, home), report)]


def test_steps_go_forward_and_stop_where_it_fails(record, tmp_path):
    uid = drawn(record)
    assert states(record, uid, tmp_path) == ["done", "running", *["not reached"] * 3]
    (item,) = record.ledger.record_routing(record.close(), SCHEDULED, "")
    assert states(record, uid, tmp_path) == [*["done"] * 3, "running", "not reached"]
    record.ledger.fail(record.claim(item), kind="REJECTED", reason="the frame cannot be decoded")
    assert states(record, uid, tmp_path) == [*["done"] * 3, "failed", "not reached"]
    steps = steps_of(study_of(record, uid, tmp_path), report_on(record.engine, uid))
    assert "the frame cannot be decoded" in steps[3].remark


def test_steps_of_one_that_passed_are_all_done(record, tmp_path):
    uid = drawn(record)
    (item,) = record.ledger.record_routing(record.close(), SCHEDULED, "")
    record.analyse(item)
    record.deliver(item)
    assert states(record, uid, tmp_path) == ["done"] * 5
    assert report_on(record.engine, uid).has_passed


def test_a_study_that_no_analysis_applies_to_says_why(record, tmp_path):
    uid = drawn(record)
    record.ledger.record_routing(record.close(), [], "no analysis applies to this study")
    assert states(record, uid, tmp_path) == [*["done"] * 3, "failed", "not reached"]
    steps = steps_of(study_of(record, uid, tmp_path), report_on(record.engine, uid))
    assert steps[3].remark == "no analysis applies to this study"


def test_operators_begin_one_and_viewers_look_on(app, kept, home):
    number = study_of(kept, drawn(kept), home).id
    other = study_of(kept, kept.receive(), home).id
    with browser(app, kept, "viewer") as viewer:
        assert viewer.get("/self-test").status_code == 403
        assert viewer.submit("/self-test").status_code == 403
        assert "Under way" in viewer.get(f"/self-test/{number}").text
        assert viewer.get(f"/self-test/{other}").status_code == 404
    with browser(app, kept, "operator") as operator:
        assert operator.post("/self-test", data={}).status_code == 403
        for answer in (operator.submit("/self-test"), operator.call("/api/self-test")):
            assert answer.status_code == 503
            assert "nothing runs on this home" in answer.text
