"""Senders that ask us for storage commitment: pynetdicom, on one association and on two."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt

from gateway.host.embedded import free_port
from gateway.store.intake.received_commitments import REPORTED, WAITING
from tests.instances import DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC, instance, new_uid
from tests.integration.commitment_site import AE_TITLE, Site, site
from tests.storage_scp import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE

WITHIN_S = 30.0
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
SUCCESS, SOME_FAILED = 1, 2  # Event Type ID, PS3.4 J.3.3.1


@dataclass(kw_only=True)
class Camera:
    """A modality: stores, asks, and takes reports."""

    assoc: Any
    reports: queue.Queue[tuple[int, Dataset]]

    def store(self, *sets: Dataset) -> None:
        for ds in sets:
            assert self.assoc.send_c_store(ds).Status == 0x0000

    def ask(
        self,
        instances: list[tuple[str, str]],
        *,
        transaction: str = "",
        action: int = 1,
        instance_uid: str = STORAGE_COMMITMENT_INSTANCE,
    ) -> int:
        """Send an N-ACTION about (class, UID); return its status."""
        information = Dataset()
        information.TransactionUID = transaction or new_uid()
        information.ReferencedSOPSequence = []
        for sop_class, uid in instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            information.ReferencedSOPSequence.append(item)
        status, _ = self.assoc.send_n_action(information, action, STORAGE_COMMITMENT, instance_uid)
        return int(status.Status)

    def report(self) -> tuple[int, list[str], dict[str, int]]:
        """Return type, committed UIDs and Failure Reasons of the next report."""
        event_type, information = self.reports.get(timeout=WITHIN_S)
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in information.get("FailedSOPSequence", ())
        }
        committed = [
            str(item.ReferencedSOPInstanceUID)
            for item in information.get("ReferencedSOPSequence", ())
        ]
        return event_type, committed, failed


@contextmanager
def camera(home: Site, *, port: int = 0) -> Iterator[Camera]:
    """Associate; with a port also listen there for reports."""
    reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()

    def on_report(event: Any) -> tuple[int, None]:
        reports.put((event.request.EventTypeID, event.event_information))
        return 0x0000, None

    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    ae = AE(ae_title="CAMERA")
    server = None
    if port:
        server = ae.start_server(
            ("127.0.0.1", port),
            block=False,
            contexts=[build_context(STORAGE_COMMITMENT)],
            evt_handlers=handlers,
        )
    contexts = [build_context(STORAGE_COMMITMENT)]
    contexts += [
        build_context(uid, ExplicitVRLittleEndian)
        for uid in (DERMOSCOPIC_PHOTOGRAPHY, VL_PHOTOGRAPHIC)
    ]
    assoc = ae.associate(
        "127.0.0.1", home.us.port, contexts=contexts, ae_title=AE_TITLE, evt_handlers=handlers
    )
    assert assoc.is_established
    try:
        yield Camera(assoc=assoc, reports=reports)
    finally:
        if assoc.is_established:
            assoc.release()
        if server is not None:
            server.shutdown()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as each:
        yield each


def refs(*sets: Dataset) -> list[tuple[str, str]]:
    return [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in sets]


def states(home: Site) -> list[str]:
    return [row.state for row in home.requests()]


def test_a_sender_that_stays_gets_the_report_on_its_own_association(home: Site) -> None:
    first, second = instance(), instance(SOPClassUID=VL_PHOTOGRAPHIC)
    unknown = new_uid()
    with camera(home) as sender:
        sender.store(first, second)
        assert sender.ask(refs(first, second)) == 0x0000
        assert sender.report() == (SUCCESS, [first.SOPInstanceUID, second.SOPInstanceUID], {})
        asked = [*refs(first), (VL_PHOTOGRAPHIC, unknown), (CT_CLASS, second.SOPInstanceUID)]
        assert sender.ask(asked) == 0x0000
        assert sender.report() == (
            SOME_FAILED,
            [first.SOPInstanceUID],
            {unknown: 0x0112, second.SOPInstanceUID: 0x0119},
        )
        # A large study is one request, and more than one query.
        many = [(DERMOSCOPIC_PHOTOGRAPHY, new_uid()) for _ in range(600)]
        assert sender.ask([*refs(first), *many]) == 0x0000
        event_type, committed, failed = sender.report()
        assert (event_type, committed) == (SOME_FAILED, [first.SOPInstanceUID])
        assert set(failed.values()) == {0x0112}
        assert len(failed) == len(many)
    assert not home.reporter.report_next()


def test_a_damaged_or_missing_file_is_not_committed_to(home: Site) -> None:
    whole, damaged, missing = instance(), instance(), instance()
    with camera(home) as sender:
        sender.store(whole, damaged, missing)
        held = {path.stat().st_ino: path for path in (home.folder / "spool").rglob("*.dcm")}
        found = {
            uid: path
            for path in held.values()
            for uid in (str(damaged.SOPInstanceUID), str(missing.SOPInstanceUID))
            if uid.encode() in path.read_bytes()
        }
        content = bytearray(found[str(damaged.SOPInstanceUID)].read_bytes())
        content[-1] ^= 1
        found[str(damaged.SOPInstanceUID)].write_bytes(bytes(content))
        found[str(missing.SOPInstanceUID)].unlink()
        assert sender.ask(refs(whole, damaged, missing)) == 0x0000
        assert sender.report() == (
            SOME_FAILED,
            [whole.SOPInstanceUID],
            {damaged.SOPInstanceUID: 0x0110, missing.SOPInstanceUID: 0x0110},
        )


def test_a_sender_that_can_be_called_gets_the_report_on_a_new_association(tmp_path: Path) -> None:
    ds, port = instance(), free_port()
    with site(tmp_path, peers=f"CAMERA@127.0.0.1:{port}") as home:
        with camera(home, port=port) as sender:
            sender.store(ds)
            assert sender.ask(refs(ds)) == 0x0000
            sender.assoc.release()  # as most modalities do
            assert states(home) == [WAITING]
            assert home.reporter.report_next()
            assert sender.report() == (SUCCESS, [ds.SOPInstanceUID], {})
        assert states(home) == [REPORTED]
        assert not home.reporter.report_next()


def test_odd_requests_are_refused_with_the_status_that_says_why(home: Site) -> None:
    ds, transaction = instance(), new_uid()
    with camera(home) as sender:
        sender.store(ds)
        assert sender.ask(refs(ds), action=2) == 0x0123
        assert sender.ask(refs(ds), instance_uid="1.2.3") == 0x0112
        assert sender.ask([]) == 0x0115
        assert sender.ask(refs(ds), transaction=transaction) == 0x0000
        assert sender.report()[0] == SUCCESS
        # The same again is answered again; the same UID for something else is not taken.
        assert sender.ask(refs(ds), transaction=transaction) == 0x0000
        assert sender.report()[0] == SUCCESS
        other = [(DERMOSCOPIC_PHOTOGRAPHY, new_uid())]
        assert sender.ask(other, transaction=transaction) == 0x0110
    assert states(home) == [REPORTED]


def test_a_sender_that_goes_and_cannot_be_called_is_reported_on_by_nobody(home: Site) -> None:
    ds = instance()
    with camera(home) as sender:
        sender.store(ds)
        assert sender.ask(refs(ds)) == 0x0000
        sender.report()
        sender.assoc.abort()
    assert states(home) in ([REPORTED], [WAITING])  # it may have gone before its answer came
    home.clock.advance(120.0)
    home.reporter.report_next()
    (row,) = home.requests()
    assert row.state == REPORTED or "LENTIGO_COMMITMENT_PEERS" in row.reason
