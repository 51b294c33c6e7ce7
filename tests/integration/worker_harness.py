"""Redis, Triton and a worker as real processes around a record in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Row, select

from gateway.dicom.part10 import inspect
from gateway.host import embedded
from gateway.listener.ports import AssociationInfo
from gateway.queue import CeleryQueue
from gateway.settings import CompletenessSettings, StoreSettings
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine
from gateway.store.intake.receiving import Intake
from gateway.store.tables import WorkItem
from gateway.store.work.ledger import WorkLedger
from gateway.sweeper import Sweeper
from tests.servers import ServerProcess, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


class Redis:
    """A redis-server on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "redis.sock"
        self._process: ServerProcess | None = None
        self.client = redis.Redis(unix_socket_path=str(self._socket), socket_timeout=5)

    @property
    def url(self) -> str:
        return f"redis+socket://{self._socket}"

    def start(self) -> None:
        command = embedded.redis_command(self._socket, self._folder)
        self._process = ServerProcess("redis", self._folder / "redis.log")
        self._process.start(list(command.argv), self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        assert self._process is not None
        self._process.end(signal.SIGKILL)

    def close(self) -> None:
        self.client.close()
        if self._process is not None:
            self._process.end(signal.SIGTERM)


class Triton:
    """A tritonserver on the model repository of the project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.grpc_port, self._http_port = free_port(), free_port()
        self._process = ServerProcess("triton", folder / "triton.log")

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        command = embedded.triton_command(
            ROOT / "triton_repo",
            self._folder,
            grpc_port=self.grpc_port,
            http_port=self._http_port,
            models=("diagnosis",),
        )
        self._process.start(list(command.argv), self._is_ready, environment=command.environment)

    def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self._http_port}/v2/models/diagnosis/ready"
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(url, timeout=2) as reply,
        ):
            return bool(reply.status == 200)
        return False

    def stop(self) -> None:
        self._process.end(signal.SIGTERM)


class Worker:
    """``python -m workers`` as a process group."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._log_path = folder / "workers.log"
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers"],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the whole group at once, as a power cut would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def terminate(self) -> int:
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(60)
        self._process = None
        return status

    def children(self) -> list[int]:
        """Return the pool's processes."""
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")


class Site:
    """One installation without listener and dashboard: the test registers what it receives."""

    def __init__(self, folder: Path, broker: Redis, *, triton_url: str, send_to: str = "") -> None:
        self.settings = StoreSettings(home=folder / "home")
        self.settings.home.mkdir(parents=True, mode=0o700)
        migrate(self.settings.record_url)
        self._engine = open_engine(self.settings.record_url)
        completeness = CompletenessSettings(quiet_window_s=0.1, hint_interval_s=1.0)
        self._intake = Intake(self._engine, completeness)
        self.ledger = WorkLedger(self._engine)
        self._spool = Spool(self.settings.spool_folder)
        self._spool.prepare()
        self._sweeper = Sweeper(self._intake, self.ledger, CeleryQueue(broker.url), completeness)
        self.worker = Worker(
            folder,
            {
                "LENTIGO_HOME": str(self.settings.home),
                "LENTIGO_BROKER_URL": broker.url,
                "LENTIGO_TRITON_URL": triton_url,
                "LENTIGO_DELIVERY_DESTINATION": send_to,
                "LENTIGO_DELIVERY_MAX_BACKOFF_S": "1",
                "LENTIGO_WORKER_LEASE_S": "5",
                "LENTIGO_WORKER_MAX_BACKOFF_S": "1",
                "LENTIGO_WORKER_CONCURRENCY": "2",
            },
        )

    def receive(self, path: Path) -> None:
        """Spool and register one instance, as the listener does."""
        incoming = self._spool.begin()
        incoming.write(path.read_bytes())
        stored = self._spool.keep(incoming)
        header = inspect(self._spool.path_of(stored.relative_path))
        association = AssociationInfo(
            association_id="0" * 32,
            calling_ae_title="CAMERA",
            called_ae_title="LENTIGO",
            peer_address="127.0.0.1",
        )
        self._intake.register_instance(header=header, stored=stored, association=association)

    def rows(self, table: Any) -> list[Row[Any]]:
        with self._engine.connect() as connection:
            return list(connection.execute(select(table).order_by(table.id)))

    def wait_for(self, predicate: Any, what: str, timeout_s: float = 240.0) -> Any:
        """Sweep until the predicate holds."""

        def sweep_and_ask() -> Any:
            # A broker that is down for the moment is part of some tests.
            with contextlib.suppress(Exception):
                self._sweeper.sweep()
            return predicate()

        try:
            return wait_until(sweep_and_ask, timeout_s, what, interval_s=0.1)
        except AssertionError as exc:
            items = [(i.state, i.step, i.reason) for i in self.rows(WorkItem)]
            raise AssertionError(f"{exc}; {items}\n{self.worker.log()[-6000:]}") from exc

    def wait_for_items(self, states: set[str], count: int = 1, timeout_s: float = 240.0) -> None:
        """Wait until that many work items are in one of the states."""
        self.wait_for(
            lambda: sum(item.state in states for item in self.rows(WorkItem)) >= count,
            f"{count} work items in {sorted(states)}",
            timeout_s,
        )

    def close(self) -> None:
        self.worker.kill()
        self._engine.dispose()


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[Redis]:
    broker = Redis(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.close()


@contextlib.contextmanager
def running_triton(folder: Path) -> Iterator[Triton]:
    server = Triton(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
