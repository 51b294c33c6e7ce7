"""The watch of a model that is away, and the leases of workers that died."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.errors import RecordUnavailable
from gateway.settings import StoreSettings
from gateway.store.engine import migrate, open_engine
from tests.records import Record, TestClock
from tests.servers import wait_until
from workers import leftovers
from workers.model_watch import ModelWatch


class Server:
    """A model server, and what was woken."""

    def __init__(self) -> None:
        self.ready: set[str] = set()
        self.asked: list[str] = []
        self.woken: list[str] = []
        self.fault: Exception | None = None

    def is_ready(self, model: str) -> bool:
        self.asked.append(model)
        return model in self.ready

    def wake(self, analysis: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.woken.append(analysis)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def watch(server: Server) -> Iterator[ModelWatch]:
    made = ModelWatch(server.is_ready, server.wake, period_s=0.01)
    yield made
    made.close()


def is_idle() -> bool:
    return not any(each.name == "model-watch" for each in threading.enumerate())


def test_what_waits_is_woken_once_the_model_is_back(server: Server, watch: ModelWatch) -> None:
    for _ in range(3):
        watch.await_model("encoder", "diagnosis")
    watch.await_model("encoder", "prognosis")
    watch.await_model("slides", "slide_classification")
    wait_until(lambda: server.asked.count("slides") > 3, 20, "questions")
    assert server.woken == []
    server.ready.add("encoder")
    wait_until(lambda: len(server.woken) == 2, 20, "a wake")
    assert server.woken == ["diagnosis", "prognosis"]
    server.ready.add("slides")
    wait_until(is_idle, 20, "the end of the thread")
    assert server.woken[2:] == ["slide_classification"]
    server.ready.clear()
    watch.await_model("encoder", "diagnosis")
    wait_until(lambda: server.asked[-1] == "encoder", 20, "another watch")


def test_a_model_that_is_ready_and_fails_is_left_to_the_pauses(
    server: Server, watch: ModelWatch
) -> None:
    server.ready.add("encoder")
    watch.await_model("encoder", "diagnosis")
    wait_until(is_idle, 20, "the end of the thread")
    assert server.woken == []


def test_a_record_that_is_away_ends_no_watch(server: Server, watch: ModelWatch) -> None:
    server.fault = RecordUnavailable("away")
    for name in ("one", "two"):
        watch.await_model(name, name)
    wait_until(lambda: {"one", "two"} <= set(server.asked), 20, "questions")
    server.ready.add("one")
    wait_until(lambda: server.asked[-2:] == ["two", "two"], 20, "one question less")
    server.fault = None
    server.ready.add("two")
    wait_until(lambda: server.woken == ["two"], 20, "a wake")


def test_a_watch_that_is_closed_asks_nothing_more(server: Server, watch: ModelWatch) -> None:
    watch.await_model("encoder", "diagnosis")
    watch.close()
    assert is_idle()
    before = len(server.asked)
    watch.await_model("encoder", "diagnosis")
    assert (is_idle(), len(server.asked)) == (True, before)


# -- leases -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSettings:
    found = StoreSettings(home=tmp_path)
    migrate(found.record_url)
    monkeypatch.setenv(leftovers.SUPERVISED, str(tmp_path))
    monkeypatch.setattr(leftovers.socket, "gethostname", Mock(return_value="here"))
    return found


def held_by(store: StoreSettings, *owners: str) -> tuple[Record, list[int]]:
    record = Record(open_engine(store.record_url), TestClock())
    record.clock.now = record.clock.now.replace(year=2999)  # the leases are long
    items = [record.schedule()[0] for _ in owners]
    for item, owner in zip(items, owners, strict=True):
        record.claim(item, owner=owner, lease_s=600.0)
    return record, items


def test_a_process_that_died_holds_nothing_any_more(store: StoreSettings) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record, items = held_by(store, f"here:{gone.pid}", f"here:{os.getpid()}")
    record.clock.advance(1)
    thread = leftovers.end_leases_of_the_dead(store)
    assert thread is not None
    thread.join()
    assert record.ledger.claim(items[0], owner="new", lease_s=1.0) is not None
    assert record.ledger.claim(items[1], owner="new", lease_s=1.0) is None
    record.engine.dispose()


def test_one_that_ended_and_was_not_waited_for_is_dead() -> None:
    assert leftovers.is_alive(os.getpid())
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    try:
        wait_until(lambda: not leftovers.is_alive(zombie.pid), 20, "the end of a process")
    finally:
        zombie.wait()
    assert not leftovers.is_alive(zombie.pid)


def test_elsewhere_leases_run_out(store: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(leftovers.SUPERVISED)
    assert leftovers.end_leases_of_the_dead(store) is None


def test_a_record_that_is_away_delays_no_start(
    store: StoreSettings, caplog: pytest.LogCaptureFixture
) -> None:
    store.home.joinpath("record.sqlite3").unlink()
    store.home.joinpath("record.sqlite3").mkdir()
    thread = leftovers.end_leases_of_the_dead(store)
    assert thread is not None
    thread.join()
    assert "run out" in caplog.text
