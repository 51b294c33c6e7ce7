"""One hint from claim to end state, on a real record, with fakes for everything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from gateway.delivery.routes import ObjectState, Outcome, Outgoing, Route
from gateway.errors import RecordUnavailable
from gateway.queue import BrokerUnavailable
from gateway.store.engine import migrate, open_engine
from gateway.store.tables import Delivery, Event, Generation, Instance, ResultObject, WorkItem
from gateway.store.values import Hint, Scheduled
from tests.records import Record, TestClock
from tests.unit.workers.fakes import (
    DIGEST,
    FakeDocuments,
    FakeEmbeddings,
    FakeFiles,
    FakeInstances,
    FakeModels,
    FakePriors,
    FakeQueue,
    undecodable,
)
from workers import analyses, execution
from workers.analysis import load_registry
from workers.errors import ModelUnavailable, StorageUnavailable
from workers.execution import Services, route, work
from workers.settings import WorkerSettings


class Couriers:
    """One destination that answers every object with the same state."""

    def __init__(self) -> None:
        self.state = ObjectState.CONFIRMED
        self.asked: list[Outgoing] = []

    def __call__(self, destination: str) -> Couriers:
        return self

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        self.asked += objects
        return [
            Outcome(id=each.id, state=self.state, reason="as told", confirmed_by="c-find")
            for each in objects
        ]


class World:
    """A record and services around it."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.record = record
        self.queue = FakeQueue()
        self.models = FakeModels()
        self.source = FakeInstances()
        self.couriers = Couriers()
        self.services = Services(
            ledger=record.ledger,
            queue=self.queue,
            registry=load_registry(analyses),
            source=self.source,
            documents=FakeDocuments(),
            priors=lambda attempt: FakePriors(),
            inference=self.models,
            embeddings=FakeEmbeddings(),
            files=FakeFiles(),
            courier_to=self.couriers,
            settings=WorkerSettings(lease_s=30.0, max_backoff_s=10.0),
            results_folder=folder / "results",
            scratch_folder=folder / "run",
            destinations=(Route(name="PACS@127.0.0.1:104"),),
            delivery_max_backoff_s=60.0,
            owner="host:1",
            software_version="9.9.9",
        )

    def received(self, **changes: Any) -> int:
        """Receive a study and close it; return its generation's id."""
        self.record.receive(
            **{
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.77.1.7",
                "sop_instance_uid": "1.2.826.0.1.3680043.10.511.8.1",
                "modality": "DMS",
                **changes,
            }
        )
        self.rename_path("1.dcm")
        return self.record.close()

    def rename_path(self, path: str) -> None:
        """Let the record name the file that the fake spool holds."""
        with self.record.engine.begin() as connection:
            connection.execute(update(Instance).values(path=path))

    def routed(self) -> int:
        """Receive, close and route a study; return its work item's id."""
        route(self.services, self.received())
        return self.queue.hints[-1].id

    def analysed(self) -> int:
        work_item_id = self.routed()
        work(self.services, work_item_id)
        return work_item_id

    def item(self, work_item_id: int) -> Row[Any]:
        with self.record.engine.connect() as connection:
            return connection.execute(select(WorkItem).where(WorkItem.id == work_item_id)).one()

    def rows(self, table: Any) -> list[Row[Any]]:
        with self.record.engine.connect() as connection:
            return list(connection.execute(select(table).order_by(table.id)))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'record.sqlite3'}"
    migrate(url)
    engine = open_engine(url)
    yield World(tmp_path, Record(engine, TestClock()))
    engine.dispose()


class TestRoute:
    def test_schedules_and_announces(self, world: World) -> None:
        work_item_id = world.routed()
        item = world.item(work_item_id)
        assert (item.state, item.step, item.analysis) == ("SCHEDULED", "analyse", "diagnosis")
        assert item.model_digest == DIGEST
        assert world.queue.hints == [
            Hint(kind="analyse", id=work_item_id, analysis="diagnosis", priority=9)
        ]

    def test_second_message_changes_nothing(self, world: World) -> None:
        generation_id = world.received()
        route(world.services, generation_id)
        route(world.services, generation_id)
        assert len(world.rows(WorkItem)) == 1
        assert len(world.queue.hints) == 1

    def test_unknown_generation_is_no_error(self, world: World) -> None:
        route(world.services, 999)
        assert world.queue.hints == []

    def test_study_without_an_analysis_says_why(self, world: World) -> None:
        route(
            world.services,
            world.received(sop_class_uid="1.2.840.10008.5.1.4.1.1.7", modality="OT"),
        )
        (generation,) = world.rows(Generation)
        assert generation.state == "routed"
        assert "no analysis applies" in generation.reason

    def test_model_that_is_away_holds_up_no_routing(self, world: World) -> None:
        world.models.error = ModelUnavailable("the model cannot be asked now")
        work_item_id = world.routed()
        assert world.item(work_item_id).model_digest == ""
        world.models.error = None
        work(world.services, work_item_id)
        item = world.item(work_item_id)
        assert (item.step, item.model_digest) == ("deliver", DIGEST)

    def test_spool_that_is_away_postpones(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object, **__: object) -> None:
            raise StorageUnavailable("the spool cannot be read")

        monkeypatch.setattr(execution, "decide_all", away)
        route(world.services, world.received())
        (generation,) = world.rows(Generation)
        assert (generation.state, generation.attempts) == ("closed", 1)
        assert "cannot be read" in generation.reason
        assert 0 < (generation.next_attempt_at - world.record.clock.now).total_seconds() <= 10

    def test_model_without_real_evidence_is_left_out_and_said(self, world: World) -> None:
        world.models.evidence_level = "simulated"
        route(world.services, world.received())
        assert world.rows(WorkItem) == []
        (generation,) = world.rows(Generation)
        assert "demonstration models are not switched on" in generation.reason
        (event,) = [each for each in world.rows(Event) if each.action == "analysis.left_out"]
        assert event.detail["analysis"] == "diagnosis"

    def test_model_without_real_evidence_runs_where_it_is_switched_on(self, world: World) -> None:
        world.models.evidence_level = "simulated"
        world.services = replace(
            world.services,
            settings=world.services.settings.model_copy(update={"demonstration_models": True}),
        )
        assert world.item(world.routed()).model_digest == DIGEST

    def test_broker_that_is_away_loses_nothing(self, world: World) -> None:
        def away(hint: Hint) -> None:
            raise BrokerUnavailable("away")

        world.queue.announce = away  # type: ignore[method-assign]
        route(world.services, world.received())
        world.record.clock.advance(11)
        assert [hint.kind for hint in world.record.ledger.due_hints(10.0)] == ["analyse"]


class TestAnalyse:
    def test_leaves_results_and_announces_the_delivery(self, world: World) -> None:
        work_item_id = world.analysed()
        item = world.item(work_item_id)
        assert (item.step, item.outcome, item.lease_token) == ("deliver", "assessed", None)
        assert item.summary["label"] == "MEL"
        roles = [each.role for each in world.rows(ResultObject)]
        assert roles == ["sr", "seg-1", "overview-1", "pdf-1"]
        assert {each.destination for each in world.rows(Delivery)} == {"PACS@127.0.0.1:104"}
        assert world.queue.hints[-1] == Hint(kind="deliver", id=work_item_id, analysis="diagnosis")

    def test_work_that_somebody_holds_is_left_alone(self, world: World) -> None:
        work_item_id = world.routed()
        world.record.claim(work_item_id)
        work(world.services, work_item_id)
        assert world.models.batches == []
        assert world.item(work_item_id).attempts == 1

    def test_model_server_that_is_away_is_waited_for(self, world: World) -> None:
        work_item_id = world.routed()
        world.models.error = ModelUnavailable("the model cannot be asked now")
        for attempt in range(1, 30):
            work(world.services, work_item_id)
            item = world.item(work_item_id)
            assert (item.state, item.failure_kind) == ("IN PROGRESS", "TRANSIENT")
            assert item.attempts == attempt
            pause = (item.next_attempt_at - world.record.clock.now).total_seconds()
            assert 0 < pause <= 10
            world.record.clock.advance(pause)
        world.models.error = None
        work(world.services, work_item_id)
        assert world.item(work_item_id).outcome == "assessed"

    def test_input_that_cannot_be_analysed_is_rejected_at_once(self, world: World) -> None:
        world.source._content["1.dcm"] = undecodable()
        work_item_id = world.analysed()
        item = world.item(work_item_id)
        assert (item.state, item.failure_kind) == ("CANCELED", "REJECTED")
        assert "ends early" in item.reason

    def test_defect_is_tried_three_times_and_quotes_nothing(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        work_item_id = world.routed()

        def broken(outputs: dict[str, Any]) -> dict[str, Any]:
            raise KeyError("Canary^Patient")

        world.models.change = broken
        with caplog.at_level(logging.INFO):
            for attempt in range(1, 4):
                work(world.services, work_item_id)
                item = world.item(work_item_id)
                assert item.attempts == attempt
                world.record.clock.advance(60)
        assert (item.state, item.failure_kind) == ("CANCELED", "DEFECT")
        assert "canary" not in item.reason.lower()
        assert not any("canary" in each.getMessage().lower() for each in caplog.records)
        assert any(event.level == "alarm" for event in world.rows(Event))

    def test_model_replaced_since_the_routing_is_used_and_noted(self, world: World) -> None:
        work_item_id = world.routed()
        world.models.digests = ["cd" * 32]
        work(world.services, work_item_id)
        assert world.item(work_item_id).model_digest == "cd" * 32
        assert world.item(work_item_id).outcome == "assessed"
        assert "work_item.model_changed" in [event.action for event in world.rows(Event)]
        assert "/g01-diagnosis-cdcdcdcd-" in world.rows(ResultObject)[0].path

    def test_model_replaced_by_one_that_has_its_own_work_item_is_canceled(
        self, world: World
    ) -> None:
        old, new = world.record.ledger.record_routing(
            world.received(),
            [
                Scheduled(analysis="diagnosis", model_digest=digest, reason="both")
                for digest in (DIGEST, "cd" * 32)
            ],
            "",
        )
        world.models.digests = ["cd" * 32]
        work(world.services, old)
        assert (world.item(old).state, world.item(old).failure_kind) == ("CANCELED", "REJECTED")
        assert world.rows(ResultObject) == []
        work(world.services, new)
        assert world.item(new).outcome == "assessed"

    def test_model_replaced_during_the_analysis_starts_it_again(self, world: World) -> None:
        work_item_id = world.routed()
        world.models.digests = [DIGEST, DIGEST, "cd" * 32]
        work(world.services, work_item_id)
        assert world.item(work_item_id).failure_kind == "TRANSIENT"
        assert world.rows(ResultObject) == []
        world.record.clock.advance(10)
        work(world.services, work_item_id)
        assert world.item(work_item_id).model_digest == "cd" * 32
        assert len(world.rows(ResultObject)) == 4

    def test_lost_lease_writes_nothing(self, world: World) -> None:
        work_item_id = world.routed()

        def stolen(outputs: dict[str, Any]) -> dict[str, Any]:
            world.record.clock.advance(31)
            world.record.claim(work_item_id, owner="worker-2")
            return outputs

        world.models.change = stolen
        work(world.services, work_item_id)
        item = world.item(work_item_id)
        assert (item.lease_owner, item.step) == ("worker-2", "analyse")
        assert world.rows(ResultObject) == []

    def test_short_outage_of_the_record_is_waited_out(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution.time, "sleep", lambda _: None)
        answers = iter([True, True, False])
        save = world.record.ledger.save_results

        def unreliable(*args: Any, **kwargs: Any) -> None:
            if next(answers):
                raise RecordUnavailable("away")
            save(*args, **kwargs)

        monkeypatch.setattr(world.record.ledger, "save_results", unreliable)
        work_item_id = world.analysed()
        assert world.item(work_item_id).outcome == "assessed"

    def test_record_that_stays_away_ends_the_task_without_an_error(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*args: Any, **kwargs: Any) -> None:
            raise RecordUnavailable("away")

        monkeypatch.setattr(world.record.ledger, "claim", away)
        work(world.services, 1)
        monkeypatch.setattr(world.record.ledger, "load_generation", away)
        monkeypatch.setattr(execution.time, "monotonic", iter(range(0, 10**6, 20)).__next__)
        monkeypatch.setattr(world.record.ledger, "postpone_routing", away)
        route(world.services, 1)


class TestDeliver:
    def test_confirmed_results_complete_the_work_item(self, world: World) -> None:
        work_item_id = world.analysed()
        work(world.services, work_item_id)
        item = world.item(work_item_id)
        assert (item.state, item.reason) == ("COMPLETED", "")
        assert {each.state for each in world.rows(Delivery)} == {"CONFIRMED"}

    def test_destination_that_is_away_is_asked_for_ever(self, world: World) -> None:
        work_item_id = world.analysed()
        world.couriers.state = ObjectState.PENDING
        for _ in range(40):
            work(world.services, work_item_id)
            item = world.item(work_item_id)
            assert item.state == "IN PROGRESS"
            pause = (item.next_attempt_at - world.record.clock.now).total_seconds()
            assert 0 < pause <= 60
            world.record.clock.advance(pause)
        world.couriers.state = ObjectState.CONFIRMED
        work(world.services, work_item_id)
        assert world.item(work_item_id).state == "COMPLETED"

    def test_everything_refused_fails_the_work_item(self, world: World) -> None:
        work_item_id = world.analysed()
        world.couriers.state = ObjectState.REFUSED
        work(world.services, work_item_id)
        item = world.item(work_item_id)
        assert (item.state, item.failure_kind) == ("CANCELED", "REJECTED")
        assert "as told" in item.reason

    def test_message_for_a_step_that_is_done_does_the_next_one(self, world: World) -> None:
        work_item_id = world.analysed()
        work(world.services, work_item_id)
        work(world.services, work_item_id)
        assert len(world.couriers.asked) == 4


def test_every_line_is_tied_to_the_work_item(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        world.analysed()
    assert any(getattr(r, "action", "") == "work_item.analyse.ended" for r in caplog.records)
