"""The self-test's study is analysed like any other and never leaves, unless it is asked to."""

from typing import Any

import pytest
from sqlalchemy import select

from gateway.delivery.routes import FOLDER, Destination
from gateway.errors import SelfTestFailed
from gateway.observation.selftest import report_on, send_study
from gateway.store.engine import reading
from gateway.store.tables import Delivery
from gateway.store.values import Scheduled
from gateway.store.work.self_tests import SELF_TEST_AE_TITLE, SELF_TEST_DELIVERED_AE_TITLE
from tests.records import PACS, Record, association, header, new_uid, stored


def analysed(record: Record, *senders: dict[str, Any]) -> str:
    """Take a study whose instances come from some senders to the end of its analysis."""
    uid = new_uid()
    for sender in senders:
        record.intake.register_instance(
            header=header(study_instance_uid=uid),
            stored=stored(),
            association=association(**sender),
        )
    (item,) = record.ledger.record_routing(
        record.close(), [Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="x")], ""
    )
    record.clock.advance(3.0)
    record.analyse(item)
    return uid


@pytest.mark.parametrize(
    ("senders", "expected"),
    [
        ([{"calling_ae_title": SELF_TEST_AE_TITLE}], FOLDER),
        ([{"calling_ae_title": SELF_TEST_DELIVERED_AE_TITLE}], PACS),
        ([{"calling_ae_title": SELF_TEST_AE_TITLE, "peer_address": "10.0.0.7"}], PACS),
        ([{"calling_ae_title": SELF_TEST_AE_TITLE}, {"calling_ae_title": "CAMERA"}], PACS),
    ],
)
def test_only_the_self_tests_own_study_stays_here(
    record: Record, senders: list[dict[str, Any]], expected: str
) -> None:
    analysed(record, *senders)
    with reading(record.engine) as connection:
        assert connection.execute(select(Delivery.destination)).scalars().all() == [expected]


def test_each_stage_says_what_it_took(record: Record) -> None:
    uid = analysed(record, {"calling_ae_title": SELF_TEST_AE_TITLE})
    found = report_on(record.engine, uid)
    seconds = {stage.name: stage.seconds for stage in found.stages}
    assert seconds["quiet window"] == 2.0
    assert seconds["analysis"] == 3.0
    assert seconds["round trip"] is None
    assert not found.is_over
    assert report_on(record.engine, "1.2.3").study is None


def test_a_listener_that_is_not_there_is_said() -> None:
    nobody = Destination(ae_title="LENTIGO", host="127.0.0.1", port=1)
    with pytest.raises(SelfTestFailed, match="does not take"):
        send_study(nobody, is_delivered=False)
