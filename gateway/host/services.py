"""One service under supervision, and how it is seen to be there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError
from gateway.host import embedded

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 2.0


class StartError(GatewayError):
    """A service could not be started; the message says which, why and where its log is."""


@dataclass(kw_only=True)
class Service:
    """One process under supervision."""

    name: str
    command: Callable[[], embedded.Command]
    is_ready: Callable[[], bool]
    stop_timeout_s: float = 10.0
    stop_wave: int = 0
    is_foreign: bool = False
    """Whether it is a program of others, which is told none of our secrets."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    passing_causes: tuple[str, ...] = ()
    """Words in its log after which a start that failed is tried again."""
    log_start: int = 0
    """Where the log of the process that runs begins, in bytes."""
    needs_children: bool = False
    """Whether it is of no use once a process of its own has died: Triton answers every request with
    an error when the Python stub of a model was killed, calls itself ready, and starts no other."""
    is_doubted: bool = False
    looked_at: float = 0.0

    def is_crippled(self, now: float) -> bool:
        """Return whether it has lost a child that it needs, seen at two looks in a row.

        A child that ends in order is waited for by its parent between the two.
        """
        if not self.needs_children or self.process is None or now - self.looked_at < _LOOK_EVERY_S:
            return False
        self.looked_at = now
        was_doubted, self.is_doubted = self.is_doubted, has_dead_child(self.process.pid)
        return was_doubted and self.is_doubted

    def end_group(self) -> None:
        """Kill what a dead process left behind in its process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


def check_port(bind: str, port: int, option: str) -> int:
    """Return a port that can be listened on, a free one for 0.

    Raises
    ------
    StartError
        It is taken; the message names the option that chooses another.
    """
    if port == 0:
        return embedded.free_port()
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as exc:
            raise StartError(
                f"cannot listen on {bind} port {port} ({exc.strerror}); choose another with "
                f"{option}"
            ) from exc
    return port


def die_with_parent() -> None:
    """Ask the kernel to kill this child when the supervisor dies (prctl(2), Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def has_dead_child(pid: int) -> bool:
    """Return whether a process has a child that died and that it has not waited for (proc(5))."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if state == "Z" and int(parent) == pid:
            return True
    return False


def passing_cause(service: Service, log_path: Path) -> str:
    """Return why a start that failed is worth another try, from the log; empty where it is not."""
    with log_path.open("rb") as log_file:
        log_file.seek(service.log_start)
        said = log_file.read()
    return next((each for each in service.passing_causes if each.encode() in said), "")


def end_marked(mark: str) -> None:
    """Kill what a supervisor that was killed left behind, e.g. Triton's Python stub.

    Parameters
    ----------
    mark
        ``NAME=VALUE`` that such processes have in their environment.
    """
    wanted = mark.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or belongs to somebody else


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


def http_ok(url: str) -> bool:
    """Whether a page on loopback answers 200."""
    with (
        contextlib.suppress(urllib.error.URLError, OSError),
        urllib.request.urlopen(url, timeout=2.0) as reply,  # loopback only
    ):
        return bool(reply.status == 200)
    return False
