"""A defect has its few attempts whatever outages came before; on a real record, in one process."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.store.engine import migrate, open_engine
from gateway.store.people.control import Outcome, StudyControl
from gateway.store.tables import Generation, WorkItem
from tests.records import Record, TestClock
from tests.unit.workers.test_execution import World
from workers.errors import ModelUnavailable, StorageUnavailable
from workers.execution import route, work
from workers.failure import classify


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'record.sqlite3'}"
    migrate(url)
    engine = open_engine(url)
    yield World(tmp_path, Record(engine, TestClock()))
    engine.dispose()


def broken(outputs: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("a defect")


def attempt(world: World, work_item_id: int, *, is_away: bool) -> Any:
    """Try once, after every pause is over."""
    world.models.error = ModelUnavailable("the model cannot be asked now") if is_away else None
    world.record.clock.advance(60)
    work(world.services, work_item_id)
    return world.item(work_item_id)


def test_a_defect_after_a_long_outage_is_tried_three_times(world: World) -> None:
    work_item_id = world.routed()
    world.models.change = broken
    for _ in range(10):
        item = attempt(world, work_item_id, is_away=True)
    assert (item.attempts, item.failure_kind) == (10, "TRANSIENT")
    for is_away, kind in ((False, "DEFECT"), (True, "TRANSIENT"), (False, "DEFECT")):
        item = attempt(world, work_item_id, is_away=is_away)
        assert (item.state, item.failure_kind) == ("IN PROGRESS", kind)
    item = attempt(world, work_item_id, is_away=False)
    assert (item.state, item.failure_kind) == ("CANCELED", "DEFECT")


def test_a_study_that_is_tried_again_has_all_attempts_again(world: World) -> None:
    work_item_id = world.routed()
    world.models.change = broken
    for _ in range(3):
        item = attempt(world, work_item_id, is_away=False)
    assert item.state == "CANCELED"
    desk = StudyControl(world.record.engine, world.record.clock)
    assert desk.retry(item.study_id, actor="admin") is Outcome.DONE
    for _ in range(2):
        assert attempt(world, work_item_id, is_away=False).state == "IN PROGRESS"
    assert attempt(world, work_item_id, is_away=False).state == "CANCELED"


def test_a_defect_of_routing_after_an_outage_is_tried_three_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation_id = world.received()
    fault: list[Exception] = [StorageUnavailable("the spool cannot be read")]

    def fail(*_: object, **__: object) -> None:
        raise fault[0]

    monkeypatch.setattr("workers.routing.decide", fail)
    for _ in range(8):
        route(world.services, generation_id)
    fault[0] = KeyError("a defect")
    for attempts in (9, 10):
        route(world.services, generation_id)
        (generation,) = world.rows(Generation)
        assert (generation.state, generation.attempts) == ("closed", attempts)
    route(world.services, generation_id)
    (generation,) = world.rows(Generation)
    assert generation.state == "routed"
    assert "unexpected failure" in generation.reason
    assert world.rows(WorkItem) == []
    assert classify(fault[0]).kind.value == "DEFECT"
    assert generation.routed_at - world.record.clock.now < dt.timedelta(seconds=1)
