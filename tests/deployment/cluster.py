"""Lentigo as a clinic runs it: each service a process of its own, servers elsewhere, one spool.

Every process is started by the command that its container runs, with nothing but environment
variables; a database, a broker with a password and a model server are reached by TCP.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine, select

from gateway.host.embedded import find_redis_server
from gateway.store.engine import open_engine, reading
from gateway.store.tables import Delivery, Instance, ResultObject, Study, WorkItem
from tests.lentigo import ROOT, running_triton
from tests.servers import ServerProcess, free_port, postgres, wait_until
from tests.servers.process import accepts

START_S = 120.0
QUIET_WINDOW_S = 3.0
LEASE_S = 4.0


@dataclass
class Cluster:
    """The processes of one clinic and what a test asks of them."""

    folder: Path
    environment: dict[str, str]
    processes: dict[str, ServerProcess] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The folder that every service shares."""
        return Path(self.environment["LENTIGO_HOME"])

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the deployment to its end."""
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **self.environment, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def health(self, service: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a container."""
        return self.command("-m", "gateway.cli", "health", service, **environment)

    def start_listener(self, name: str) -> None:
        """Start ``python -m gateway listen`` on a port of its own and wait until it answers."""
        port = self.ports.setdefault(name, free_port())
        self._start(
            name,
            ("-m", "gateway", "listen"),
            lambda: accepts(port),
            {"LENTIGO_LISTENER_PORT": str(port)},
        )

    def start_sweeper(self, name: str) -> None:
        """Start ``python -m gateway sweep``."""
        self._start(name, ("-m", "gateway", "sweep"), lambda: True, {})

    def start_workers(self, name: str, lane: str = "all") -> None:
        """Start ``python -m workers`` without waiting: see ``wait_for_workers``."""
        self._start(name, ("-m", "workers"), lambda: True, {"LENTIGO_WORKER_LANE": lane})

    def _start(self, name: str, arguments: Any, is_ready: Any, environment: Any) -> None:
        process = ServerProcess(name, self.folder / f"{name}.log")
        # The package lies in the source tree, and a server starts in the root folder.
        process.start(
            [sys.executable, *arguments],
            is_ready,
            environment={**self.environment, **environment, "PYTHONPATH": str(ROOT)},
        )
        self.processes[name] = process

    def kill(self, name: str) -> None:
        """Send SIGKILL to one service and to all that it forked."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.end(signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Send SIGTERM and wait for the end."""
        self.processes.pop(name).end(signal.SIGTERM)

    def stop_all(self) -> None:
        """Stop what brings work in first."""
        for name in sorted(self.processes):
            self.stop(name)

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


@contextlib.contextmanager
def redis_with_password(folder: Path) -> Iterator[str]:
    """Run a Redis on TCP that wants a password; yield its URL."""
    port, password = free_port(), secrets.token_urlsafe(12)
    configuration = folder / "redis.conf"
    configuration.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\n'
        f"dir {folder}\n"
    )
    server = ServerProcess("redis", folder / "redis.log")
    client = redis.Redis(port=port, password=password, socket_timeout=2.0)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    with client:
        server.start([str(find_redis_server()), str(configuration)], answers)
        try:
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            server.end(signal.SIGTERM)


@contextlib.contextmanager
def cluster(folder: Path, destination: str) -> Iterator[Cluster]:
    """Run the servers, migrate, and yield a clinic without services yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        environment = {
            "LENTIGO_HOME": str(folder / "home"),
            "LENTIGO_DATABASE_URL": stack.enter_context(postgres(folder / "postgres")),
            "LENTIGO_BROKER_URL": stack.enter_context(redis_with_password(folder)),
            "LENTIGO_TRITON_URL": stack.enter_context(running_triton(folder)),
            "LENTIGO_DELIVERY_DESTINATION": destination,
            "LENTIGO_COMPLETENESS_QUIET_WINDOW_S": str(QUIET_WINDOW_S),
            "LENTIGO_WORKER_LEASE_S": str(LEASE_S),
            "LENTIGO_WORKER_CONCURRENCY": "1",
            "LENTIGO_DASHBOARD_INITIAL_PASSWORD": secrets.token_urlsafe(12),
        }
        clinic = Cluster(folder, environment)
        stack.callback(clinic.stop_all)
        done = clinic.command("-m", "gateway", "migrate")
        assert done.returncode == 0, done.stderr
        (clinic.home / "run").mkdir()
        yield clinic


# -- invariants -------------------------------------------------------------------------------


def broken_invariants(engine: Engine, home: Path, acknowledged: set[str]) -> list[str]:
    """Return what a clinic at rest must not show; empty when all is well."""
    with reading(engine) as connection:
        instances = connection.execute(select(Instance)).all()
        studies = connection.execute(select(Study)).all()
        items = connection.execute(select(WorkItem)).all()
        objects = connection.execute(select(ResultObject)).all()
        deliveries = connection.execute(select(Delivery)).all()
    known = {each.sop_instance_uid for each in instances}
    broken = [f"acknowledged and not in the record: {uid}" for uid in acknowledged - known]
    for each in instances:
        path = home / "spool" / each.path
        if not path.is_file():
            broken.append(f"instance {each.id} has no file")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != each.sha256:
            broken.append(f"instance {each.id} has other bytes")
    broken += [f"study {each.id} is {each.state}" for each in studies if each.state != "completed"]
    broken += [
        f"work item {each.id} is {each.state}" for each in items if each.state != "COMPLETED"
    ]
    made = {each.id for each in objects}
    sent = [each.result_object_id for each in deliveries]
    broken += [f"object {each} was never sent" for each in made - set(sent)]
    broken += [f"object {each} was sent twice" for each in set(sent) if sent.count(each) > 1]
    broken += [
        f"delivery {each.id} is {each.state} by {each.confirmed_by}"
        for each in deliveries
        if (each.state, each.confirmed_by) != ("CONFIRMED", "c-find")
    ]
    return broken


def states(engine: Engine) -> dict[str, str]:
    """Return the state of each study by its UID."""
    with reading(engine) as connection:
        query = select(Study.study_instance_uid, Study.state)
        return {uid: state for uid, state in connection.execute(query)}


def wait_for_rest(clinic: Cluster, engine: Engine, count: int, timeout_s: float) -> None:
    """Wait until that many studies are completed and none is on its way."""

    def at_rest() -> bool:
        seen = states(engine)
        return len(seen) >= count and set(seen.values()) == {"completed"}

    try:
        wait_until(at_rest, timeout_s, f"{count} studies completed", interval_s=0.25)
    except AssertionError as exc:
        exc.add_note(f"{states(engine)}\n{clinic.logs()}")
        raise


@contextlib.contextmanager
def record_of(clinic: Cluster) -> Iterator[Engine]:
    """Open the record of a clinic."""
    engine = open_engine(clinic.environment["LENTIGO_DATABASE_URL"])
    try:
        yield engine
    finally:
        engine.dispose()
