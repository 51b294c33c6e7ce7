"""Starting, awaiting and ending server processes.

Orthanc 1.10 and storescp take no address to listen on. Where a C compiler is installed, a small
preloaded library (``loopback_bind.c``) keeps them on loopback; elsewhere they listen on every
address: Orthanc then still refuses HTTP from other hosts and unknown called AE titles.
"""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PACKAGES = {
    "Orthanc": "orthanc orthanc-dicomweb",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "dciodvfy": "dicom3tools",
    "faketime": "faketime",
    "npm": "npm",
    "pdftotext": "poppler-utils",
    "postgres": "postgresql",
}  # everything else that the tests use is in dcmtk
_START_S = 60.0  # generous: the machine may be busy with other tests
_STOP_S = 30.0


def wait_until(
    predicate: Callable[[], T], timeout_s: float, what: str, *, interval_s: float = 0.05
) -> T:
    """Poll until `predicate` returns something true, and return it.

    Parameters
    ----------
    predicate
        Asked at least twice, the last time after the deadline; its exceptions pass through.
    timeout_s
        Deadline from now.
    what
        What is waited for: the words of the failure.
    interval_s
        Pause between two questions.

    Raises
    ------
    AssertionError
        If the deadline passes first.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() >= deadline
        answer = predicate()
        if answer:
            return answer
        if is_last:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)


def find_program(name: str) -> Path | None:
    """Return where a program is installed, None where it is not."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    if name == "postgres":
        versions = Path("/usr/lib/postgresql").glob("*/bin")
        folders += map(str, sorted(versions, key=lambda p: float(p.parent.name), reverse=True))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if name == "Orthanc" and not DICOMWEB_PLUGIN.exists():
        return None
    return Path(found) if found else None


def require(*programs: str) -> None:
    """Skip the test unless all programs are installed; fail it under ``REQUIRE_SERVICES=1``."""
    missing = [name for name in programs if find_program(name) is None]
    if not missing:
        return
    packages = " ".join(dict.fromkeys(_PACKAGES.get(name, "dcmtk") for name in missing))
    reason = f"not installed: {', '.join(missing)} (apt-get install {packages})"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Return the path of a program that the test requires."""
    require(name)
    found = find_program(name)
    assert found is not None
    return str(found)


class ServerProcess:
    """One server as a process group of its own, with its log in a file."""

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: list[str],
        is_ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        """Start, and wait until it answers.

        Raises
        ------
        AssertionError
            If it ends or does not answer in time; the message shows the end of its log.
        """
        assert self._process is None, f"{self.name} is already running"
        as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd="/",
                start_new_session=True,
                **as_user,  # type: ignore[arg-type]
            )
        process = self._process
        try:
            wait_until(
                lambda: process.poll() is not None or is_ready(), _START_S, f"{self.name} ready"
            )
            if process.poll() is not None:
                raise AssertionError(f"{self.name} ended at once, status {process.returncode}")
        except BaseException as exc:
            self.end(signal.SIGKILL)
            exc.add_note(self.log())
            raise

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id; also that of its process group."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def end(self, with_signal: signal.Signals) -> None:
        """Send a signal and wait for the end; a server that does not obey is killed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(with_signal)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it forked

    def log(self, last_bytes: int = 4000) -> str:
        """Return the end of the log."""
        return self.log_path.read_bytes()[-last_bytes:].decode(errors="replace")


@functools.cache
def _loopback_library() -> Path | None:
    """Compile ``loopback_bind.c`` once; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = tempfile.mkdtemp(prefix="lentigo-loopback-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = Path(folder) / "loopback_bind.so"
    source = str(Path(__file__).with_name("loopback_bind.c"))
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True
    )
    return library


def loopback_only() -> dict[str, str]:
    """Return the environment that keeps a server on loopback; empty without a C compiler."""
    library = _loopback_library()
    return {} if library is None else {"LD_PRELOAD": str(library)}


def accepts(port: int) -> bool:
    """Whether something on loopback accepts connections to this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
