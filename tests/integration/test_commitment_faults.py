"""Storage commitment with a PACS that answers late, never, wrongly, twice, or is somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.delivery.routes import Destination
from gateway.store.work.commitment import MOST_SILENT
from gateway.store.work.resend import ResendDesk
from tests.integration.commitment_site import CLASSES, Site, site
from tests.records import new_uid
from tests.servers import wait_until
from tests.storage_scp import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    StorageScp,
    call_for_report,
    report_of,
)

SR, SEG = CLASSES


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as each:
        yield each


def to(scp: StorageScp) -> Destination:
    return Destination(ae_title="PACS", host="127.0.0.1", port=scp.port)


def answers(home: Site) -> list[tuple[str, str]]:
    return [each[:2] for each in home.deliveries()]


@pytest.mark.parametrize("commitment", ["same", "new"])
def test_a_report_confirms_on_either_association(home: Site, commitment: str) -> None:
    scp = StorageScp(commitment=commitment, report_to=home.us.port, offers_find=False)
    with scp.serving():
        item = home.analysed(to(scp))
        assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
        wait_until(lambda: scp.report_statuses == [0], 20.0, "the end of the report")
    assert answers(home) == [("CONFIRMED", "commitment")] * 2
    assert len(scp.requests) == 1
    assert len(scp.stored) == 2


def test_nobody_waits_for_an_answer_and_a_late_one_wakes_the_work_item(home: Site) -> None:
    scp = StorageScp(commitment="silent", report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        assert home.attempt(item) == "IN PROGRESS"
        assert answers(home) == [("STORED", "")] * 2
        home.clock.advance(100.0)  # of the 120 that it has
        assert not home.is_due(item)
        scp.report()
        assert home.is_due(item)
        assert home.attempt(item) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "commitment")] * 2
    assert (scp.report_statuses, len(scp.stored)) == ([0], 2)


@pytest.mark.parametrize(
    ("confirm", "offers_find", "state", "by"),
    [
        ("auto", True, "COMPLETED", "c-find"),
        ("auto", False, "COMPLETED", "c-store"),
        ("require", True, "COMPLETED", "c-find"),
        ("require", False, "IN PROGRESS", ""),
        ("commitment", True, "IN PROGRESS", ""),
    ],
)
def test_no_answer_at_all(home: Site, confirm: str, offers_find: bool, state: str, by: str) -> None:
    scp = StorageScp(commitment="silent", offers_find=offers_find)
    with scp.serving():
        item = home.analysed(to(scp), (SR,))
        for _ in range(4):
            home.attempt(item, confirm=confirm)
            home.clock.advance(130.0)
    assert home.state(item) == state
    assert answers(home) == [("CONFIRMED" if by else "STORED", by)]


def test_a_destination_that_never_answers_keeps_nothing_waiting(home: Site) -> None:
    with StorageScp(commitment="silent").serving() as scp:
        for _ in range(MOST_SILENT):
            item = home.analysed(to(scp), (SR,))
            home.attempt(item)
            assert home.state(item) == "IN PROGRESS"
            home.clock.advance(130.0)
            assert home.attempt(item) == "COMPLETED"
        item = home.analysed(to(scp), (SR,))
        assert home.attempt(item) == "COMPLETED", "it waited for an answer that never comes"


@pytest.mark.parametrize("commitment", ["decline", "abort"])
def test_a_destination_that_does_not_take_the_request(home: Site, commitment: str) -> None:
    with StorageScp(commitment=commitment).serving() as scp:
        item = home.analysed(to(scp), (SR,))
        assert home.drive(item) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "c-find")]
    assert len(scp.stored) == 1


@pytest.mark.parametrize(("reason", "times_sent"), [(0x0112, 2), (0x0119, 2), (0x0110, 1)])
def test_one_failure_sends_or_asks_again_and_holds_up_no_sibling(
    home: Site, reason: int, times_sent: int
) -> None:
    scp = StorageScp(commitment="new", commitment_failures={SEG: reason}, report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        home.attempt(item, commitment_linger_s=5.0)
        assert answers(home)[0] == ("CONFIRMED", "commitment")
        scp.commitment_failures = {}
        assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "commitment")] * 2
    assert sum(str(ds.SOPClassUID) == SEG for ds in scp.stored) == times_sent
    assert sum(str(ds.SOPClassUID) == SR for ds in scp.stored) == 1


@pytest.mark.parametrize("reason", [0x0112, 0x0119])
def test_what_is_never_committed_is_refused_in_the_end(home: Site, reason: int) -> None:
    scp = StorageScp(commitment="new", commitment_failures={SEG: reason}, report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "commitment"), ("REFUSED", "")]
    assert f"{reason:04X}" in home.deliveries()[1][2]


def test_a_class_that_is_never_committed_to_is_confirmed_by_c_find(home: Site) -> None:
    scp = StorageScp(commitment="new", commitment_failures={SEG: 0x0122}, report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "commitment"), ("CONFIRMED", "c-find")]


def test_a_report_that_comes_twice_or_for_nothing_changes_nothing(home: Site) -> None:
    scp = StorageScp(commitment="silent", report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        home.attempt(item)
        scp.report()
        scp.report()
        scp.report(failures={SEG: 0x0112})
        scp.requests.append((new_uid(), {"1.2.3": SR}))
        scp.report()
        assert scp.report_statuses == [0, 0, 0, 0x0115]
        assert home.drive(item) == "COMPLETED"
    assert answers(home) == [("CONFIRMED", "commitment")] * 2
    assert home.timeline("commitment") == ["commitment.asked", "commitment.answered"]


def test_only_the_destination_that_was_asked_may_answer(home: Site) -> None:
    scp = StorageScp(commitment="silent")
    with scp.serving():
        item = home.analysed(to(scp))
        home.attempt(item)
        event_type, information = report_of(*scp.requests[-1], {})
        assoc = call_for_report(home.us.port, ae_title="STRANGER")
        status, _ = assoc.send_n_event_report(
            information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        assoc.release()
    assert status.Status == 0x0115
    assert not home.is_due(item)


def test_a_failure_that_comes_after_the_end_opens_the_work_item_again(home: Site) -> None:
    scp = StorageScp(commitment="silent", report_to=home.us.port)
    with scp.serving():
        item = home.analysed(to(scp))
        home.attempt(item)
        home.clock.advance(130.0)
        assert home.attempt(item) == "COMPLETED"
        assert answers(home) == [("CONFIRMED", "c-find")] * 2
        scp.report(failures={SEG: 0x0112})
        assert home.state(item) == "SCHEDULED"
        assert answers(home) == [("CONFIRMED", "c-find"), ("PENDING", "")]
        scp.commitment, scp.commitment_failures = "new", {}
        assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
    assert sum(str(ds.SOPClassUID) == SEG for ds in scp.stored) == 2
    assert "work_item.reopened" in home.timeline()


def test_a_study_is_sent_again_on_demand(home: Site) -> None:
    with StorageScp().serving() as scp, StorageScp().serving() as other:
        item = home.analysed(to(scp))
        assert home.drive(item) == "COMPLETED"
        from gateway.delivery.routes import Route

        routes = [Route(name=str(to(scp))), Route(name=str(to(other)))]
        resent = ResendDesk(home.engine, home.clock).resend(home.study(), routes, by="a test")
        assert (resent.work_items, resent.deliveries) == (1, 4)
        assert home.drive(item) == "COMPLETED"
    assert (len(scp.stored), len(other.stored)) == (4, 2)
    assert answers(home) == [("CONFIRMED", "c-find")] * 4
