"""``lentigo send`` against real SCPs on loopback."""

from __future__ import annotations

import argparse
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from gateway.delivery.routes import Destination, DestinationError
from gateway.dicom.file_meta import identify
from gateway.errors import SendError
from gateway.sending import send as send_module
from gateway.sending.send import FileState, FileStatus, SendSummary, send
from tests.instances import (
    BIG_ENDIAN,
    CT,
    DERMOSCOPIC_PHOTOGRAPHY,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    SLIDE,
    encoded,
    instance,
    write,
)
from tests.servers import free_port


class Archive:
    """What an SCP on loopback was sent, and what it is told to answer."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self.associations = 0
        self.status = 0x0000
        self.abort_on = ""
        self.nodelay: list[int] = []
        self.port = 0

    @property
    def destination(self) -> Destination:
        return Destination(ae_title="ARCHIVE", host="127.0.0.1", port=self.port)

    def on_store(self, event: evt.Event) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        if uid == self.abort_on:
            event.assoc.abort()
            return 0x0000
        data = event.encoded_dataset(include_meta=False)
        self.received.append((uid, str(event.context.transfer_syntax), data))
        return self.status

    def on_accepted(self, _event: evt.Event) -> None:
        self.associations += 1


@contextmanager
def running(
    archive: Archive,
    contexts: Sequence[tuple[str, Sequence[str]]],
    max_pdu: int = 16384,
    **limits: object,
) -> Iterator[Archive]:
    ae = AE(ae_title="ARCHIVE")
    ae.maximum_pdu_size = max_pdu
    for name, value in limits.items():
        setattr(ae, name, value)
    for sop_class_uid, syntaxes in contexts:
        ae.add_supported_context(sop_class_uid, list(syntaxes))
    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[
            (evt.EVT_C_STORE, archive.on_store),
            (evt.EVT_ACCEPTED, archive.on_accepted),
        ],
    )
    assert server is not None
    archive.port = server.server_address[1]
    try:
        yield archive
    finally:
        server.shutdown()


ALL = (EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG)


@pytest.fixture
def archive() -> Iterator[Archive]:
    with running(Archive(), [(DERMOSCOPIC_PHOTOGRAPHY, ALL), (SLIDE, ALL)]) as archive:
        yield archive


def states(summary: SendSummary) -> dict[str, FileState]:
    return {each.path.name: each.state for each in summary.statuses}


def reason_of(summary: SendSummary, name: str) -> str:
    return next(each.reason for each in summary.statuses if each.path.name == name)


@pytest.mark.parametrize("max_pdu", [0, 100, 16384, 131072])
def test_files_arrive_as_they_are_stored(tmp_path: Path, max_pdu: int) -> None:
    paths = {}
    for number, syntax in enumerate(ALL):
        ds = instance(transfer_syntax_uid=syntax, side=60)
        paths[str(ds.SOPInstanceUID)] = write(ds, tmp_path / f"{number}.dcm")
    contexts = [(DERMOSCOPIC_PHOTOGRAPHY, ALL)]
    with running(Archive(), contexts, max_pdu) as archive:
        seen: list[FileStatus] = []
        summary = send(paths.values(), archive.destination, seen.append)
    assert summary.is_complete
    assert summary.statuses == tuple(seen)
    assert len(archive.received) == 4
    for uid, syntax, data in archive.received:
        path = paths[uid]
        assert syntax == identify(path).transfer_syntax_uid
        assert data == path.read_bytes()[identify(path).data_set_offset :]
    assert archive.associations == 1


def test_folders_are_searched_and_strangers_skipped_with_a_reason(
    archive: Archive, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    write(instance(), folder / "a.dcm")
    write(instance(), folder / "deep" / "er" / "b")
    write(instance(SOPClassUID="1.2.840.10008.1.3.10"), folder / "DICOMDIR")
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty").write_bytes(b"")
    summary = send([folder], archive.destination)
    assert states(summary) == {
        "a.dcm": FileState.STORED,
        "b": FileState.STORED,
        "DICOMDIR": FileState.SKIPPED,
        "notes.txt": FileState.SKIPPED,
        "empty": FileState.SKIPPED,
    }
    assert "DICOMDIR" in reason_of(summary, "DICOMDIR")
    assert "not a DICOM file" in reason_of(summary, "notes.txt")
    assert summary.is_complete


def test_a_named_file_that_is_no_instance_is_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    path = write(instance(), tmp_path / "a.dcm")
    summary = send([tmp_path / "notes.txt", path, tmp_path / "gone"], archive.destination)
    assert states(summary) == {
        "notes.txt": FileState.REFUSED,
        "a.dcm": FileState.STORED,
        "gone": FileState.FAILED,
    }
    assert not summary.is_complete


def test_a_bare_data_set_is_sent(archive: Archive, tmp_path: Path) -> None:
    ds = instance(transfer_syntax_uid=IMPLICIT)
    whole = write(ds, tmp_path / "whole")
    bare = tmp_path / "bare"
    bare.write_bytes(whole.read_bytes()[identify(whole).data_set_offset :])
    assert send([bare], archive.destination).is_complete
    assert archive.received == [(ds.SOPInstanceUID, IMPLICIT, bare.read_bytes())]


def test_an_instance_without_identity_is_refused_before_it_is_sent(
    archive: Archive, tmp_path: Path
) -> None:
    content = encoded(instance())
    start = content.index(b"\x08\x00\x16\x00")
    (tmp_path / "a").write_bytes(content[start + 8 + 30 :].replace(b"\x18\0UI", b"\x19\0UI", 1))
    summary = send([tmp_path / "a"], archive.destination)
    assert "no valid SOP Class UID" in reason_of(summary, "a")
    assert archive.associations == 0


def test_a_refused_context_is_told_and_nothing_is_converted(tmp_path: Path) -> None:
    write(instance(), tmp_path / "explicit")
    write(instance(transfer_syntax_uid=JPEG), tmp_path / "jpeg")
    write(instance(SOPClassUID=CT), tmp_path / "ct")
    with running(Archive(), [(DERMOSCOPIC_PHOTOGRAPHY, [EXPLICIT])]) as archive:
        summary = send([tmp_path], archive.destination)
    assert states(summary) == {
        "explicit": FileState.STORED,
        "jpeg": FileState.REFUSED,
        "ct": FileState.REFUSED,
    }
    assert "JPEG Baseline" in reason_of(summary, "jpeg")
    assert "transfer syntax not supported" in reason_of(summary, "jpeg")
    assert "CT Image Storage" in reason_of(summary, "ct")
    assert "SOP class not supported" in reason_of(summary, "ct")
    assert len(archive.received) == 1


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, FileState.STORED),
        (0xB000, FileState.STORED),
        (0xA700, FileState.FAILED),
        (0xA900, FileState.REFUSED),
        (0xC123, FileState.REFUSED),
        (0x0122, FileState.REFUSED),
    ],
)
def test_the_answer_decides(
    archive: Archive, tmp_path: Path, status: int, state: FileState
) -> None:
    archive.status = status
    summary = send([write(instance(), tmp_path / "a")], archive.destination)
    assert states(summary) == {"a": state}
    assert (f"{status:04X}" in reason_of(summary, "a")) == (status != 0)
    assert summary.is_complete == (state is FileState.STORED)


def test_more_than_128_contexts_take_another_association(tmp_path: Path) -> None:
    classes = [f"1.2.840.10008.5.1.4.1.1.{10000 + number}" for number in range(130)]
    for uid in classes:
        write(instance(SOPClassUID=uid, side=2), tmp_path / f"{uid}.dcm")
    refusing = Archive()
    with running(refusing, [(DERMOSCOPIC_PHOTOGRAPHY, [EXPLICIT])]):
        summary = send([tmp_path], refusing.destination)
    assert summary.count(FileState.REFUSED) == 130
    assert refusing.associations == 2


def test_an_abort_costs_one_file(archive: Archive, tmp_path: Path) -> None:
    datasets = [instance() for _ in range(4)]
    for number, ds in enumerate(datasets):
        write(ds, tmp_path / f"{number}")
    archive.abort_on = datasets[1].SOPInstanceUID
    summary = send([tmp_path], archive.destination)
    assert states(summary) == {
        "0": FileState.STORED,
        "1": FileState.FAILED,
        "2": FileState.STORED,
        "3": FileState.STORED,
    }
    assert reason_of(summary, "1")
    assert archive.associations == 2


def test_nobody_there_is_told_for_every_file(tmp_path: Path) -> None:
    paths = [write(instance(), tmp_path / name) for name in "ab"]
    nobody = Destination(ae_title="X", host="127.0.0.1", port=free_port())
    summary = send(paths, nobody)
    assert set(states(summary).values()) == {FileState.FAILED}
    assert "cannot connect" in reason_of(summary, "a")


def test_a_rejection_is_told(tmp_path: Path) -> None:
    contexts = [(DERMOSCOPIC_PHOTOGRAPHY, ALL)]
    with running(Archive(), contexts, require_calling_aet=["FRIEND"]) as archive:
        path = write(instance(), tmp_path / "a")
        summary = send([path], archive.destination)
        assert "calling AE title not recognised" in reason_of(summary, "a")
        assert send([path], archive.destination, calling_ae_title="FRIEND").is_complete


@contextmanager
def stranger(answer: bytes, *, then_close: bool) -> Iterator[Destination]:
    """A TCP server that is no SCP: it answers with ``answer`` whatever it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                connection.recv(65536)
                connection.sendall(answer)
                if then_close:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield Destination(ae_title="X", host="127.0.0.1", port=server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">BxI", 2, 4) + b"\0\1\0\0",
        struct.pack(">BxI", 2, 0xFFFFFFFF),
        struct.pack(">BxI", 3, 1) + b"\0",
        struct.pack(">BxI", 7, 4) + bytes(4),
        os.urandom(200),
    ],
    ids=range(7),
)
def test_a_server_that_is_no_scp_is_told_apart(tmp_path: Path, answer: bytes) -> None:
    path = write(instance(), tmp_path / "a")
    with stranger(answer, then_close=True) as destination:
        summary = send([path], destination, timeout_s=2.0)
    assert states(summary) == {"a": FileState.FAILED}
    assert reason_of(summary, "a")


def test_silence_runs_into_the_time_out(tmp_path: Path) -> None:
    path = write(instance(), tmp_path / "a")
    with stranger(b"", then_close=False) as destination:
        started = time.monotonic()
        summary = send([path], destination, timeout_s=0.3)
    assert time.monotonic() - started < 10
    assert "silent" in reason_of(summary, "a")


def test_a_large_file_is_sent_in_little_memory(tmp_path: Path) -> None:
    side = 8000  # 192 MB, a hole in the file
    ds = instance(PixelData=None, Rows=side, Columns=side)
    path = tmp_path / "slide"
    with path.open("wb") as file:
        file.write(encoded(ds))
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, side * side * 3))
        file.truncate(file.tell() + side * side * 3)
    size = path.stat().st_size - identify(path).data_set_offset
    with sink(size) as destination:
        tracemalloc.start()
        summary = send([path], destination)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert summary.is_complete
    assert peak_bytes < 4 * 1024 * 1024


@contextmanager
def sink(size: int) -> Iterator[Destination]:
    """An SCP that accepts one data set of ``size`` bytes and forgets it as it comes."""
    from gateway.delivery.store_scu import _element

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                _kind, length = struct.unpack(">BxI", connection.recv(6, socket.MSG_WAITALL))
                connection.recv(length, socket.MSG_WAITALL)
                body = struct.pack(">HH64x", 1, 0) + item(0x10, b"1.2.840.10008.3.1.1.1")
                body += item(0x21, b"\x01\0\0\0" + item(0x40, EXPLICIT.encode()))
                body += item(0x50, item(0x51, struct.pack(">I", 0)) + item(0x52, b"1.2"))
                connection.sendall(struct.pack(">BxI", 2, len(body)) + body)
                left = size
                while left:
                    _kind, length = struct.unpack(">BxI", connection.recv(6, socket.MSG_WAITALL))
                    pdv = connection.recv(length, socket.MSG_WAITALL)
                    left -= 0 if pdv[5] & 1 else len(pdv) - 6
                response = _element(0x0120, b"\1\0") + _element(0x0900, b"\0\0")
                pdv = struct.pack(">IBB", len(response) + 2, 1, 3) + response
                connection.sendall(struct.pack(">BxI", 4, len(pdv)) + pdv)
                connection.recv(10, socket.MSG_WAITALL)
                connection.sendall(struct.pack(">BxI", 6, 4) + bytes(4))

        thread = threading.Thread(target=serve)
        thread.start()
        yield Destination(ae_title="SINK", host="127.0.0.1", port=server.getsockname()[1])
        thread.join()


def command_line(*words: str) -> int:
    parser = argparse.ArgumentParser()
    send_module.add_arguments(parser)
    return send_module.run(parser.parse_args(words))


def test_the_command_says_one_line_a_file(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in [1]"
    write(instance(), folder / "a.dcm")
    (folder / "notes.txt").write_text("hello")
    assert command_line(str(folder), str(archive.destination)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"skipped  {folder / 'notes.txt'}  not a DICOM file"
    assert lines[1] == f"stored   {folder / 'a.dcm'}"
    assert lines[2].startswith("1 stored, 0 refused, 0 failed, 1 skipped; to ARCHIVE@127.0.0.1:")


def test_the_command_fails_when_one_is_refused_or_there_is_nothing(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = str(archive.destination)
    archive.status = 0xA900
    assert command_line(str(write(instance(), tmp_path / "a")), peer) == 1
    (tmp_path / "empty").mkdir()
    assert command_line(str(tmp_path / "empty"), peer) == 1
    assert "nothing to send" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("a", "nonsense"), DestinationError),
        (("a", "PACS@host"), DestinationError),
        (("a", "PACS@127.0.0.1:104", "--calling-ae-title", "X" * 17), SendError),
        (("a", "PACS@127.0.0.1:104", "--timeout", "0"), SendError),
    ],
)
def test_wrong_usage_is_told(words: tuple[str, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        command_line(*words)


def test_what_is_sent_can_be_read_back(archive: Archive, tmp_path: Path) -> None:
    ds = instance(SOPInstanceUID=generate_uid(), PatientName="M\u00fcller^J\u00fcrgen")
    ds.SpecificCharacterSet = "ISO_IR 100"
    path = write(ds, tmp_path / "a")
    assert send([path], archive.destination).is_complete
    assert str(dcmread(path).PatientName).encode("latin-1") in archive.received[0][2]
