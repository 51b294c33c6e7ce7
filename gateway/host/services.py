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
