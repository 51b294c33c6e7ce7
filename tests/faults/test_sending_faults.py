"""Senders that repeat, re-order, hang up and come late; clocks that jump; two sweepers at once."""

import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pydicom.encaps
import pytest

from tests.faults.site import Site, series_of
from tests.lentigo import ROOT
from tests.servers import require, wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]


def test_duplicates_and_re_ordered_sends_make_one_study(healthy: Site) -> None:
    """Six senders at once, each with the whole study in an order of its own, one after a kill."""
    paths = series_of(healthy, 4)
    healthy.arm("intake.commit=kill@5")

    def send_in_some_order(seed: int) -> None:
        order = random.Random(seed).sample(paths, len(paths))
        wait_until(lambda: healthy.send_once(order), 90, "an acknowledgement", interval_s=0.3)

    with ThreadPoolExecutor(6) as senders:
        list(senders.map(send_in_some_order, range(6)))
    healthy.wait_for(paths[:1])
    wait_until(
        lambda: all(
            item["state"] == "COMPLETED" for item in healthy.study_of(paths[0])["work_items"]
        ),
        60,
        "all generations",
    )
    healthy.verify()
    study = healthy.study_of(paths[0])
    # A resend after the study had closed is no late instance: nothing new came with it.
    assert len(study["work_items"]) == study["work_items"][-1]["generation"]
    again = len(study["work_items"])
    healthy.send(paths)
    time.sleep(2)
    assert len(healthy.study_of(paths[0])["work_items"]) == again


def test_a_late_instance_opens_a_generation_of_its_own(healthy: Site) -> None:
    paths = series_of(healthy, 2)
    healthy.send(paths[:1])
    healthy.wait_for(paths[:1])
    healthy.send(paths[1:])
    wait_until(lambda: len(healthy.study_of(paths[0])["work_items"]) == 2, 60, "generation 2")
    wait_until(
        lambda: (
            [item["state"] for item in healthy.study_of(paths[0])["work_items"]]
            == ["COMPLETED", "COMPLETED"]
        ),
        60,
        "both generations",
    )
    healthy.verify()


def test_the_same_uid_with_other_bytes_is_kept_apart(healthy: Site) -> None:
    (path,) = healthy.make()
    healthy.send([path])
    healthy.wait_for([path])
    other = path.with_name("other.dcm")
    ds = pydicom.dcmread(path)
    ds.InstanceNumber = 99
    ds.save_as(other, enforce_file_format=True)
    healthy.send([other])
    healthy.verify()
    assert len(healthy.study_of(path)["work_items"]) == 1


def test_one_bad_instance_holds_up_no_sibling(healthy: Site) -> None:
    """One image of four cannot be decoded: the report says so, and the others are assessed."""
    paths = series_of(healthy, 4)
    ds = pydicom.dcmread(paths[2])
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no JPEG at all \xff\xd9"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(paths[2], enforce_file_format=True)
    healthy.send(paths)
    healthy.check(paths[:1], "one image that cannot be decoded")


def test_a_poisonous_study_is_given_up_with_a_reason(healthy: Site) -> None:
    """Whoever takes it dies: after a few it is set aside, and its neighbours never wait for it."""
    poison, neighbour = healthy.make(), healthy.make()
    healthy.arm("worker.input_read=kill@1+")
    healthy.send(poison)
    healthy.wait_for(poison, "failed", timeout_s=150)
    assert "died" in healthy.study_of(poison[0])["reason"]
    healthy.disarm()
    healthy.send(neighbour)
    healthy.check(neighbour, "the neighbour of a poisonous study")


def test_senders_that_hang_up_leave_nothing_behind(healthy: Site) -> None:
    (path,) = healthy.make()
    for cut in (1, 60, 300, 5000):
        with socket.create_connection(("127.0.0.1", healthy.port), timeout=10) as connection:
            connection.sendall(path.read_bytes()[:cut])
    for _ in range(3):
        process = subprocess.Popen(
            ["storescu", "-R", "-xy", "-aec", "LENTIGO", "127.0.0.1", str(healthy.port), path]
        )
        process.kill()
        process.wait(10)
    healthy.send([path])
    healthy.check([path], "senders that hung up")
    incoming = healthy.store.spool_folder / "incoming"
    wait_until(lambda: not list(incoming.iterdir()), 90, "an empty incoming folder")


def test_two_sweepers_at_once_do_the_work_once(healthy: Site) -> None:
    """A second sweeper on the same record: every study is closed and routed once."""
    environment = healthy.lentigo.service_environment()
    second = subprocess.Popen(
        [sys.executable, "-m", "gateway", "sweep"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        paths = healthy.make(5)
        healthy.send(paths)
        healthy.check(paths, "two sweepers at once")
    finally:
        second.terminate()
        second.wait(30)


@pytest.mark.parametrize("offset", ["+1d", "-1d"])
def test_a_clock_that_jumps_stops_nothing(healthy: Site, offset: str) -> None:
    """All services on a clock that is a day off, then on the right one again.

    What was written with the wrong clock (times of a next attempt, ends of leases and of quiet
    windows) must not make a study wait for a day.
    """
    require("faketime")
    before = healthy.make(2)
    healthy.send(before)
    healthy.lentigo.stop()
    assert healthy.triton is not None
    healthy.triton.fault = "unavailable"
    healthy.lentigo.start(clock=offset)
    during = healthy.make(2)
    healthy.send(during)
    wait_until(lambda: healthy.study_of(during[0]).get("reason"), 60, "a study that waits")
    healthy.lentigo.kill_all()
    healthy.triton.heal()
    healthy.lentigo.start()
    after = healthy.make()
    healthy.send(after)
    healthy.check([*before, *during, *after], f"a clock that was {offset}")


@pytest.mark.timeout(600)
def test_a_clock_that_is_set_while_everything_runs(healthy: Site, tmp_path: Path) -> None:
    """Two hours forward, back, further back and right again, with work at every step."""
    require("faketime")
    assert healthy.triton is not None
    said = tmp_path / "clock"

    def set_clock(offset: str) -> None:
        (tmp_path / "part").write_text(offset + "\n")
        (tmp_path / "part").rename(said)

    set_clock("+0")
    healthy.lentigo.stop()
    healthy.lentigo.start(clock=f"@{said}")
    healthy.triton.fault = "unavailable"
    sent = []
    for offset in ("+2h", "+0", "-2h", "+0"):
        waiting = healthy.make()
        healthy.send(waiting)
        wait_until(lambda: healthy.study_of(waiting[0]).get("reason"), 60, "a study that waits")  # noqa: B023
        sent += waiting
        if offset != "+0":
            arriving = healthy.make()  # still in its quiet window when the clock jumps
            healthy.send(arriving)
            sent += arriving
        set_clock(offset)
    healthy.triton.heal()
    after = healthy.make()
    healthy.send(after)
    # Without the limit of a recovery: every look at a clock that is faked costs time of its own.
    healthy.wait_for([*sent, *after], timeout_s=240.0)
    healthy.verify()
    healthy.lentigo.stop()
