"""The test servers themselves: what the other tests rely on."""

import os
import signal
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from sqlalchemy import create_engine, text

from tests.servers import (
    Orthanc,
    ServerProcess,
    find_program,
    free_port,
    orthanc,
    postgres,
    postgres_server,
    require,
    storescp,
    wait_until,
)

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A storage SCP that remembers the SOP Instance UIDs it got."""

    ae_title: str
    host: str
    port: int
    received: list[str]


@pytest.fixture
def receiver():
    received = []
    arrived = threading.Lock()

    def on_store(event):
        with arrived:
            received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    ae = AE("LENTIGO")
    for uid in (DERMOSCOPY, SECONDARY_CAPTURE, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(uid, ExplicitVRLittleEndian)
    ae.add_supported_context("1.2.840.10008.1.1")
    port = free_port()
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    yield Receiver(ae_title="LENTIGO", host="127.0.0.1", port=port, received=received)
    server.shutdown()


def picture(folder: Path, *, sop_class: str = DERMOSCOPY, study: str = "") -> Dataset:
    """Write a small synthetic colour image and return its Dataset."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "TEST", "Test^Picture", "DMS"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = 8, 8, 3
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PlanarConfiguration = 7, 0, 0
    ds.PhotometricInterpretation = "RGB"
    ds.PixelData = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
    return ds


def c_store(pacs: Orthanc, *datasets: Dataset, calling: str = "MODALITY") -> None:
    ae = AE(calling)
    for uid in {ds.SOPClassUID for ds in datasets}:
        ae.add_requested_context(uid, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", pacs.dicom_port, ae_title=pacs.aet)
    assert assoc.is_established
    statuses = [assoc.send_c_store(ds).Status for ds in datasets]
    assoc.release()
    assert statuses == [0] * len(datasets)


def echo(port: int, called: str) -> int:
    command = ["echoscu", "-aec", called, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def listening_addresses(port: int) -> set[str]:
    """Local addresses (hexadecimal, as the kernel prints them) that listen on a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, hexadecimal = local.split(":")
            if state == "0A" and int(hexadecimal, 16) == port:
                found.add(address)
    return found


def test_orthanc_answers_c_echo_under_its_ae_title_only(tmp_path):
    require("Orthanc", "echoscu")
    with orthanc(tmp_path / "pacs", aet="PACS") as pacs:
        assert echo(pacs.dicom_port, "PACS") == 0
        assert echo(pacs.dicom_port, "OTHER") != 0


def test_orthanc_holds_what_is_stored_by_either_way(tmp_path):
    with orthanc(tmp_path / "pacs") as pacs:
        assert pacs.studies() == []
        one, two = picture(tmp_path), picture(tmp_path)
        c_store(pacs, one)
        pacs.store(tmp_path / f"{two.SOPInstanceUID}.dcm")
        assert pacs.studies() == sorted([one.StudyInstanceUID, two.StudyInstanceUID])
        (stored,) = pacs.instances(one.StudyInstanceUID)
        assert (stored.sop_instance_uid, stored.sop_class_uid, stored.modality) == (
            one.SOPInstanceUID,
            DERMOSCOPY,
            "DMS",
        )
        (back,) = pacs.study_datasets(two.StudyInstanceUID)
        assert back.PixelData == two.PixelData
        found = pacs.get_json(f"/dicom-web/studies?StudyInstanceUID={one.StudyInstanceUID}")
        assert len(found) == 1
        pacs.delete_study(one.StudyInstanceUID)
        assert pacs.studies() == [two.StudyInstanceUID]
        assert pacs.instances(one.StudyInstanceUID) == []


@pytest.mark.parametrize("route_on", ["stable", "stored"])
def test_orthanc_routes_each_picture_once_and_no_result(tmp_path, receiver, route_on):
    with orthanc(tmp_path / "pacs", route_to=receiver, route_on=route_on) as pacs:
        pacs.echo("route")
        one = picture(tmp_path)
        c_store(pacs, one)
        wait_until(lambda: one.SOPInstanceUID in receiver.received, 60, "the first picture")
        # A result comes into the same study, which makes it stable a second time.
        result = picture(tmp_path, sop_class=SECONDARY_CAPTURE, study=one.StudyInstanceUID)
        c_store(pacs, result, calling="LENTIGO")
        last = picture(tmp_path)
        c_store(pacs, last)
        wait_until(lambda: last.SOPInstanceUID in receiver.received, 60, "the last picture")
        assert receiver.received == [one.SOPInstanceUID, last.SOPInstanceUID]


def test_orthanc_that_routes_everything_sends_results_back(tmp_path, receiver):
    with orthanc(tmp_path / "pacs", route_to=receiver, route_all=True) as pacs:
        result = picture(tmp_path, sop_class=SECONDARY_CAPTURE)
        c_store(pacs, result, calling="LENTIGO")
        wait_until(lambda: receiver.received == [result.SOPInstanceUID], 60, "the result back")


def test_orthanc_sends_by_hand_to_a_registered_peer(tmp_path, receiver):
    with orthanc(tmp_path / "pacs") as pacs:
        one = picture(tmp_path)
        c_store(pacs, one)
        pacs.register("lentigo", receiver)
        pacs.send_study(one.StudyInstanceUID, "lentigo")
        assert receiver.received == [one.SOPInstanceUID]
        pacs.restart()
        pacs.send_study(one.StudyInstanceUID, "lentigo")
        assert receiver.received == [one.SOPInstanceUID] * 2


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_orthanc_keeps_its_storage_and_ports_over_a_restart(tmp_path, ending):
    with orthanc(tmp_path / "pacs") as pacs:
        one = picture(tmp_path)
        c_store(pacs, one)
        ports = pacs.dicom_port, pacs.http_port
        getattr(pacs, ending)()
        assert not pacs.is_running
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", pacs.dicom_port), timeout=5)
        pacs.start()
        assert (pacs.dicom_port, pacs.http_port) == ports
        assert pacs.studies() == [one.StudyInstanceUID]


def test_servers_listen_on_loopback_only(tmp_path):
    require("cc", "Orthanc", "storescp")
    with orthanc(tmp_path / "pacs") as pacs, storescp(tmp_path / "scp") as scp:
        for port in (pacs.dicom_port, pacs.http_port, scp.port):
            addresses = listening_addresses(port)
            assert addresses
            assert addresses <= {"0100007F", "00000000000000000000000001000000"}


def test_storescp_writes_what_it_gets(tmp_path):
    require("storescp", "dcmsend")
    ds = picture(tmp_path)
    path = tmp_path / f"{ds.SOPInstanceUID}.dcm"
    with storescp(tmp_path / "scp", aet="PEER") as scp:
        command = ["dcmsend", "-aec", scp.ae_title, scp.host, str(scp.port), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        (received,) = wait_until(scp.files, 30, "the file")
        assert ds.PixelData in received.read_bytes()
        assert scp.process.is_running
    assert not scp.process.is_running


def test_postgres_answers_and_keeps_its_rows_over_a_restart(tmp_path):
    with postgres_server(tmp_path / "pg") as server:
        engine = create_engine(server.url)
        with engine.begin() as connection:
            assert connection.execute(text("SHOW server_encoding")).scalar() == "UTF8"
            connection.execute(text("CREATE TABLE study (uid TEXT)"))
            connection.execute(text("INSERT INTO study VALUES ('1.2.3')"))
        engine.dispose()
        server.stop()
        server.start()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT uid FROM study")).scalars().all() == ["1.2.3"]
        engine.dispose()


def test_two_postgres_servers_live_side_by_side(tmp_path):
    with postgres(tmp_path / "one") as one, postgres(tmp_path / "two") as two:
        assert one != two
        for url in (one, two):
            engine = create_engine(url)
            with engine.connect() as connection:
                assert connection.execute(text("SELECT 1")).scalar() == 1
            engine.dispose()


def test_server_that_ends_at_once_shows_its_log(tmp_path):
    server = ServerProcess("teller", tmp_path / "log")
    with pytest.raises(AssertionError, match="ended at once, status 3") as caught:
        server.start(["/bin/sh", "-c", "echo the disk is on fire; exit 3"], lambda: False)
    assert "the disk is on fire" in caught.value.__notes__[0]
    assert not server.is_running


def test_server_that_ignores_the_signal_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.servers.process._STOP_S", 0.3)
    script = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 0.1; done"
    server = ServerProcess("stubborn", tmp_path / "log")
    server.start(["/bin/sh", "-c", script], lambda: server.log().strip() != "")
    child = int(server.log())
    server.end(signal.SIGTERM)
    wait_until(lambda: not _lives(child), 10, "the child's end")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_require_skips_with_the_package_to_install(monkeypatch):
    monkeypatch.setenv("REQUIRE_SERVICES", "0")
    monkeypatch.setattr("tests.servers.process.find_program", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=r"dciodvfy, dcmsend .*dicom3tools dcmtk"):
        require("dciodvfy", "dcmsend")


def test_require_fails_where_services_are_required(monkeypatch):
    monkeypatch.setenv("REQUIRE_SERVICES", "1")
    monkeypatch.setattr("tests.servers.process.find_program", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="chromium"):
        require("chromium")


def test_require_is_content_with_what_is_there(monkeypatch):
    monkeypatch.setenv("REQUIRE_SERVICES", "1")
    require("sh")
    assert find_program("sh") is not None
    assert find_program("no such program") is None


def test_wait_until_returns_the_first_true_answer():
    answers = iter([0, "", "done"])
    assert wait_until(lambda: next(answers), 5, "an answer", interval_s=0) == "done"


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(AssertionError, match=r"the bus: not within 0\.02 s"):
        wait_until(lambda: False, 0.02, "the bus", interval_s=0.001)


def test_free_port_can_be_bound():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
