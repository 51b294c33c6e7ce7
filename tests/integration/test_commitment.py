"""Storage commitment with a real PACS (Orthanc), which asks us and is asked by us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.delivery.routes import Destination
from gateway.store.intake.received_commitments import REPORTED, WAITING
from tests.integration.commitment_site import CLASSES, Site, site
from tests.integration.test_priors import photograph
from tests.servers import orthanc, wait_until
from tests.servers.orthanc import Orthanc

WITHIN_S = 30.0
STUDY = "1.2.826.0.1.3680043.10.511.1"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc"), aet="PACS") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, pacs: Orthanc) -> Iterator[Site]:
    with site(tmp_path, peers=f"PACS@127.0.0.1:{pacs.port}") as each:
        pacs.register("lentigo", each.us)
        yield each


def to(pacs: Orthanc) -> Destination:
    return Destination(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port)


def test_results_are_confirmed_by_the_report_that_reaches_our_listener(
    home: Site, pacs: Orthanc
) -> None:
    item = home.analysed(to(pacs))
    assert home.drive(item) == "COMPLETED"
    assert [each[:2] for each in home.deliveries()] == [("CONFIRMED", "commitment")] * len(CLASSES)
    assert home.timeline("commitment") == ["commitment.asked", "commitment.answered"]


def test_what_the_pacs_turns_out_to_lack_is_sent_again(home: Site, pacs: Orthanc) -> None:
    if pacs.find_study(STUDY):  # of the test before
        pacs.delete_study(STUDY)
    item = home.analysed(to(pacs))
    home.pretend_stored(item)
    assert home.drive(item, commitment_linger_s=5.0) == "COMPLETED"
    assert [each[:2] for each in home.deliveries()] == [("CONFIRMED", "commitment")] * len(CLASSES)
    held = {each.sop_instance_uid for each in pacs.instances(STUDY)}
    assert home.result_uids(item) <= held
    assert home.timeline("commitment") == ["commitment.asked", "commitment.answered"] * 2


def ask(pacs: Orthanc, instances: list[tuple[str, str]]) -> str:
    """Have the PACS ask us for storage commitment; return where it keeps our report."""
    body = {
        "DicomInstances": [
            {"SOPClassUID": sop_class, "SOPInstanceUID": uid} for sop_class, uid in instances
        ]
    }
    answer = pacs.post_json("/modalities/lentigo/storage-commitment", body)
    return str(answer["Path"])


def reported(home: Site, pacs: Orthanc, path: str) -> dict[str, Any]:
    """Report what is due until the PACS has it."""

    def look() -> dict[str, Any] | None:
        home.reporter.report_next()
        report: dict[str, Any] = pacs.get_json(path)
        return report if report["Status"] != "Pending" else None

    return wait_until(look, WITHIN_S, "our report")


def test_a_sender_is_told_what_we_hold_and_what_we_do_not(home: Site, pacs: Orthanc) -> None:
    pacs.store(photograph(71, "20200101"))
    study = pacs.find_study("2.25.1071")
    body = {"Resources": [study], "Synchronous": True}
    pacs.request("POST", "/modalities/lentigo/store", json.dumps(body).encode())
    dermoscopic = pacs.instances("2.25.1071")[0].sop_class_uid
    report = reported(home, pacs, ask(pacs, [(dermoscopic, "2.25.3071")]))
    assert report["Status"] == "Success"
    report = reported(
        home, pacs, ask(pacs, [(dermoscopic, "2.25.3071"), (dermoscopic, "2.25.999")])
    )
    assert report["Status"] == "Failure"
    assert [each["FailureReason"] for each in report["Failures"]] == [0x0112]
    assert [each["SOPInstanceUID"] for each in report["Success"]] == ["2.25.3071"]
    assert [row.state for row in home.requests()] == [REPORTED, REPORTED]


def test_a_report_waits_for_a_sender_that_is_away_and_outlives_a_restart(
    tmp_path: Path, home: Site, pacs: Orthanc
) -> None:
    path = ask(pacs, [(CLASSES[0], "2.25.12345")])
    pacs.stop()
    try:
        home.reporter.report_next()
        (row,) = home.requests()
        assert (row.state, row.attempts) == (WAITING, 1)
        assert "cannot be reached" in row.reason
        assert not home.reporter.report_next(), "it was tried again without a pause"
    finally:
        pacs.start()
    assert pacs.get_json("/system")["DicomAet"] == "PACS"
    home.clock.advance(3600.0)
    home.reporter.report_next()
    (row,) = home.requests()
    # The PACS has forgotten its request over its restart: it answers, and that is all we need.
    assert row.attempts == 2
    assert path
