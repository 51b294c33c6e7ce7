"""``lentigo up``: starts every service on one host, restarts what dies, stops all in order.

The supervisor holds no work and no state: it may be killed together with everything it started,
and the next start finds the record as the last commit left it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from gateway.faults import failpoint
from gateway.home import RunningInstance, announce_instance, retract_instance
from gateway.host import embedded
from gateway.host.environment import (
    as_environment,
    unless_in_file,
    without_password,
    without_secrets,
)
from gateway.host.first_account import create_first_account
from gateway.host.health import loopback_of
from gateway.host.restore import refuse_half_restored
from gateway.host.services import (
    Service,
    StartError,
    answers,
    check_port,
    die_with_parent,
    end_marked,
    http_ok,
    passing_cause,
)
from gateway.rule_watch import check_at_start
from gateway.settings import (
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    RuleSettings,
    StoreSettings,
)
from gateway.store.engine import migrate
from gateway.store.schema import refuse_newer_schema

log = logging.getLogger(__name__)

_MARK = "LENTIGO_SUPERVISED"
READY_TIMEOUT_S = 180.0
_HEALTHY_AFTER_S = 30.0
_START_RETRIES = 2
# Boost's message where a segment of shared memory vanishes between two steps of Triton's start; and
# gRPC's where somebody connects from the port that was found free.
_PASSING_CAUSES = ("lock_exception", "already in use")


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What ``lentigo up`` was asked for; external servers are used when their URL is given."""

    store: StoreSettings
    listener: ListenerSettings
    dashboard: DashboardSettings
    delivery: DeliverySettings
    broker_url: str = ""
    triton_url: str = ""
    repository: Path = field(default=Path(__file__).resolve().parents[2] / "triton_repo")
    models: tuple[str, ...] = ("*",)
    """Models that the embedded Triton loads."""
    triton_traces: str = ""
    """Where the embedded Triton sends its spans; empty: nowhere."""


class Supervisor:
    """Starts, watches and stops the services of one home folder."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._home = options.store.home
        self._stopping = False
        self._services: list[Service] = []
        self._environment: dict[str, str] = {}
        self.instance: RunningInstance | None = None

    # -- start ------------------------------------------------------------------------------

    def run(self) -> int:
        """Start everything, print the ready line, watch until SIGTERM or SIGINT; return 0.

        Raises
        ------
        StartError
            A service could not be started; everything started so far has been stopped.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with self._lock():
            end_marked(f"{_MARK}={self._home}")
            try:
                self._prepare()
                if self._start_all():
                    self._announce()
                    while not self._stopping:
                        self._watch()
                        time.sleep(0.2)
            finally:
                self._stop_all()
                retract_instance(self._home)
        return 0

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        store = self._options.store
        folders = (store.run_folder, store.log_folder, store.results_folder, store.spool_folder)
        for folder in (self._home, *folders):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as exc:
                raise StartError(f"cannot make {folder} ({exc.strerror})") from exc
        with (self._options.store.run_folder / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise StartError(f"Lentigo already runs on {self._home}") from exc
            yield

    def _prepare(self) -> None:
        options = self._options
        refuse_half_restored(options.store.home)
        refuse_newer_schema(options.store.record_url)
        migrate(options.store.record_url)
        check_at_start(options.store.record_url, RuleSettings().file, options.delivery.destination)
        failpoint("supervisor.migrated")
        create_first_account(options.store, options.dashboard)
        dicom_port = check_port(options.listener.bind, options.listener.port, "--dicom-port")
        http_port = check_port(options.dashboard.bind, options.dashboard.port, "--http-port")
        broker_url, triton_url, triton_http = options.broker_url, options.triton_url, ""
        if not broker_url:
            broker_url = self._add_redis(self._socket_path())
        if not triton_url:
            grpc_port, triton_http_port = embedded.free_port(), embedded.free_port()
            triton_url = f"127.0.0.1:{grpc_port}"
            triton_http = f"http://127.0.0.1:{triton_http_port}"
            self._add_triton(grpc_port, triton_http_port, triton_http)
        self.instance = RunningInstance(
            home=str(self._home),
            pid=os.getpid(),
            ae_title=options.listener.ae_title,
            dicom_port=dicom_port,
            http_port=http_port,
            broker_url=without_password(broker_url),
            triton_url=triton_url,
            triton_http_url=triton_http,
            database_url=without_password(options.store.database_url),
            destination=options.delivery.destination,
            started_at=time.time(),
        )
        self._environment = {
            **os.environ,
            _MARK: str(self._home),
            **as_environment(options.store, options.listener, options.dashboard, options.delivery),
            **unless_in_file("LENTIGO_DATABASE_URL", options.store.database_url),
            "LENTIGO_LISTENER_PORT": str(dicom_port),
            "LENTIGO_DASHBOARD_PORT": str(http_port),
            **unless_in_file("LENTIGO_BROKER_URL", broker_url),
            "LENTIGO_TRITON_URL": triton_url,
            "PYTHONUNBUFFERED": "1",
        }
        for lane in ("quick", "long"):
            self._add_workers(lane)
        self._add_python("sweeper", "-m", "gateway", "sweep")
        self._add_python(
            "dashboard",
            *("-m", "gateway", "dashboard"),
            is_ready=lambda: self._page_answers(http_port),
        )
        self._add_python(
            "listener",
            *("-m", "gateway", "listen"),
            is_ready=lambda: answers(loopback_of(options.listener.bind), dicom_port),
        )

    def _page_answers(self, port: int) -> bool:
        page = self._options.dashboard
        if page.tls_certificate is not None:  # for a name, which loopback is not
            return answers(loopback_of(page.bind), port)
        return http_ok(f"http://{loopback_of(page.bind)}:{port}/healthz")

    def _socket_path(self) -> Path:
        """Return a path for Redis's socket; a Unix socket's may have 107 bytes at most."""
        path = self._options.store.run_folder / "redis.sock"
        if len(str(path).encode()) > 100:
            path = Path(tempfile.mkdtemp(prefix="lentigo-")) / "redis.sock"
        return path

    def _add_redis(self, path: Path) -> str:
        """Add a Redis of our own; return its URL."""
        client = redis.Redis(unix_socket_path=str(path), socket_timeout=1.0)

        def is_ready() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

        def command() -> embedded.Command:
            path.unlink(missing_ok=True)
            return embedded.redis_command(path, self._options.store.run_folder)

        self._services.append(
            Service(name="redis", command=command, is_ready=is_ready, stop_wave=2, is_foreign=True)
        )
        return f"redis+socket://{path}"

    def _add_triton(self, grpc_port: int, http_port: int, url: str) -> None:
        self._services.append(
            Service(
                name="triton",
                command=lambda: embedded.triton_command(
                    self._options.repository,
                    self._options.store.run_folder,
                    grpc_port=grpc_port,
                    http_port=http_port,
                    models=self._options.models,
                    traces=self._options.triton_traces,
                ),
                is_ready=lambda: http_ok(f"{url}/v2/health/ready"),
                passing_causes=_PASSING_CAUSES,
                needs_children=True,
                stop_timeout_s=15.0,
                stop_wave=2,
                is_foreign=True,
            )
        )

    def _add_workers(self, lane: str) -> None:
        """Add one worker group; ``workers.app`` leaves the note once it consumes."""
        note = self._options.store.run_folder / f"workers-{lane}.ready"
        note.unlink(missing_ok=True)
        self._add_python(
            *(f"workers-{lane}", "-m", "workers"),
            is_ready=note.exists,
            stop_timeout_s=20.0,
            stop_wave=1,
            environment={"LENTIGO_WORKER_LANE": lane},
        )

    def _add_python(
        self,
        name: str,
        *arguments: str,
        is_ready: Callable[[], bool] = lambda: True,
        stop_timeout_s: float = 10.0,
        stop_wave: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._services.append(
            Service(
                name=name,
                command=lambda: embedded.Command(
                    argv=(sys.executable, *arguments), environment=dict(environment or {})
                ),
                is_ready=is_ready,
                stop_timeout_s=stop_timeout_s,
                stop_wave=stop_wave,
            )
        )

    def _log_path(self, service: Service) -> Path:
        return self._options.store.log_folder / f"{service.name}.log"

    def _start(self, service: Service) -> None:
        command = service.command()
        environment = {**self._environment, **command.environment}
        if service.is_foreign:
            environment = without_secrets(environment)
        with self._log_path(service).open("ab") as sink:
            service.log_start = sink.tell()
            service.process = subprocess.Popen(
                command.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # A session of its own: Ctrl-C reaches us alone, and a group can be ended whole.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        service.started_at = time.monotonic()

    def _start_all(self) -> bool:
        for service in self._services:
            self._start(service)
        failpoint("supervisor.started")
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = list(self._services)
        while waiting and not self._stopping:
            for service in waiting:
                if service.process is None or service.process.poll() is None:
                    continue
                cause = passing_cause(service, self._log_path(service))
                if not cause or service.failures >= _START_RETRIES:
                    raise StartError(self._failure(service, "ended while starting"))
                _say(f"{service.name} ended while starting ({cause}); trying once more")
                service.end_group()
                service.failures += 1
                self._start(service)
            if time.monotonic() > deadline:
                raise StartError(self._failure(waiting[0], "is not ready in time"))
            waiting = [service for service in waiting if not service.is_ready()]
            time.sleep(0.05)
        return not self._stopping

    def _failure(self, service: Service, what: str) -> str:
        path = self._log_path(service)
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else "it said nothing"
        return f"{service.name} {what}: {last} (log: {path})"

    def _announce(self) -> None:
        assert self.instance is not None
        announce_instance(self.instance)
        listener, dashboard = self._options.listener, self._options.dashboard
        print(
            f"lentigo ready: DICOM {listener.ae_title}@{listener.bind}:{self.instance.dicom_port}"
            f"  admin http://{loopback_of(dashboard.bind)}:{self.instance.http_port}/"
            f"  results to {self.instance.destination or self._options.store.results_folder}"
            f"  home {self._home}",
            flush=True,
        )

    # -- watch and stop ---------------------------------------------------------------------

    def _watch(self) -> None:
        now = time.monotonic()
        for service in self._services:
            if service.process is None:
                if now >= service.restart_at:
                    failpoint("supervisor.restart")
                    self._start(service)
                continue
            status = service.process.poll()
            if status is None:
                if service.is_crippled(now):
                    _say(f"{service.name} has lost a process of its own and is started again")
                    service.process.kill()
                if service.failures and now - service.started_at > _HEALTHY_AFTER_S:
                    service.failures = 0
                continue
            service.end_group()
            pause_s = min(0.2 * 2**service.failures, 10.0)
            service.failures += 1
            service.process = None
            service.restart_at = now + pause_s
            _say(
                f"{service.name} ended with status {status}; "
                f"restarting in {pause_s:.1f} s (log: {self._log_path(service)})"
            )

    def _stop_all(self) -> None:
        """Stop in waves: what brings work in, then what does it, then what that needs."""
        for wave in sorted({service.stop_wave for service in self._services}):
            services = [each for each in self._services if each.stop_wave == wave]
            for service in services:
                if service.process is not None and service.process.poll() is None:
                    service.process.terminate()
            for service in services:
                self._wait_for_end(service)

    def _wait_for_end(self, service: Service) -> None:
        process = service.process
        if process is None:
            return
        try:
            process.wait(service.stop_timeout_s)
        except subprocess.TimeoutExpired:
            _say(f"{service.name} had to be killed")
        service.end_group()
        process.wait()


def _say(what: str) -> None:
    print(f"lentigo: {what}", file=sys.stderr, flush=True)
