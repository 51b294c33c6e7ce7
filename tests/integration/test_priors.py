"""Earlier images fetched from a real PACS (Orthanc), by C-FIND and C-MOVE and by DICOMweb."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import select

from gateway.delivery.routes import Destination
from gateway.dicom.part10 import inspect
from gateway.host.embedded import free_port
from gateway.listener.filing import InstanceFiler
from gateway.listener.ports import AssociationInfo
from gateway.listener.server import Listener
from gateway.settings import CompletenessSettings, ListenerSettings, PriorSettings
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine
from gateway.store.intake.lesions import LesionIndex
from gateway.store.intake.receiving import Intake
from gateway.store.tables import Generation, Instance, Study
from gateway.store.values import InstanceRow
from gateway.store.work.routing import load_generation
from tests.servers import orthanc, wait_until
from tests.servers.dcmqrscp import QueryRetrieveScp, dcmqrscp
from tests.servers.orthanc import Orthanc
from tests.unit.workers.instance_builder import instance, picture
from workers.adapters.priors import Archive, RecordPriors
from workers.adapters.priors_dicomweb import DicomwebArchive
from workers.adapters.priors_dimse import DimseArchive
from workers.errors import PriorsUnavailable

LESION, OTHER_LESION = "2.25.4711", "2.25.4712"
AE_TITLE = "LENTIGO"
TIMEOUT_S = 10.0


def photograph(number: int, date: str, **changes: Any) -> bytes:
    """One dermoscopic image of a study of its own."""
    values: dict[str, Any] = {
        "StudyInstanceUID": f"2.25.10{number}",
        "SeriesInstanceUID": f"2.25.20{number}",
        "SOPInstanceUID": f"2.25.30{number}",
        "PatientID": "P-1",
        "PatientBirthDate": "19700101",
        "StudyDate": date,
        "StudyTime": "100000",
        "AcquisitionDateTime": f"{date}100000",
        "TrackingUID": LESION,
        "TrackingID": "Lesion 7",
        **changes,
    }
    buffer = io.BytesIO()
    ds = instance(picture(seed=number), **values)
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass(kw_only=True)
class Peer:
    """Our listener, as the PACS knows it."""

    ae_title: str
    host: str
    port: int


class Home:
    """Record, spool and listener of one installation; its workers are the tests."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'record.sqlite3'}"
        migrate(url)
        self.engine = open_engine(url)
        self.intake = Intake(self.engine, CompletenessSettings(quiet_window_s=0.01))
        self.spool = Spool(folder / "spool")
        self.listener = Listener(
            ListenerSettings(ae_title=AE_TITLE, port=0, reserve_bytes=0), self.intake, self.spool
        )
        self.listener.start()
        self.index = LesionIndex(self.engine)

    def receive(self, content: bytes) -> tuple[int, InstanceRow]:
        """File one image as the listener does; return its study's id and its row."""
        incoming = self.spool.begin()
        incoming.write(content)
        stored = self.spool.keep(incoming)
        header = inspect(self.spool.path_of(stored.relative_path))
        association = AssociationInfo(
            association_id="0" * 32, calling_ae_title="C", called_ae_title="L", peer_address="::1"
        )
        self.intake.register_instance(header=header, stored=stored, association=association)
        with self.engine.connect() as connection:
            study = connection.execute(
                select(Study.id).where(Study.study_instance_uid == header.study_instance_uid)
            ).scalar_one()
            generation = connection.execute(
                select(Generation.id).where(Generation.study_id == study)
            ).scalar_one()
            return study, load_generation(connection, generation).instances[0]

    def dispositions(self) -> dict[str, str]:
        """What became of each instance, by the number in its UID."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(Instance.sop_instance_uid, Instance.disposition))
            return {uid.removeprefix("2.25.30"): how for uid, how in rows}

    @property
    def peer(self) -> Peer:
        """Our listener."""
        return Peer(ae_title=AE_TITLE, host="127.0.0.1", port=self.listener.port)

    def archive(self, kind: str, pacs: Orthanc | QueryRetrieveScp, **changes: Any) -> Archive:
        settings: dict[str, Any] = {"timeout_s": TIMEOUT_S, **changes}
        if kind == "dicomweb":
            assert isinstance(pacs, Orthanc)
            filer = InstanceFiler(self.intake, self.spool)
            url = {"dicomweb_url": pacs.dicomweb_url}
            return DicomwebArchive(PriorSettings(**(url | settings)), filer, self.spool)
        destination = Destination(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port)
        return DimseArchive(
            destination,
            AE_TITLE,
            PriorSettings(retrieve="get" if kind == "get" else "move", **settings),
            filer=InstanceFiler(self.intake, self.spool),
            spool=self.spool,
        )

    def priors(self, archive: Archive | None, *, is_last_attempt: bool = True) -> RecordPriors:
        return RecordPriors(self.index, archive, is_last_attempt=is_last_attempt)

    def close(self) -> None:
        self.listener.stop(1.0)
        self.engine.dispose()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("pacs")) as running:
        running.store(photograph(1, "20240101"))
        running.store(photograph(2, "20240601"))
        running.store(photograph(3, "20240601", TrackingUID=OTHER_LESION, TrackingID="Lesion 8"))
        running.store(photograph(4, "20240601", PatientID="P-10"))
        running.store(photograph(5, "20990101"))
        report = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}
        running.store(photograph(6, "20240601", **report))
        yield running


@pytest.fixture
def home(tmp_path: Path, pacs: Orthanc) -> Iterator[Home]:
    made = Home(tmp_path)
    pacs.register("lentigo", made.peer)
    yield made
    made.close()


@pytest.fixture
def now(home: Home) -> tuple[int, InstanceRow]:
    return home.receive(photograph(9, "20250101"))


def uids(home: Home, archive: Archive | None, now: tuple[int, InstanceRow]) -> list[str]:
    found = home.priors(archive).earlier(now[0], [now[1]], lambda: None)
    assert found.unknown == ""
    return [each.instance.sop_instance_uid for each in found.of[now[1].sop_instance_uid]]


@pytest.mark.parametrize("kind", ["dimse", "get", "dicomweb"])
def test_earlier_images_of_the_lesion_are_fetched_kept_and_not_analysed(
    kind: str, pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    archive = home.archive(kind, pacs)
    assert uids(home, archive, now) == ["2.25.302", "2.25.301"]
    kept = home.dispositions()
    assert kept["1"] == kept["2"] == "prior"
    assert kept["9"] == "accepted"
    assert not {"4", "5", "6"} & set(kept)  # another patient, later, no photograph
    with home.engine.connect() as connection:
        assert len(connection.execute(select(Generation)).all()) == 1


@pytest.mark.parametrize("kind", ["dimse", "get"])
def test_earlier_images_come_from_dcmqrscp_too(kind: str, tmp_path: Path) -> None:
    # dcmtk 3.6.7 knows no Dermoscopic Photography; clinical photographs serve as well.
    clinical = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4", "Modality": "XC"}
    home = Home(tmp_path)
    try:
        with dcmqrscp(tmp_path / "pacs", peers=[home.peer]) as pacs:
            files = []
            for number, date in ((1, "20240101"), (2, "20240601"), (5, "20990101")):
                files.append(tmp_path / f"{number}.dcm")
                files[-1].write_bytes(photograph(number, date, **clinical))
            subprocess.run(
                ["storescu", "-R", "-aec", pacs.ae_title, pacs.host, str(pacs.port), *files],
                check=True, timeout=60,
            )  # fmt: skip
            now = home.receive(photograph(9, "20250101"))
            assert uids(home, home.archive(kind, pacs), now) == ["2.25.302", "2.25.301"]
            kept = home.dispositions()
            assert (kept["1"], kept["2"], "5" in kept) == ("prior", "prior", False)
    finally:
        home.close()


@pytest.mark.parametrize("kind", ["dimse", "get", "dicomweb"])
def test_pacs_is_not_asked_for_what_the_record_holds(
    kind: str, pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    home.receive(photograph(8, "20241201"))
    assert uids(home, home.archive(kind, pacs), now) == ["2.25.308"]
    assert set(home.dispositions()) == {"8", "9"}


def test_only_the_newest_are_fetched(
    pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    archive = home.archive("dicomweb", pacs, max_instances=1)
    assert uids(home, archive, now) == ["2.25.302"]


@pytest.mark.parametrize("kind", ["dimse", "dicomweb"])
def test_patient_identifiers_with_wildcards_find_nobody_else(
    kind: str, pacs: Orthanc, home: Home
) -> None:
    study = home.receive(photograph(9, "20250101", PatientID="P-*"))
    assert uids(home, home.archive(kind, pacs), study) == []
    assert set(home.dispositions()) == {"9"}


@pytest.mark.parametrize("kind", ["dimse", "get", "dicomweb"])
def test_fetched_image_that_the_pacs_sends_later_is_analysed(
    kind: str, pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    assert uids(home, home.archive(kind, pacs), now)
    pacs.send_study("2.25.102", "lentigo")
    assert home.dispositions()["2"] == "accepted"
    wait_until(home.intake.close_due_generations, 5.0, "the study closes")


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["dimse", "dicomweb"])
def test_pacs_that_is_down_is_asked_again_and_then_reported(
    kind: str, pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    port = free_port()
    archive: Archive = DimseArchive(
        Destination(ae_title="PACS", host="127.0.0.1", port=port),
        AE_TITLE,
        PriorSettings(timeout_s=2.0),
    )
    if kind == "dicomweb":
        archive = home.archive(kind, pacs, dicomweb_url=f"http://127.0.0.1:{port}/dicom-web")
    with pytest.raises(PriorsUnavailable, match="cannot be reached"):
        home.priors(archive, is_last_attempt=False).earlier(now[0], [now[1]], lambda: None)
    found = home.priors(archive).earlier(now[0], [now[1]], lambda: None)
    assert "cannot be reached" in found.unknown
    assert found.of[now[1].sop_instance_uid] == ()


def test_pacs_that_does_not_know_us_says_so(
    pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    destination = Destination(ae_title=pacs.ae_title, host=pacs.host, port=pacs.port)
    archive = DimseArchive(destination, "STRANGER", PriorSettings(timeout_s=TIMEOUT_S))
    with pytest.raises(PriorsUnavailable):
        home.priors(archive, is_last_attempt=False).earlier(now[0], [now[1]], lambda: None)


def test_wrong_path_of_the_dicomweb_service_is_reported(
    pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    archive = home.archive("dicomweb", pacs, dicomweb_url=f"{pacs.url}/nothing-here")
    with pytest.raises(PriorsUnavailable, match="HTTP status 404"):
        home.priors(archive, is_last_attempt=False).earlier(now[0], [now[1]], lambda: None)


class Door(BaseHTTPRequestHandler):
    """A DICOMweb service with nothing behind its door; remembers who knocked."""

    knocked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.knocked.append(given)
        self.send_response(200 if given else 401)
        self.send_header("Content-Type", "application/dicom+json")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def door() -> Iterator[str]:
    Door.knocked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        server.shutdown()


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (
            {"dicomweb_username": "lentigo", "dicomweb_password": "secret"},
            "Basic bGVudGlnbzpzZWNyZXQ=",
        ),
        ({"dicomweb_token": "abc", "dicomweb_username": "lentigo"}, "Bearer abc"),
    ],
)
def test_credentials_open_the_dicomweb_service(
    credentials: dict[str, str],
    expected: str,
    door: str,
    pacs: Orthanc,
    home: Home,
    now: tuple[int, InstanceRow],
) -> None:
    archive = home.archive("dicomweb", pacs, dicomweb_url=door, **credentials)
    assert uids(home, archive, now) == []
    assert Door.knocked == [expected]


def test_missing_credentials_are_named(
    door: str, pacs: Orthanc, home: Home, now: tuple[int, InstanceRow]
) -> None:
    archive = home.archive("dicomweb", pacs, dicomweb_url=door)
    found = home.priors(archive).earlier(now[0], [now[1]], lambda: None)
    assert "HTTP status 401" in found.unknown


def test_identifiers_stay_out_of_the_logs(
    pacs: Orthanc,
    home: Home,
    now: tuple[int, InstanceRow],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        for kind in ("dimse", "dicomweb"):
            uids(home, home.archive(kind, pacs), now)
    assert "P-1" not in caplog.text
    assert "2.25.10" not in caplog.text
