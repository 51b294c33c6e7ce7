"""The listener on loopback, against pynetdicom, dcmtk and peers that break the rules."""

from __future__ import annotations

import io
import logging
import os
import socket
import ssl
import struct
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from gateway.delivery.routes import Destination
from gateway.delivery.scu import keep_answers
from gateway.delivery.store_scu import DataSetFile, StoreAssociation
from gateway.dicom.file_meta import identify
from gateway.errors import ListenerError, PeerSyntaxError, SpoolFull
from gateway.listener import acceptance
from gateway.listener.acceptance import ACCEPTED_SOP_CLASSES, StoreStatus
from gateway.listener.ports import AssociationInfo, Registration
from gateway.listener.server import Listener
from gateway.listener.stream import PduStream
from gateway.settings import ListenerSettings
from gateway.spool import IncomingFile, Spool, StoredFile
from tests.instances import (
    BIG_ENDIAN,
    CANARY_NAME,
    CT,
    DERMOSCOPIC_PHOTOGRAPHY,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    SLIDE,
    VL_PHOTOGRAPHIC,
    RecordInMemory,
    encoded,
    instance,
    new_uid,
    write,
)
from tests.rejections import rejection
from tests.servers import free_port, require, wait_until

DEADLINE_S = 20.0

Start = Callable[..., Listener]


@pytest.fixture
def record() -> RecordInMemory:
    return RecordInMemory()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def start(record: RecordInMemory, spool: Spool) -> Iterator[Start]:
    """Starts listeners on free ports; stops them at the end."""
    started: list[Listener] = []

    def start(*, tls: ssl.SSLContext | None = None, **settings: Any) -> Listener:
        listener = Listener(ListenerSettings(**{"port": 0, **settings}), record, spool, tls=tls)
        listener.start()
        started.append(listener)
        return listener

    yield start
    for listener in started:
        listener.stop(grace_s=2.0)


@pytest.fixture
def listener(start: Start) -> Listener:
    return start()


CONTEXTS = [
    build_context(uid, syntax)
    for uid in (DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC, SLIDE)
    for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG)
]


def associate(
    listener: Listener, contexts: list[Any] | None = None, calling: str = "TESTER", **options: Any
) -> Association:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = DEADLINE_S
    assoc = ae.associate("127.0.0.1", listener.port, contexts=contexts or CONTEXTS, **options)
    keep_answers(assoc)
    return assoc


@contextmanager
def association(listener: Listener, **options: Any) -> Iterator[Association]:
    assoc = associate(listener, **options)
    assert assoc.is_established
    try:
        yield assoc
    finally:
        assoc.release()


def store(listener: Listener, *datasets: Dataset) -> list[int]:
    with association(listener) as assoc:
        return [int(assoc.send_c_store(ds).Status) for ds in datasets]


def send_bytes(listener: Listener, path: Path, **changes: str) -> tuple[int, str]:
    """Send the data set of a file as it is; ``changes`` are to what the command says of it."""
    found = identify(path)
    values = {
        "sop_class_uid": found.sop_class_uid or DERMOSCOPIC_PHOTOGRAPHY,
        "sop_instance_uid": found.sop_instance_uid or "1.2.3",
        "transfer_syntax_uid": found.transfer_syntax_uid,
        **changes,
    }
    file = DataSetFile(path=path, offset=found.data_set_offset, **values)
    destination = Destination(ae_title="LENTIGO", host="127.0.0.1", port=listener.port)
    with StoreAssociation.open(
        destination, [file.context], calling_ae_title="TESTER", timeout_s=DEADLINE_S
    ) as scu:
        response = scu.store(file)
    return response.status, response.comment


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[identify(path).data_set_offset :]


def only_file(record: RecordInMemory, sop_instance_uid: str) -> StoredFile:
    ((_, stored),) = record.instances[sop_instance_uid].values()
    return stored


def quarantined(spool: Spool) -> list[Path]:
    return list(spool.quarantine_folder.rglob("*.dcm"))


def assert_alive(listener: Listener) -> None:
    assert store(listener, instance()) == [0x0000]


def test_echo_is_answered(listener: Listener) -> None:
    with association(listener, contexts=[build_context(Verification)]) as assoc:
        assert assoc.send_c_echo().Status == 0x0000


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG])
def test_a_stored_instance_is_on_disk_byte_for_byte(
    listener: Listener, record: RecordInMemory, spool: Spool, tmp_path: Path, syntax: str
) -> None:
    ds = instance(transfer_syntax_uid=syntax, side=200)
    path = write(ds, tmp_path / "a.dcm")
    assert send_bytes(listener, path) == (0x0000, "")
    stored = only_file(record, ds.SOPInstanceUID)
    kept = spool.path_of(stored.relative_path)
    assert data_set_of(kept) == data_set_of(path)
    assert stored.size_bytes == kept.stat().st_size
    assert dcmread(kept).file_meta.TransferSyntaxUID == syntax
    assert list(spool.incoming.iterdir()) == []


def test_success_is_only_said_of_what_is_on_disk_and_recorded(
    listener: Listener, record: RecordInMemory, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    register = record.register_instance

    def look(**arguments: Any) -> Registration:
        path = spool.path_of(arguments["stored"].relative_path)
        seen.append((path.exists(), list(spool.incoming.iterdir())))
        return register(**arguments)

    monkeypatch.setattr(record, "register_instance", look)
    assert store(listener, instance()) == [0x0000]
    assert seen == [(True, [])]


def test_compression_is_preferred_whatever_the_order_of_the_proposal(listener: Listener) -> None:
    proposals = [[IMPLICIT, EXPLICIT, JPEG], [JPEG, EXPLICIT], [EXPLICIT, IMPLICIT]]
    chosen = []
    for proposal in proposals:
        with association(listener, contexts=[build_context(SLIDE, proposal)]) as assoc:
            chosen.append(assoc.accepted_contexts[0].transfer_syntax[0])
    assert chosen == [JPEG, JPEG, EXPLICIT]


def test_every_class_of_the_table_can_be_negotiated_and_no_other(listener: Listener) -> None:
    contexts = [
        build_context(accepted.uid, syntax)
        for accepted in ACCEPTED_SOP_CLASSES.values()
        for syntax in accepted.transfer_syntaxes
    ]
    for start in range(0, len(contexts), 100):
        batch = contexts[start : start + 100]
        with association(listener, contexts=[*batch, build_context(CT)]) as assoc:
            assert len(assoc.accepted_contexts) == len(batch)
            assert [str(cx.abstract_syntax) for cx in assoc.rejected_contexts] == [CT]
            assert assoc.rejected_contexts[0].result == 3  # PS3.8 Table 9-18


@pytest.fixture
def no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what admits every caller of these tests."""
    monkeypatch.setattr(acceptance, "LOOPBACK_PEERS", ())


@pytest.mark.usefixtures("no_loopback")
def test_an_unknown_caller_is_rejected_and_noted(start: Start, record: RecordInMemory) -> None:
    listener = start(allow="PACS@127.0.0.1, MODALITY@192.0.2.1")
    for calling in ("STRANGER", "MODALITY"):
        assoc = associate(listener, calling=calling)
        assert rejection(assoc) == (1, 1, 3)
    assert [
        (info.calling_ae_title, info.peer_address, outcome) for info, outcome in record.associations
    ] == [("STRANGER", "127.0.0.1", "rejected"), ("MODALITY", "127.0.0.1", "rejected")]
    with association(listener, calling="PACS"):
        pass


@pytest.mark.usefixtures("no_loopback")
def test_a_fault_of_the_policy_admits_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = start()

    def fail(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(acceptance, "is_allowed", fail)
    assoc = associate(listener)
    assert not assoc.is_established


def test_another_called_ae_title_is_rejected_when_asked_for(start: Start) -> None:
    listener = start(require_called_ae_title=True, ae_title="LENTIGO")
    assoc = associate(listener, ae_title="OTHER")
    assert rejection(assoc) == (1, 1, 7)
    with association(listener, ae_title="LENTIGO"):
        pass


def test_associations_are_noted_from_beginning_to_end(
    listener: Listener, record: RecordInMemory
) -> None:
    assert store(listener, instance()) == [0x0000]
    associate(listener).abort()
    wait_until(lambda: len(record.associations) == 4, DEADLINE_S, "four notes")
    assert record.outcomes() == ["accepted", "released", "accepted", "aborted"]
    ids = [info.association_id for info, _ in record.associations]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    info = record.associations[0][0]
    assert info == AssociationInfo(
        association_id=ids[0],
        calling_ae_title="TESTER",
        called_ae_title="ANY-SCP",
        peer_address="127.0.0.1",
    )


def test_one_too_many_is_rejected_for_now(start: Start) -> None:
    listener = start(max_associations=2)
    with association(listener), association(listener):
        third = associate(listener)
        assert rejection(third) == (2, 3, 2)
    wait_until(lambda: associate(listener).is_established, DEADLINE_S, "a free place")


def cut(path: Path, count: int) -> None:
    os.truncate(path, path.stat().st_size - count)


def test_a_truncated_data_set_is_refused_and_kept_for_inspection(
    listener: Listener, record: RecordInMemory, spool: Spool, tmp_path: Path
) -> None:
    path = write(instance(), tmp_path / "a.dcm")
    cut(path, 100)
    status, comment = send_bytes(listener, path)
    assert status == StoreStatus.TRUNCATED
    assert "7FE0,0010" in comment
    assert [refusal["status"] for refusal in record.refusals] == [0xC001]
    assert not record.instances
    (kept,) = quarantined(spool)
    assert data_set_of(kept) == data_set_of(path)
    assert spool.path_of(record.refusals[0]["stored"].relative_path) == kept
    assert_alive(listener)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sop_class_uid": VL_PHOTOGRAPHIC}, StoreStatus.SOP_CLASS_MISMATCH),
        ({"sop_instance_uid": "1.2.3.4"}, StoreStatus.SOP_INSTANCE_MISMATCH),
    ],
)
def test_a_command_that_names_another_instance_is_refused(
    listener: Listener,
    record: RecordInMemory,
    spool: Spool,
    tmp_path: Path,
    changes: dict[str, str],
    status: StoreStatus,
) -> None:
    path = write(instance(), tmp_path / "a.dcm")
    assert send_bytes(listener, path, **changes)[0] == status
    assert record.refusals[0]["header"].sop_class_uid == DERMOSCOPIC_PHOTOGRAPHY
    assert "differs" in quarantined(spool)[0].with_suffix(".txt").read_text()
    assert not record.instances


def test_an_instance_without_identity_is_refused(
    listener: Listener, record: RecordInMemory, tmp_path: Path
) -> None:
    path = write(instance(StudyInstanceUID=None), tmp_path / "a.dcm")
    status, comment = send_bytes(listener, path)
    assert status == StoreStatus.MISSING_IDENTITY
    assert "study_instance_uid" in comment


def test_noise_for_a_data_set_is_refused(listener: Listener, tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"\xff\xfe\xfd" * 5000)
    file = DataSetFile(
        path=path,
        offset=0,
        sop_class_uid=SLIDE,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=EXPLICIT,
    )
    destination = Destination(ae_title="LENTIGO", host="127.0.0.1", port=listener.port)
    with StoreAssociation.open(
        destination, [file.context], calling_ae_title="TESTER", timeout_s=DEADLINE_S
    ) as scu:
        assert scu.store(file).status >> 12 == 0xC
    assert_alive(listener)


def test_a_bad_instance_does_not_cost_its_siblings(
    listener: Listener, record: RecordInMemory
) -> None:
    good = [instance() for _ in range(3)]
    bad = instance(PixelData=bytes(10))
    bad["PixelData"].VR = "OB"
    assert store(listener, good[0], bad, good[1], good[2]) == [0, 0xC001, 0, 0]
    assert set(record.instances) == {ds.SOPInstanceUID for ds in good}


def test_the_same_instance_again_is_accepted_once(
    listener: Listener, record: RecordInMemory, spool: Spool
) -> None:
    ds = instance()
    assert store(listener, ds, ds) == [0, 0]
    assert store(listener, ds) == [0]
    assert only_file(record, ds.SOPInstanceUID)
    assert len(list(spool.instances.rglob("*.dcm"))) == 1
    assert not record.refusals


def test_the_same_uid_with_other_bytes_keeps_both(
    listener: Listener,
    record: RecordInMemory,
    spool: Spool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ds = instance()
    other = instance(SOPInstanceUID=ds.SOPInstanceUID, Manufacturer="Another")
    assert store(listener, ds, other) == [0, 0]
    versions = record.instances[ds.SOPInstanceUID]
    assert len(versions) == 2
    for _, stored in versions.values():
        assert spool.path_of(stored.relative_path).exists()
    assert "instance.conflict" in {getattr(entry, "action", "") for entry in caplog.records}


def test_without_the_record_nothing_is_acknowledged(
    listener: Listener, record: RecordInMemory
) -> None:
    ds = instance()
    with association(listener) as assoc:
        record.is_down = True
        assert assoc.send_c_store(ds).Status == StoreStatus.OUT_OF_RESOURCES
        record.is_down = False
        assert assoc.send_c_store(ds).Status == 0x0000
    assert only_file(record, ds.SOPInstanceUID)


def test_a_defect_is_answered_and_told_without_values(
    listener: Listener, record: RecordInMemory, caplog: pytest.LogCaptureFixture
) -> None:
    record.defect = ValueError(f"cannot store {CANARY_NAME}")
    with association(listener) as assoc:
        assert assoc.send_c_store(instance()).Status == StoreStatus.PROCESSING_FAILURE
        record.defect = None
        assert assoc.send_c_store(instance()).Status == 0x0000
    (entry,) = [each for each in caplog.records if getattr(each, "action", "") == "instance.failed"]
    assert getattr(entry, "error", "") == "ValueError"
    assert not any(CANARY_NAME in repr(vars(each)) for each in caplog.records)


def test_no_patient_attribute_reaches_the_log(
    listener: Listener, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    ds = instance(PatientBirthDate="19010203")
    bad = write(instance(StudyInstanceUID=None), tmp_path / "a.dcm")
    assert store(listener, ds, ds) == [0, 0]
    send_bytes(listener, bad)
    for entry in caplog.records:
        shown = repr(vars(entry))
        for canary in (CANARY_NAME, "CANARY-ID", "19010203", ds.SOPInstanceUID):
            assert canary not in shown


def test_a_full_disk_is_answered_with_out_of_resources(
    record: RecordInMemory, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "full", reserve_bytes=1 << 60)
    listener = Listener(ListenerSettings(port=0), record, spool)
    listener.start()
    try:
        assert store(listener, instance(side=300), instance()) == [0xA700, 0xA700]
    finally:
        listener.stop()
    assert not record.instances
    assert [path for path in spool.root.rglob("*") if path.is_file()] == []
    assert {refusal["status"] for refusal in record.refusals} == {0xA700}


def test_a_disk_that_fills_up_on_the_way_costs_one_instance(
    listener: Listener, record: RecordInMemory, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, budget = IncomingFile.write, [100_000]

    def write_until_full(incoming: IncomingFile, data: bytes | memoryview) -> None:
        budget[0] -= len(data)
        if budget[0] < 0:
            raise SpoolFull("no space left on device")
        real_write(incoming, data)

    monkeypatch.setattr(IncomingFile, "write", write_until_full)
    with association(listener) as assoc:
        assert assoc.send_c_store(instance(side=300)).Status == 0xA700
        assert list(spool.incoming.iterdir()) == []
        budget[0] = 1_000_000
        assert assoc.send_c_store(instance(side=300)).Status == 0x0000
    assert len(record.instances) == 1


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "\u738b^\u5c0f\u4e1c"),
        ("ISO_IR 100", "M\u00fcller^J\u00fcrgen"),
        ("ISO_IR 144", "\u041b\u044e\u043ac\u0435\u043c\u0431\u0443\u0440\u0433"),
    ],
)
def test_names_in_any_script_come_through(
    listener: Listener, record: RecordInMemory, character_set: str, name: str
) -> None:
    ds = instance(SpecificCharacterSet=character_set, PatientName=name)
    assert store(listener, ds) == [0]
    ((header, _),) = record.instances[ds.SOPInstanceUID].values()
    assert header.patient_name == name


def test_a_large_instance_is_received_in_little_memory(
    listener: Listener, record: RecordInMemory, tmp_path: Path
) -> None:
    side = 6000  # 103 MB of pixels, a hole in the file
    ds = instance(PixelData=None, Rows=side, Columns=side, SOPClassUID=SLIDE)
    path = tmp_path / "slide.dcm"
    with path.open("wb") as file:
        file.write(encoded(ds))
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, side * side * 3))
        file.truncate(file.tell() + side * side * 3)
    tracemalloc.start()
    assert send_bytes(listener, path) == (0x0000, "")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 * 1024 * 1024
    assert only_file(record, ds.SOPInstanceUID).size_bytes > side * side * 3


def test_many_associations_at_once_lose_nothing(listener: Listener, record: RecordInMemory) -> None:
    batches = [[instance(side=64) for _ in range(10)] for _ in range(4)]
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda batch=batch: results.append(store(listener, *batch)))
        for batch in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[0] * 10] * 4
    assert set(record.instances) == {ds.SOPInstanceUID for batch in batches for ds in batch}


class RawPeer:
    """A peer at the level of PDUs, which keeps no rule it is not told to keep."""

    def __init__(self, listener: Listener) -> None:
        self.connection = socket.create_connection(("127.0.0.1", listener.port), DEADLINE_S)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def associate(self) -> None:
        """Propose Dermoscopic Photography in explicit VR little endian, as context 1."""

        def item(kind: int, value: bytes) -> bytes:
            return struct.pack(">BxH", kind, len(value)) + value

        context = item(0x30, DERMOSCOPIC_PHOTOGRAPHY.encode()) + item(0x40, EXPLICIT.encode())
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
        body = struct.pack(">HH16s16s32x", 1, 0, b"LENTIGO".ljust(16), b"RAW".ljust(16))
        body += item(0x10, b"1.2.840.10008.3.1.1.1")
        body += item(0x20, b"\x01\0\0\0" + context) + item(0x50, user)
        self.send(1, body)
        assert self.receive()[0] == 2

    def send(self, kind: int, body: bytes) -> None:
        self.connection.sendall(struct.pack(">BxI", kind, len(body)) + body)

    def receive(self) -> tuple[int, bytes]:
        """Return the next PDU; (0, b"") when the connection is closed."""
        try:
            header = self.connection.recv(6, socket.MSG_WAITALL)
            if len(header) < 6:
                return 0, b""
            kind, length = struct.unpack(">BxI", header)
            return kind, self.connection.recv(length, socket.MSG_WAITALL)
        except ConnectionResetError:
            return 0, b""

    def status(self) -> int:
        kind, body = self.receive()
        assert kind == 4
        at = body.index(struct.pack("<HHI", 0, 0x0900, 2)) + 8
        return int(struct.unpack_from("<H", body, at)[0])


def pdv(control: int, data: bytes, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def command(sop_instance_uid: str, field: int = 1) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    body = element(0x0002, DERMOSCOPIC_PHOTOGRAPHY.encode())
    body += element(0x0100, struct.pack("<H", field)) + element(0x0110, b"\x07\0")
    body += element(0x0700, b"\0\0") + element(0x0800, b"\1\0")
    body += element(0x1000, sop_instance_uid.encode())
    return element(0, struct.pack("<I", len(body))) + body


def data_set(ds: Dataset) -> bytes:
    content = encoded(ds)
    return content[content.index(b"\x08\x00\x16\x00") :]


def test_command_and_data_set_may_share_a_pdu(listener: Listener, record: RecordInMemory) -> None:
    ds = instance()
    content = data_set(ds)
    with RawPeer(listener) as peer:
        peer.associate()
        parts = [pdv(0, content[at : at + 100]) for at in range(0, len(content), 100)]
        peer.send(4, pdv(3, command(ds.SOPInstanceUID)) + b"".join(parts) + pdv(2, b""))
        assert peer.status() == 0x0000
    assert only_file(record, ds.SOPInstanceUID)


def test_requests_sent_without_waiting_are_all_answered(
    listener: Listener, record: RecordInMemory
) -> None:
    datasets = [instance() for _ in range(5)]
    with RawPeer(listener) as peer:
        peer.associate()
        for ds in datasets:
            peer.send(4, pdv(3, command(ds.SOPInstanceUID)))
            peer.send(4, pdv(2, data_set(ds)))
        assert [peer.status() for _ in datasets] == [0] * 5
    assert len(record.instances) == 5


@pytest.mark.parametrize(
    "ending", ["close", "abort", "reset", "release"], ids=lambda ending: f"by {ending}"
)
@pytest.mark.parametrize("where", ["between fragments", "inside a PDU"])
def test_an_association_cut_short_leaves_nothing(
    listener: Listener, record: RecordInMemory, spool: Spool, ending: str, where: str
) -> None:
    with RawPeer(listener) as peer:
        peer.associate()
        peer.send(4, pdv(3, command("1.2.3")))
        peer.send(4, pdv(0, data_set(instance())[:300]))
        for _ in range(20):  # more than is kept in memory
            peer.send(4, pdv(0, bytes(120_000)))
        wait_until(lambda: list(spool.incoming.iterdir()), DEADLINE_S, "reception to begin")
        if where == "inside a PDU":
            peer.connection.sendall(struct.pack(">BxI", 4, 5000) + b"only so much")
        if ending == "abort":
            peer.send(7, bytes(4))
        elif ending == "release":
            peer.send(5, bytes(4))
        elif ending == "reset":
            peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not list(spool.incoming.iterdir()), DEADLINE_S, "the rest to be removed")
    assert not record.instances
    assert_alive(listener)


def test_a_peer_that_goes_silent_is_dropped(start: Start, spool: Spool) -> None:
    listener = start(network_timeout_s=0.5)
    with RawPeer(listener) as peer:
        peer.associate()
        peer.send(4, pdv(3, command("1.2.3")))
        peer.connection.sendall(struct.pack(">BxI", 4, 5000) + b"only so much")
        while peer.receive()[0]:
            pass
    wait_until(lambda: not list(spool.incoming.iterdir()), DEADLINE_S, "the rest to be removed")
    assert_alive(listener)


NONSENSE = {
    "random bytes": os.urandom(3000),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown PDU": struct.pack(">BxI", 9, 4) + bytes(4),
    "a PDU of 4 GB": struct.pack(">BxI", 4, 0xFFFFFFFF) + bytes(1000),
    "data before association": struct.pack(">BxI", 4, 10) + bytes(10),
    "a hollow association request": struct.pack(">BxI", 1, 68) + bytes(68),
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_on_the_socket_ends_its_own_connection_only(start: Start, content: bytes) -> None:
    listener = start(network_timeout_s=5.0)
    with association(listener) as assoc:
        with RawPeer(listener) as peer:
            peer.connection.sendall(content)
            peer.connection.shutdown(socket.SHUT_WR)
            while peer.receive()[0]:
                pass
        assert assoc.send_c_store(instance()).Status == 0x0000


@pytest.mark.parametrize(
    "body",
    [
        pdv(3, b"no command set"),
        pdv(3, command("1.2.3", field=0x7777)),
        pdv(3, command("1.2.3"), context_id=99) + pdv(2, b"x" * 50, context_id=99),
        pdv(2, b"a data set nobody announced"),
        pdv(3, command("1.2.3")) + pdv(3, command("1.2.4")),
        pdv(3, command("1.2.3")) + pdv(0, b"x" * 50, context_id=3),
        pdv(1, b"x" * 65530) + pdv(1, b"x" * 50),
        struct.pack(">I", 1) + b"\x01",
        struct.pack(">I", 4000) + b"\x01\x03",
    ],
    ids=range(9),
)
def test_nonsense_within_an_association_aborts_it_only(
    start: Start, spool: Spool, body: bytes
) -> None:
    listener = start(network_timeout_s=5.0)
    with RawPeer(listener) as peer:
        peer.associate()
        peer.send(4, body)
        kinds = []
        while not kinds or kinds[-1]:
            kinds.append(peer.receive()[0])
        assert set(kinds) <= {7, 0}
    wait_until(lambda: not list(spool.incoming.iterdir()), DEADLINE_S, "the rest to be removed")
    assert_alive(listener)


def test_connections_that_say_nothing_are_limited(start: Start) -> None:
    listener = start(max_associations=1, network_timeout_s=2.0)
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]
    try:
        closed = [connection for connection in silent if _is_closed(connection)]
        assert len(closed) >= 10  # at most 2 x 1 + 8 are kept waiting
        wait_until(lambda: store_once(listener) == [0], DEADLINE_S, "room for a real peer")
    finally:
        for connection in silent:
            connection.close()


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def store_once(listener: Listener) -> list[int]:
    assoc = associate(listener)
    if not assoc.is_established:
        return []
    try:
        return [int(assoc.send_c_store(instance()).Status)]
    finally:
        assoc.release()


def test_a_sender_with_nagle_on_is_acknowledged_at_once(listener: Listener) -> None:
    """Without TCP_QUICKACK such an instance waits some 40 ms for the ACK of its last segment."""
    if not hasattr(socket, "TCP_QUICKACK"):
        pytest.skip("TCP_QUICKACK is Linux's")
    datasets = [instance(side=60) for _ in range(10)]
    asked_for = []

    class Watched(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            asked_for.append(arguments[1])
            super().setsockopt(*arguments)

    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    with right, Watched(fileno=left.detach()) as watched:
        stream = PduStream(watched, max_pdu_bytes=16384, silence_s=DEADLINE_S)
        right.sendall(struct.pack(">BxI", 4, 3) + b"abc")
        assert bytes(stream.next().body) == b"abc"
    assert asked_for == [socket.TCP_QUICKACK]
    assert store(listener, *datasets) == [0] * 10


def test_stopping_waits_for_an_instance_on_its_way(
    start: Start, record: RecordInMemory, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    begin = spool.begin
    monkeypatch.setattr(spool, "begin", lambda: (begun.append(True), begin())[1])
    listener = start()
    ds = instance()
    content = data_set(ds)
    with RawPeer(listener) as peer:
        peer.associate()
        peer.send(4, pdv(3, command(ds.SOPInstanceUID)) + pdv(0, content[:300]))
        wait_until(lambda: begun, DEADLINE_S, "reception to begin")
        stopping = threading.Thread(target=listener.stop)
        stopping.start()
        peer.send(4, pdv(2, content[300:]))
        assert peer.status() == 0x0000
        peer.send(5, bytes(4))
        assert peer.receive()[0] == 6
        stopping.join(DEADLINE_S)
        assert not stopping.is_alive()
    assert only_file(record, ds.SOPInstanceUID)


def test_stopping_cuts_what_does_not_end(start: Start, record: RecordInMemory) -> None:
    listener = start()
    with RawPeer(listener) as peer:
        peer.associate()
        peer.connection.sendall(struct.pack(">BxI", 4, 5000) + b"only so much")
        listener.stop(grace_s=0.1)
        while peer.receive()[0]:
            pass
    assert not [thread for thread in threading.enumerate() if thread.name == "association"]


def test_a_port_in_use_is_told_with_the_remedy(start: Start) -> None:
    first = start()
    with pytest.raises(ListenerError, match=f"127.0.0.1:{first.port}.*LENTIGO_LISTENER_PORT"):
        start(port=first.port)


def test_a_malformed_allow_list_stops_the_start(record: RecordInMemory, spool: Spool) -> None:
    with pytest.raises(PeerSyntaxError, match="host"):
        Listener(ListenerSettings(allow="PACS@"), record, spool)


def test_orphans_are_swept_at_start(start: Start, spool: Spool) -> None:
    spool.prepare()
    (spool.incoming / "left.part").write_bytes(b"half")
    assert_alive(start())
    assert list(spool.incoming.iterdir()) == []


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a fresh certificate and of a client that trusts it."""
    require("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate),
            *("-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


def test_tls_is_spoken_and_a_silent_client_holds_nobody_up(
    start: Start, record: RecordInMemory, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = tls
    listener = start(tls=server, network_timeout_s=5.0)
    ds = instance(side=300)
    with (
        socket.create_connection(("127.0.0.1", listener.port)),
        association(listener, tls_args=(client, "127.0.0.1")) as assoc,
    ):
        assert assoc.send_c_store(ds).Status == 0x0000
    assert only_file(record, ds.SOPInstanceUID)


@pytest.mark.parametrize("program", ["dcmsend", "storescu"])
@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG])
def test_senders_of_dcmtk_are_understood(
    listener: Listener, record: RecordInMemory, tmp_path: Path, program: str, syntax: str
) -> None:
    require(program)
    # storescu of dcmtk 3.6.7 proposes no Dermoscopic Photography.
    datasets = [
        instance(transfer_syntax_uid=syntax, side=100, SOPClassUID=VL_PHOTOGRAPHIC)
        for _ in range(5)
    ]
    for ds in datasets:
        write(ds, tmp_path / f"{ds.SOPInstanceUID}.dcm")
    options = ["-xy"] if program == "storescu" and syntax == JPEG else []
    subprocess.run(
        [program, *options, "+sd", "127.0.0.1", str(listener.port), tmp_path],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert set(record.instances) == {ds.SOPInstanceUID for ds in datasets}


def test_the_free_port_is_told(start: Start) -> None:
    port = free_port()
    assert start(port=port).port == port
    assert start().port not in (0, port)


def test_meta_information_names_the_instance(
    listener: Listener, record: RecordInMemory, spool: Spool
) -> None:
    ds = instance(SOPInstanceUID=new_uid())
    assert store(listener, ds) == [0]
    kept = spool.path_of(only_file(record, ds.SOPInstanceUID).relative_path)
    meta = dcmread(io.BytesIO(kept.read_bytes())).file_meta
    assert meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert meta.MediaStorageSOPClassUID == DERMOSCOPIC_PHOTOGRAPHY
