"""Two listeners, two sweepers and four workers on one PostgreSQL and one Redis with a password.

A listener and two workers are killed in the middle and stay away: what was acknowledged ends in
exactly one confirmed result set.
"""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from sqlalchemy import Engine, func, select

from gateway.demo.samples import render, sample_set
from gateway.sending.wrap import StudyIdentity, wrap
from gateway.store.engine import reading
from gateway.store.tables import ResultObject, WorkItem
from tests.deployment.cluster import (
    Cluster,
    broken_invariants,
    cluster,
    record_of,
    wait_for_rest,
)
from tests.servers import Orthanc, orthanc, require, wait_until

pytestmark = pytest.mark.timeout(400)

STUDIES = 4
IMAGES = 2
SEND_S = 120.0


def draw(folder: Path) -> list[list[Path]]:
    """Studies of two photographs each, every one in a file."""
    folder.mkdir()
    samples = sample_set()
    studies = []
    for number in range(STUDIES):
        identity = StudyIdentity(patient_id=f"CLINIC-{number}")
        paths = []
        for image in range(IMAGES):
            sample = samples[(number + image) % len(samples)]
            picture = folder / f"{number}-{image}.jpg"
            Image.fromarray(render(sample.kind, sample.seed + number)).save(picture)
            paths.append(picture.with_suffix(".dcm"))
            wrap(picture, "dermoscopy", identity=identity).save_as(
                paths[-1], enforce_file_format=True
            )
        studies.append(paths)
    return studies


class Sender(threading.Thread):
    """Sends files one by one until each is acknowledged, going over to the other listener."""

    def __init__(self, paths: list[Path], ports: list[int], acknowledged: set[str]) -> None:
        super().__init__()
        self._paths, self._ports, self._acknowledged = paths, ports, acknowledged

    def run(self) -> None:
        deadline = time.monotonic() + SEND_S
        for path in self._paths:
            uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            while uid not in self._acknowledged and time.monotonic() < deadline:
                command = [
                    "dcmsend",
                    "-aec",
                    "LENTIGO",
                    "127.0.0.1",
                    str(self._ports[0]),
                    str(path),
                ]
                done = subprocess.run(command, capture_output=True, timeout=60, check=False)
                if done.returncode == 0:
                    self._acknowledged.add(uid)
                else:
                    self._ports.reverse()  # as a modality with a second node does


def start_services(clinic: Cluster) -> None:
    for number in range(4):
        clinic.start_workers(f"workers-{number}")
    for number in range(2):
        clinic.start_listener(f"listener-{number}")
        clinic.start_sweeper(f"sweeper-{number}")


def _has_started(engine: Engine) -> bool:
    with reading(engine) as connection:
        query = select(func.count()).where(WorkItem.state == "IN PROGRESS")
        return bool(connection.execute(query).scalar_one())


def _in_record(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return sorted(connection.execute(select(ResultObject.sop_instance_uid)).scalars())


def _in_pacs(pacs: Orthanc, studies: list[list[Path]]) -> list[str]:
    uids = [
        pydicom.dcmread(study[0], stop_before_pixels=True).StudyInstanceUID for study in studies
    ]
    return sorted(each.sop_instance_uid for uid in uids for each in pacs.instances(str(uid)))


def test_what_was_acknowledged_is_confirmed_once_though_half_of_the_clinic_dies(
    tmp_path: Path,
) -> None:
    require("Orthanc", "dcmsend", "postgres")
    studies = draw(tmp_path / "studies")
    with (
        orthanc(tmp_path / "pacs", aet="PACS") as pacs,
        cluster(tmp_path / "clinic", f"PACS@127.0.0.1:{pacs.dicom_port}") as clinic,
        record_of(clinic) as engine,
    ):
        start_services(clinic)
        ports = [clinic.ports["listener-0"], clinic.ports["listener-1"]]
        acknowledged: set[str] = set()
        # Each study is split over both: first images to one listener, second ones to the other.
        senders = [
            Sender([study[image] for study in studies], ports[image:] + ports[:image], acknowledged)
            for image in range(IMAGES)
        ]
        for sender in senders:
            sender.start()
        wait_until(lambda: len(acknowledged) >= STUDIES // 2, 60, "instances on their way")
        clinic.kill("listener-0")
        wait_until(lambda: _has_started(engine), 90, "work in progress")
        for name in ("workers-0", "workers-1", "sweeper-0"):
            clinic.kill(name)
        for sender in senders:
            sender.join(SEND_S)
        assert len(acknowledged) == STUDIES * IMAGES
        wait_for_rest(clinic, engine, STUDIES, 240)

        assert broken_invariants(engine, clinic.home, acknowledged) == []
        assert _in_pacs(pacs, studies) == _in_record(engine)
        for name in ("listener", "sweeper", "workers-all"):
            done = clinic.health(name, LENTIGO_LISTENER_PORT=str(ports[1]))
            assert done.returncode == 0, done.stderr
        dead = clinic.health("listener", LENTIGO_LISTENER_PORT=str(ports[0]))
        assert dead.returncode == 1
        assert "does not answer" in dead.stderr
