"""One installation for tests of what goes out: record, listener, reporter, and a worker's steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select, update

from gateway.delivery.breaker import GuardedCourier
from gateway.delivery.commitment_service import StorageCommitmentService
from gateway.delivery.echo import echo
from gateway.delivery.holdings import Holdings
from gateway.delivery.reporter import CommitmentReporter, parse_peers
from gateway.delivery.routes import Destination
from gateway.delivery.sender import Sender
from gateway.listener.server import Listener
from gateway.queue import Queue
from gateway.settings import (
    CommitmentSettings,
    DeliverySettings,
    ListenerSettings,
    TlsSettings,
)
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine, utc_now
from gateway.store.intake.received_commitments import ReceivedCommitments
from gateway.store.tables import Delivery, Event, ReceivedCommitment, ResultObject, Study, WorkItem
from gateway.store.work.deliveries import DeliveryDesk
from gateway.store.work.destinations import DestinationBoard
from tests.records import Record, TestClock, new_object
from tests.storage_scp import write_object
from workers.execution import Services, work
from workers.settings import WorkerSettings

AE_TITLE = "LENTIGO"
CLASSES = (
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
)


@dataclass(frozen=True, kw_only=True)
class Us:
    """Our listener, as a peer knows it."""

    ae_title: str
    host: str
    port: int


class _NoQueue:
    def announce(self, hint: Any) -> None:
        """Nobody listens: the test is the worker."""


class Site:
    """Record, listener and reporter of one installation; its worker is the test."""

    def __init__(self, folder: Path, *, peers: str = "", tls: TlsSettings | None = None) -> None:
        self.folder = folder
        url = f"sqlite:///{folder / 'record.sqlite3'}"
        migrate(url)
        self.engine: Engine = open_engine(url)
        self.clock = TestClock()
        self.clock.now = utc_now()
        self.record = Record(self.engine, self.clock)
        self.spool = Spool(folder / "spool")
        self.desk = DeliveryDesk(self.engine, self._now)
        self.board = DestinationBoard(self.engine, max_pause_s=60.0, probe_s=20.0, clock=self._now)
        self.received = ReceivedCommitments(self.engine, self._now)
        self.tls = tls or TlsSettings()
        holdings = Holdings(self.received, folder / "spool")
        settings = CommitmentSettings(peers=peers, timeout_s=10.0)
        self.reporter = CommitmentReporter(self.received, holdings, settings, self.tls, self._now)
        self.service = StorageCommitmentService(
            self.desk, self.received, holdings, frozenset(parse_peers(peers))
        )
        self.listener = Listener(
            ListenerSettings(ae_title=AE_TITLE, port=0, reserve_bytes=0),
            self.record.intake,
            self.spool,
            services=(self.service,),
        )
        self.listener.start()

    def _now(self) -> Any:
        return self.clock()

    @property
    def us(self) -> Us:
        return Us(ae_title=AE_TITLE, host="127.0.0.1", port=self.listener.port)

    def close(self) -> None:
        self.listener.stop(grace_s=2.0)
        self.spool.close()
        self.engine.dispose()

    # --- what goes out ------------------------------------------------------------------------

    def analysed(self, destination: Destination, classes: Sequence[str] = CLASSES) -> int:
        """Return a work item whose results wait to be sent."""
        folder = self.folder / "results"
        folder.mkdir(exist_ok=True)
        (item,) = self.record.schedule()
        objects = []
        for number, uid in enumerate(classes):
            key = 1000 * item + number
            path = write_object(folder, uid, key)
            objects.append(
                new_object(
                    f"role-{number}",
                    sop_class_uid=uid,
                    sop_instance_uid=f"1.2.826.0.1.3680043.10.511.3.{key}",
                    series_instance_uid="1.2.826.0.1.3680043.10.511.2",
                    path=path.name,
                )
            )
        self.record.analyse(item, objects=tuple(objects), destinations=(str(destination),))
        return item

    def services(self, **changes: Any) -> Services:
        settings = DeliverySettings(**{"timeout_s": 5.0, "commitment_linger_s": 0.0, **changes})

        def courier_to(name: str) -> GuardedCourier:
            destination = Destination.parse(name)

            def probe() -> str:
                return echo(destination, calling_ae_title=AE_TITLE, tls=self.tls)

            sender = Sender(destination, settings, commitments=self.desk, tls=self.tls)
            return GuardedCourier(name, sender, self.board, probe)

        nothing: Any = None
        queue: Queue = _NoQueue()
        return Services(
            ledger=self.record.ledger,
            queue=queue,
            registry=nothing or (),
            source=nothing,
            documents=nothing,
            priors=nothing,
            inference=nothing,
            embeddings=nothing,
            files=nothing,
            courier_to=courier_to,
            settings=WorkerSettings(),
            results_folder=self.folder / "results",
            scratch_folder=self.folder,
            destinations=(),
            delivery_max_backoff_s=60.0,
            owner="test",
            software_version="0",
            deliveries=self.desk,
            confirm=settings.confirm,
        )

    def attempt(self, item: int, **changes: Any) -> str:
        """Do the step that a work item is due for; return its state and the deliveries' states."""
        work(self.services(**changes), item)
        return self.state(item)

    def drive(self, item: int, *, within_s: float = 30.0, **changes: Any) -> str:
        """Work on an item, as the sweeper and a worker would, until it has ended."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.is_due(item):
                self.attempt(item, **changes)
            if self.state(item) in ("COMPLETED", "CANCELED"):
                break
            time.sleep(0.05)
            self.clock.advance(0.5)
        return self.state(item)

    def pretend_stored(self, item: int) -> None:
        """Let the record believe that the destination stored everything before."""
        with self.engine.begin() as connection:
            connection.execute(update(Delivery).values(state="STORED"))

    def result_uids(self, item: int) -> set[str]:
        with self.engine.connect() as connection:
            uids = select(ResultObject.sop_instance_uid).where(ResultObject.work_item_id == item)
            return set(connection.execute(uids).scalars())

    def study(self) -> str:
        """Return the Study Instance UID of the newest study."""
        with self.engine.connect() as connection:
            uids = select(Study.study_instance_uid).order_by(Study.id.desc()).limit(1)
            return str(connection.execute(uids).scalar_one())

    def state(self, item: int) -> str:
        with self.engine.connect() as connection:
            row = connection.execute(select(WorkItem).where(WorkItem.id == item)).one()
        return str(row.state)

    def is_due(self, item: int) -> bool:
        """Whether the sweeper would announce it now."""
        return any(hint.id == item for hint in self.record.ledger.due_hints(10.0))

    def deliveries(self) -> list[tuple[str, str, str]]:
        """Return (state, confirmed by, reason) of every delivery."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(Delivery).order_by(Delivery.id)).all()
        return [(row.state, row.confirmed_by, row.reason) for row in rows]

    def timeline(self, prefix: str = "") -> list[str]:
        with self.engine.connect() as connection:
            actions = connection.execute(select(Event.action).order_by(Event.id)).scalars()
            return [action for action in actions if action.startswith(prefix)]

    def requests(self) -> list[Any]:
        """Return the senders' requests for commitment."""
        with self.engine.connect() as connection:
            return list(
                connection.execute(select(ReceivedCommitment).order_by(ReceivedCommitment.id))
            )


@contextmanager
def site(folder: Path, **settings: Any) -> Iterator[Site]:
    """Run one installation."""
    home = Site(folder, **settings)
    try:
        yield home
    finally:
        home.close()
