"""Large results: in flat memory, over lines slower than the time-out, and cut in the middle."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from gateway.delivery.routes import Destination, ObjectState, Outcome, Outgoing
from gateway.delivery.sender import Sender
from gateway.settings import DeliverySettings
from tests.servers import storescp
from tests.servers.proxy import proxy
from tests.storage_scp import SECONDARY_CAPTURE, StorageScp

MIB = 2**20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def large(folder: Path, size: int) -> Outgoing:
    """Write an object whose pixel data are a hole of ``size`` bytes: it takes no room on disk."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.10.511.9.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"
    ds.add_new("PixelData", "OB", b"")
    path = folder / "large.dcm"
    ds.save_as(path, enforce_file_format=True)
    with path.open("r+b") as file:
        end = file.seek(-4, os.SEEK_END) + 4
        file.write(size.to_bytes(4, "little"))
        file.truncate(end + size)
    return Outgoing(
        id=1,
        path=path,
        study_instance_uid=ds.StudyInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sha256="",
    )


def deliver(port: int, each: Outgoing, timeout_s: float = 30.0) -> Outcome:
    settings = DeliverySettings(timeout_s=timeout_s)
    (outcome,) = Sender(Destination.parse(f"PACS@127.0.0.1:{port}"), settings).deliver([each])
    return outcome


class Resident:
    """Resident memory of this process: when it began, and its peak since."""

    def __init__(self) -> None:
        self.began = self.peak = self.now()

    def now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES

    def look(self) -> None:
        self.peak = max(self.peak, self.now())


@contextmanager
def resident_memory() -> Iterator[Resident]:
    found, stop = Resident(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            found.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def test_an_object_of_hundreds_of_megabytes_is_sent_in_flat_memory(tmp_path: Path) -> None:
    """To dcmtk, which gets every byte; a process that reads the file would hold it three times."""
    each = large(tmp_path, 128 * MIB)
    with storescp(tmp_path / "scp", aet="PACS") as scp, resident_memory() as memory:
        outcome = deliver(scp.port, each, 120.0)
        (received,) = scp.files()
        assert received.stat().st_size >= 128 * MIB
        with each.path.open("rb") as ours, received.open("rb") as theirs:
            for file in (ours, theirs):  # the data sets; file meta information differs
                file.seek(-128 * MIB, os.SEEK_END)
            digests = [hashlib.file_digest(file, "sha256").digest() for file in (ours, theirs)]
    assert outcome.state is ObjectState.CONFIRMED
    assert digests[0] == digests[1]
    assert memory.peak - memory.began < 64 * MIB


def test_a_line_slower_than_the_time_out_is_no_silence(tmp_path: Path) -> None:
    """The wait for the answer begins when the object is sent, not when it is queued."""
    each = large(tmp_path, 16 * MIB)
    with storescp(tmp_path / "scp", aet="PACS") as scp, proxy(f"127.0.0.1:{scp.port}") as line:
        line.latency_s = 0.02  # each of some 260 chunks
        assert deliver(line.port, each, 3.0).state is ObjectState.CONFIRMED


def test_a_line_that_is_cut_in_the_middle_is_a_passing_failure(tmp_path: Path) -> None:
    each = large(tmp_path, 64 * MIB)
    with storescp(tmp_path / "scp", aet="PACS") as scp, proxy(f"127.0.0.1:{scp.port}") as line:
        line.cut_after_bytes = 8 * MIB
        outcome = deliver(line.port, each, 5.0)
        assert (outcome.state, outcome.is_fault) == (ObjectState.PENDING, True)
        line.cut_after_bytes = 0
        assert deliver(line.port, each, 30.0).state is ObjectState.CONFIRMED


@pytest.mark.parametrize("place", ["gone", "cut short"])
def test_a_file_that_cannot_be_read_any_more_waits(tmp_path: Path, place: str) -> None:
    each = large(tmp_path, MIB)
    with StorageScp().serving() as scp:
        if place == "gone":
            each.path.unlink()
            expected = ObjectState.REFUSED
        else:
            each.path.write_bytes(each.path.read_bytes()[:100])
            expected = ObjectState.PENDING
        assert deliver(scp.port, each).state is expected
        assert scp.stored == []


def test_what_has_to_be_converted_is_converted(tmp_path: Path) -> None:
    """An acceptor that knows Implicit VR Little Endian alone (PS3.5 10.1)."""
    each = large(tmp_path, MIB)
    with StorageScp(transfer_syntaxes=(ImplicitVRLittleEndian,)).serving() as scp:
        assert deliver(scp.port, each).state is ObjectState.CONFIRMED
    (ds,) = scp.stored
    assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert len(ds.PixelData) == MIB
