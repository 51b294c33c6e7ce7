"""Reports on storage commitment to senders: killed or hung at every step, a clock set back."""

import datetime as dt
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, evt
from sqlalchemy import select

from gateway.delivery.commitment import (
    ALL_COMMITTED,
    REQUEST_ACTION,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    build_request,
)
from gateway.delivery.routes import Destination
from gateway.delivery.scu import Proposal, associate
from gateway.errors import AssociationRefused, LeaseLost
from gateway.settings import TlsSettings
from gateway.store.engine import migrate, open_engine, reading
from gateway.store.intake.received_commitments import REPORTED, ReceivedCommitments
from gateway.store.tables import ReceivedCommitment
from gateway.store.work.clock_watch import ClockWatch
from tests.faults.site import Site, site
from tests.records import TestClock
from tests.servers import free_port, wait_until
from tests.storage_scp import StorageScp

pytestmark = pytest.mark.timeout(400)

LEASE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A sender that asks for storage commitment and takes reports on associations of ours."""

    address: str
    reports: "queue.Queue[tuple[str, int]]"
    """Transaction UID and Event Type ID."""

    def ask(self, port: int, transaction_uid: str, instances: dict[str, str]) -> bool:
        """Send the N-ACTION and go; return whether it was taken."""
        proposal = Proposal(
            calling_ae_title="CAMERA",
            contexts=[build_context(STORAGE_COMMITMENT)],
            timeout_s=10.0,
        )
        peer = Destination.parse(f"LENTIGO@127.0.0.1:{port}")
        try:
            # Not by pynetdicom's own AE: it leaves the socket of a refused connection open.
            assoc = associate(peer, proposal, TlsSettings())
        except AssociationRefused:
            return False
        status, _ = assoc.send_n_action(
            build_request(transaction_uid, instances),
            REQUEST_ACTION,
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
        )
        if assoc.is_established:
            assoc.release()
        return "Status" in status and status.Status == 0x0000


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    port = free_port()
    reports: queue.Queue[tuple[str, int]] = queue.Queue()

    def on_report(event: Any) -> tuple[int, None]:
        information: Dataset = event.event_information
        reports.put((str(information.TransactionUID), event.request.EventTypeID))
        return 0x0000, None

    server = AE(ae_title="CAMERA").start_server(
        ("127.0.0.1", port),
        block=False,
        contexts=[build_context(STORAGE_COMMITMENT)],
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
    )
    yield Camera(address=f"CAMERA@127.0.0.1:{port}", reports=reports)
    server.shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, camera: Camera) -> Iterator[Site]:
    with (
        StorageScp().serving() as pacs,
        site(
            tmp_path_factory.mktemp("f"),
            pacs=pacs,
            environment={
                "LENTIGO_COMMITMENT_PEERS": camera.address,
                "LENTIGO_COMMITMENT_LEASE_S": str(LEASE_S),
                "LENTIGO_COMMITMENT_MAX_BACKOFF_S": "1",
            },
        ) as found,
    ):
        found.can_find = False
        yield found


def state_of(running: Site, transaction_uid: str) -> str | None:
    engine = open_engine(running.store.record_url)
    try:
        with reading(engine) as connection:
            return connection.execute(
                select(ReceivedCommitment.state).where(
                    ReceivedCommitment.transaction_uid == transaction_uid
                )
            ).scalar()
    finally:
        engine.dispose()


@pytest.mark.faults
@pytest.mark.parametrize(
    "plan",
    [
        "commitment.registered=kill",
        "commitment.claimed=kill",
        "commitment.checked=kill",
        "commitment.told=kill",
        "commitment.checked=eio",
        "commitment.claimed=sleep:8",  # longer than the lease
    ],
)
def test_a_report_that_is_interrupted_at_a_step_is_made(
    healthy: Site, camera: Camera, plan: str
) -> None:
    """The sender hears at least once that all is safe, and the record knows it."""
    paths = healthy.make()
    healthy.send(paths)
    ds = pydicom.dcmread(paths[0], stop_before_pixels=True)
    instances, transaction_uid = {str(ds.SOPInstanceUID): str(ds.SOPClassUID)}, generate_uid()
    healthy.arm(plan)
    wait_until(
        lambda: camera.ask(healthy.port, transaction_uid, instances),
        90,
        "a request that is taken",
        interval_s=0.2,
    )
    wait_until(
        lambda: state_of(healthy, transaction_uid) == REPORTED,
        60,
        f"a report that was taken\n{healthy.lentigo.log()}",
    )
    assert healthy.passes(plan.partition("=")[0]) >= 1
    heard = []
    while not camera.reports.empty():
        heard.append(camera.reports.get())
    assert set(heard) == {(transaction_uid, ALL_COMMITTED)}
    if "sleep" in plan:
        assert len(heard) == 1  # the heartbeat held it
    healthy.check(paths, plan)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[tuple[ReceivedCommitments, TestClock]]:
    url = f"sqlite:///{tmp_path / 'record.sqlite3'}"
    migrate(url)
    engine, clock = open_engine(url), TestClock()
    yield ReceivedCommitments(engine, clock), clock
    engine.dispose()


def due(book: ReceivedCommitments) -> int:
    found = book.register(
        calling_ae_title="CAMERA",
        called_ae_title="LENTIGO",
        transaction_uid=generate_uid(),
        instances={"1.2.3": "1.2"},
        due_in_s=0.0,
    )
    assert found is not None
    return found


def test_the_report_of_a_dead_process_is_taken_over_after_its_lease(
    book: tuple[ReceivedCommitments, TestClock],
) -> None:
    record, clock = book
    number = due(record)
    first = record.claim_due(30.0)
    assert first is not None
    clock.advance(20.0)
    held_until = record.extend(number, first.held_until, 30.0)
    clock.advance(20.0)
    assert record.claim_due(30.0) is None
    clock.advance(10.0)
    second = record.claim_due(30.0)
    assert second is not None
    assert second.attempts == 2
    with pytest.raises(LeaseLost):
        record.extend(number, held_until, 30.0)
    record.reported(number)
    with pytest.raises(LeaseLost):
        record.extend(number, second.held_until, 30.0)


def test_a_clock_that_is_set_back_delays_no_report(
    book: tuple[ReceivedCommitments, TestClock],
) -> None:
    record, clock = book
    monotonic = [0.0]
    watch = ClockWatch(record._engine, clock, lambda: monotonic[0])
    watch.look()
    number = due(record)
    assert record.claim_due(30.0) is not None
    record.postpone(number, "no answer", attempts=1, max_pause_s=1.0)
    clock.now -= dt.timedelta(days=400)
    assert watch.look() < 0
    clock.advance(2.0)
    assert record.claim_due(30.0) is not None
