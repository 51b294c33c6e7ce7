"""The path of a work item with real Redis, Triton, Celery, SQLite and DICOM network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.delivery.routes import KINDS
from gateway.demo.samples import Kind, render
from gateway.store.tables import Delivery, Generation, ResultObject, Study, WorkItem
from tests.integration.worker_harness import (
    Redis,
    Site,
    Triton,
    running_redis,
    running_triton,
)
from tests.records import new_uid
from tests.storage_scp import StorageScp
from tests.unit.workers.instance_builder import instance, write

pytestmark = pytest.mark.timeout(600)  # several processes start, on a machine that may be busy

PATIENT_WORDS = ("canary", "canary-id")


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with running_triton(tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Redis]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def pacs() -> Iterator[StorageScp]:
    with StorageScp(sop_classes=tuple(KINDS.values())).serving() as scp:
        yield scp


@pytest.fixture
def site(tmp_path: Path, broker: Redis, triton: Triton, pacs: StorageScp) -> Iterator[Site]:
    made = Site(tmp_path, broker, triton_url=triton.url, send_to=f"PACS@127.0.0.1:{pacs.port}")
    yield made
    made.close()


def photograph(folder: Path, *, study_uid: str = "", seed: int = 1) -> Path:
    """Write a synthetic dermoscopic instance of a new study."""
    ds = instance(
        render(Kind("nevus"), seed),
        SOPInstanceUID=new_uid(),
        StudyInstanceUID=study_uid or new_uid(),
        SeriesInstanceUID=new_uid(),
    )
    return folder / write(folder, ds, f"{ds.SOPInstanceUID}.dcm")


def test_a_study_comes_back_as_confirmed_results(
    tmp_path: Path, site: Site, pacs: StorageScp
) -> None:
    site.worker.start()
    site.receive(photograph(tmp_path))
    site.wait_for_items({"COMPLETED"})
    (item,) = site.rows(WorkItem)
    assert item.outcome == "assessed", item.reason
    assert item.summary["label"]
    assert {each.state for each in site.rows(Delivery)} == {"CONFIRMED"}
    assert {each.confirmed_by for each in site.rows(Delivery)} == {"c-find"}
    roles = [each.role for each in site.rows(ResultObject)]
    assert roles[0] == "sr"
    assert "overview-1" in roles
    assert {ds.SOPInstanceUID for ds in pacs.stored} == {
        each.sop_instance_uid for each in site.rows(ResultObject)
    }
    for each in site.rows(ResultObject):
        kept = dcmread(site.settings.results_folder / each.path)
        assert kept.SOPInstanceUID == each.sop_instance_uid
    (study,) = site.rows(Study)
    assert study.state == "completed"
    said = site.worker.log().lower()
    assert not any(word in said for word in PATIENT_WORDS)
    assert study.study_instance_uid not in said


def test_worker_that_is_killed_leaves_exactly_one_result_set(
    tmp_path: Path, site: Site, pacs: StorageScp
) -> None:
    site.worker.start()
    for seed in range(6):
        site.receive(photograph(tmp_path, seed=seed))
    for _ in range(3):
        site.wait_for(
            lambda: (
                any(item.lease_token for item in site.rows(WorkItem))
                or all(item.state == "COMPLETED" for item in site.rows(WorkItem))
            ),
            "a step in progress",
        )
        site.worker.kill()
        site.worker.start()
    site.wait_for_items({"COMPLETED"}, 6)
    objects = site.rows(ResultObject)
    by_item: dict[int, list[str]] = {}
    for each in objects:
        by_item.setdefault(each.work_item_id, []).append(each.role)
    assert len(by_item) == 6
    assert all(len(roles) == len(set(roles)) for roles in by_item.values())
    # A result may have been sent twice, but never under two identities.
    assert {str(ds.SOPInstanceUID) for ds in pacs.stored} == {
        each.sop_instance_uid for each in objects
    }
    files = [path for path in site.settings.results_folder.rglob("*.dcm") if path.is_file()]
    assert len(files) == len(objects)


def test_worker_survives_the_death_and_the_flushing_of_redis(
    tmp_path: Path, site: Site, broker: Redis
) -> None:
    site.worker.start()
    site.receive(photograph(tmp_path))
    site.wait_for_items({"COMPLETED"}, 1)
    for count in (2, 3):
        broker.kill()
        broker.start()
        site.receive(photograph(tmp_path, seed=count))
        site.wait_for_items({"COMPLETED"}, count)
    broker.client.flushall()
    site.receive(photograph(tmp_path, seed=9))
    site.wait_for_items({"COMPLETED"}, 4)


def test_late_image_gives_a_report_that_supersedes_the_first(tmp_path: Path, site: Site) -> None:
    site.worker.start()
    study_uid = new_uid()
    site.receive(photograph(tmp_path, study_uid=study_uid, seed=1))
    site.wait_for_items({"COMPLETED"}, 1)
    site.receive(photograph(tmp_path, study_uid=study_uid, seed=2))
    site.wait_for_items({"COMPLETED"}, 2)
    assert [each.number for each in site.rows(Generation)] == [1, 2]
    first, second = (each for each in site.rows(ResultObject) if each.role == "sr")
    report = dcmread(site.settings.results_folder / second.path)
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_instance_uid


def test_study_waits_for_a_model_server_that_is_away(
    tmp_path: Path, broker: Redis, pacs: StorageScp
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    server = Triton(folder)
    made = Site(tmp_path, broker, triton_url=server.url)
    try:
        made.worker.start()
        made.receive(photograph(tmp_path))
        made.wait_for(
            lambda: any("cannot be asked" in each.reason for each in made.rows(WorkItem)),
            "a postponed analysis",
        )
        server.start()
        made.wait_for_items({"COMPLETED"})
        assert {each.confirmed_by for each in made.rows(Delivery)} == {"read-back"}
    finally:
        made.close()
        server.stop()


def test_undecodable_study_is_rejected_with_a_reason(tmp_path: Path, site: Site) -> None:
    site.worker.start()
    ds = instance(
        render(Kind("nevus"), 1),
        SOPInstanceUID=new_uid(),
        StudyInstanceUID=new_uid(),
        SeriesInstanceUID=new_uid(),
        PhotometricInterpretation="HSV",
    )
    site.receive(tmp_path / write(tmp_path, ds, "bad.dcm"))
    site.wait_for_items({"CANCELED"})
    (item,) = site.rows(WorkItem)
    assert item.failure_kind == "REJECTED"
    assert "HSV" in item.reason
    assert site.rows(ResultObject) == []


def test_worker_ends_in_order_on_sigterm(tmp_path: Path, site: Site) -> None:
    site.worker.start()
    site.receive(photograph(tmp_path))
    site.wait_for_items({"COMPLETED"})
    assert site.worker.terminate() == 0


def test_pool_processes_that_die_are_replaced(tmp_path: Path, site: Site) -> None:
    site.worker.start()
    site.receive(photograph(tmp_path, seed=1))
    site.wait_for_items({"COMPLETED"}, 1)
    for pid in site.worker.children():
        os.kill(pid, signal.SIGKILL)
    site.receive(photograph(tmp_path, seed=2))
    site.wait_for_items({"COMPLETED"}, 2)
