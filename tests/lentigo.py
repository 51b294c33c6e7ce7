"""Starts the real Lentigo, or one of its servers, on loopback for a test or a bench."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from gateway.demo.archive import archive
from gateway.home import RunningInstance, running_instance
from gateway.host import embedded
from gateway.host.embedded import free_port
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine, reading
from gateway.store.reading.status import study_list
from gateway.store.states import FINAL_STATES
from gateway.store.tables import Instance
from tests.servers import wait_until

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "a one-time password"


class Lentigo:
    """One ``lentigo up`` as a process, and what a test asks of it."""

    def __init__(
        self,
        home: Path,
        *,
        send_to: str = "",
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        models: tuple[str, ...] = ("diagnosis",),
    ) -> None:
        self.home = home
        self._arguments = (
            *("up", "--home", str(home), "--dicom-port", str(free_port())),
            *("--http-port", str(free_port())),
            *(("--send-to", send_to) if send_to else ()),
            *(("--models", *models) if models else ()),
            *arguments,
        )
        self._environment = {
            **os.environ,
            "LENTIGO_DASHBOARD_INITIAL_PASSWORD": PASSWORD,
            **(environment or {}),
        }
        self.ready_line = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, timeout_s: float = 120.0, *, clock: str = "") -> None:
        """Start, and wait for the ready line.

        Parameters
        ----------
        clock
            How far the clock of every service is off, as ``faketime`` reads it, e.g. ``+1d``;
            ``@FILE``: what the file says at any moment.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()  # of one that was killed
        log = (self.home / "up.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", *self._arguments],
            env={**self._environment, **(_wrong_clock(clock) if clock else {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        # Without it a hung start would hang the test in readline.
        guard = threading.Timer(timeout_s, self._process.kill)
        guard.start()
        try:
            assert self._process.stdout is not None
            self.ready_line = self._process.stdout.readline()
        finally:
            guard.cancel()
        if "ready" not in self.ready_line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)  # it has said why and ends
            raise AssertionError(f"lentigo up did not get ready: {self.log()}")

    def log(self) -> str:
        """Return what the supervisor said on stderr, with the ends of the services' logs."""
        texts = [(self.home / "up.log").read_text()[-2000:]]
        for path in sorted((self.home / "logs").glob("*.log")):
            texts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
        return "\n".join(texts)

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def instance(self) -> RunningInstance:
        """Ports and addresses of the running instance."""
        found = running_instance(self.home.resolve())
        assert found is not None
        return found

    def children(self) -> dict[str, int]:
        """Return the process id of each service, by name."""
        found: dict[str, int] = {}
        words = {
            "redis": "redis-server",
            "triton": "tritonserver",
            "workers": "workers",
            "sweeper": "sweep",
            "dashboard": "dashboard",
            "listener": "listen",
        }
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(status[1]) != self.pid:
                    continue
                line = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # Redis writes its own process title, with the socket's path behind the program's name.
            text = [
                Path(part).name
                for word in line
                for part in word.decode(errors="replace").split(" ")
            ]
            for name, word in words.items():
                if word not in text:
                    continue
                lanes = [word for word in environment if word.startswith(b"LENTIGO_WORKER_LANE=")]
                lane = f"-{lanes[0].decode().partition('=')[2]}" if name == "workers" else ""
                found[name + lane] = int(entry.name)
        return found

    @property
    def is_running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self, name: str) -> None:
        """Send SIGKILL to one service, as a power cut would."""
        os.kill(self.children()[name], signal.SIGKILL)

    def kill_model_process(self) -> None:
        """Send SIGKILL to the process in which Triton runs a model, as the kernel's OOM killer."""
        models = children_of(self.children()["triton"])
        assert models, "Triton runs no model in a process of its own"
        os.kill(next(iter(models)), signal.SIGKILL)

    def kill_all(self) -> None:
        """Send SIGKILL to the supervisor and all of its services at once."""
        assert self._process is not None
        pids = [self.pid, *self.children().values()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM; return the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._process = None
        return code

    def service_environment(self) -> dict[str, str]:
        """Return the environment of one more service beside those that run."""
        entry = Path(f"/proc/{self.children()['sweeper']}/environ").read_bytes()
        pairs = (each.decode().partition("=") for each in entry.split(b"\0") if each)
        return {name: value for name, _, value in pairs}

    def status(self) -> list[dict[str, Any]]:
        """Return what ``lentigo status --json`` says."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "status", "--json", "--home", str(self.home)],
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = json.loads(done.stdout)
        assert isinstance(found, list)
        return found

    def studies(self) -> dict[str, dict[str, Any]]:
        """Return every study by its UID, read from the record directly."""
        store = StoreSettings(home=self.home)
        engine = open_engine(store.record_url)
        try:
            listed = study_list(engine, store.results_folder)
            return {study["study_instance_uid"]: study for study in listed}
        finally:
            engine.dispose()

    def own_results(self) -> int:
        """Return how many of our own results came back and were filed."""
        engine = open_engine(StoreSettings(home=self.home).record_url)
        try:
            with reading(engine) as connection:
                query = select(func.count()).where(Instance.disposition == "own_result")
                return int(connection.execute(query).scalar_one())
        finally:
            engine.dispose()

    def wait_for_states(
        self, states: set[str], count: int, timeout_s: float = 120.0
    ) -> dict[str, dict[str, Any]]:
        """Wait until ``count`` studies are in one of the states; return all studies."""

        def reached() -> bool:
            return sum(s["state"] in states for s in self.studies().values()) >= count

        try:
            wait_until(reached, timeout_s, f"{count} studies in {sorted(states)}")
        except AssertionError as exc:
            seen = {uid: (s["state"], s["reason"]) for uid, s in self.studies().items()}
            raise AssertionError(f"{exc}; seen {seen}\n{self.log()}") from exc
        return self.studies()

    def wait_for_study(self, study_instance_uid: str, timeout_s: float = 120.0) -> None:
        """Wait until one study is in a final state."""
        wait_until(
            lambda: self.studies().get(study_instance_uid, {}).get("state") in FINAL_STATES,
            timeout_s,
            "the study",
        )

    def wait_for_studies(self, count: int, timeout_s: float = 120.0) -> None:
        """Wait until that many studies are completed."""
        self.wait_for_states({"completed"}, count, timeout_s)

    def command(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run another ``lentigo`` command on the same home; return what it printed."""
        done = self._run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def diagnosis(self) -> list[dict[str, Any]]:
        """Return what ``lentigo doctor --json`` says."""
        done = self._run("doctor", "--json", timeout_s=120)
        found = json.loads(done.stdout)
        assert isinstance(found, list)
        return found

    def _run(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            env={**self._environment, "LENTIGO_HOME": str(self.home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def dicom_port(self) -> int:
        """The listener's port."""
        return self.instance.dicom_port


def _wrong_clock(offset: str) -> dict[str, str]:
    """Return the environment that moves the clock of a program (libfaketime)."""
    (library,) = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))[:1]
    sleeping = str(ROOT / "tests" / "servers" / "clock_site")
    return {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join(filter(None, (sleeping, os.environ.get("PYTHONPATH", "")))),
        **(
            {"FAKETIME_TIMESTAMP_FILE": offset[1:], "FAKETIME_CACHE_DURATION": "1"}
            if offset.startswith("@")
            else {"FAKETIME": offset}
        ),
        # A host whose clock is set goes on counting: only the time of day jumps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@contextlib.contextmanager
def running_lentigo(
    home: Path, *, send_to: str = "", to_archive: bool = False, **options: Any
) -> Iterator[Lentigo]:
    """Run Lentigo; with ``to_archive`` results go to pynetdicom's query/retrieve server."""
    with contextlib.ExitStack() as stack:
        if to_archive:
            send_to = stack.enter_context(archive(home.parent / f"{home.name}-archive"))
        lentigo = Lentigo(home, send_to=send_to, **options)
        lentigo.start()
        try:
            yield lentigo
        finally:
            lentigo.stop()


@contextlib.contextmanager
def _process(command: embedded.Command, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def running_triton(
    folder: Path,
    repository: Path = ROOT / "triton_repo",
    models: Sequence[str] = ("diagnosis",),
    *,
    started_by: Sequence[str] = (),
) -> Iterator[str]:
    """Run the real Triton on models of a repository; yield its gRPC address.

    `started_by` is a command that starts it, with Triton's own behind it.
    """
    import urllib.error
    import urllib.request

    grpc_port, http_port = free_port(), free_port()
    command = embedded.triton_command(
        repository, folder, grpc_port=grpc_port, http_port=http_port, models=models
    )
    command = dataclasses.replace(command, argv=(*started_by, *command.argv))

    def is_ready() -> bool:
        try:
            url = f"http://127.0.0.1:{http_port}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with _process(command, folder / "triton.log"):
        wait_until(is_ready, 90.0, "Triton")
        yield f"127.0.0.1:{grpc_port}"


def children_of(pid: int) -> dict[int, str]:
    """Return the command line of each child of a process, by process id (proc(5))."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found[int(entry.name)] = (entry / "cmdline").read_text()
        except (OSError, ValueError, IndexError):
            continue  # no process, or it ended meanwhile
    return found


def wait_a_moment(seconds: float) -> None:
    """Let time pass on purpose: to show that something does NOT happen."""
    time.sleep(seconds)
