"""``lentigo health``: does one service of this host still turn, said by its exit code.

For container health checks and Kubernetes probes. A service that waits for a database, a broker or
a model server is healthy: restarting it would mend nothing and lose what it does. Only one that
has stopped turning is not.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis
from kombu.exceptions import KombuError
from kombu.utils.url import parse_url

from gateway.host.services import answers
from gateway.settings import BrokerSettings, DashboardSettings, ListenerSettings, StoreSettings

STALE_AFTER_S = 60.0
"""Age of a mark after which its service has stopped turning; marks are renewed every few
seconds."""
_ANSWER_S = 5.0
# An A-RELEASE-RQ outside of an association (PS3.8 9.3.6). Whoever turns answers with A-ABORT
# (state 2, AA-1), a TLS server with an alert: nobody needs to be let in for that.
_RELEASE_REQUEST = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def alive_mark(mark_folder: Path, service: str) -> Path:
    """Return the file whose time of change says when a service last turned."""
    return mark_folder / f"{service}.alive"


def leave_mark(path: Path) -> None:
    """Note that a service turns; without its folder nobody asks."""
    if path.parent.is_dir():
        path.touch(mode=0o600)


class MarkedStop(threading.Event):
    """A stop event that leaves a mark whenever a service waits for it, once a round."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def wait(self, timeout: float | None = None) -> bool:
        """Leave the mark, then wait."""
        leave_mark(self._mark)
        return super().wait(timeout)


def listener_problem(settings: ListenerSettings) -> str:
    """Say what is wrong with the listener of this host; empty when it answers."""
    host = loopback_of(settings.bind)
    try:
        with socket.create_connection((host, settings.port), timeout=_ANSWER_S) as connection:
            connection.sendall(_RELEASE_REQUEST)
            connection.settimeout(_ANSWER_S)
            connection.recv(64)
    except ConnectionResetError:
        return ""  # it closed before it read all of ours: it turns
    except OSError as exc:
        return f"the listener does not answer on {host} port {settings.port} ({_why(exc)})"
    return ""


def page_problem(settings: DashboardSettings) -> str:
    """Say what is wrong with the admin page of this host; empty when it answers."""
    host = loopback_of(settings.bind)
    if answers(host, settings.port):
        return ""
    return f"the admin page does not answer on {host} port {settings.port}"


def mark_problem(mark: Path, what: str) -> str:
    """Say how old a mark is; empty when it is fresh."""
    try:
        age_s = time.time() - mark.stat().st_mtime
    except OSError as exc:
        return f"{what} left no mark yet ({_why(exc)})"
    return "" if age_s < STALE_AFTER_S else f"{what} stands still since {age_s:.0f} s"


def workers_problem(store: StoreSettings, broker: BrokerSettings, lane: str) -> str:
    """Say what is wrong with a worker group; one that waits for the broker is healthy."""
    problem = mark_problem(alive_mark(store.mark_folder, f"workers-{lane}"), f"workers {lane}")
    return problem if problem and _broker_answers(broker.url) else ""


def loopback_of(bind: str) -> str:
    """Return the address on which this host reaches what listens on ``bind``."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(bind, bind)


def _why(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__


def _broker_answers(url: str) -> bool:
    try:
        parts = parse_url(url)
        client = (
            redis.Redis(unix_socket_path=f"/{parts['virtual_host']}", socket_timeout=_ANSWER_S)
            if "socket" in url.partition("://")[0]
            else redis.Redis.from_url(url, socket_timeout=_ANSWER_S)
        )
        with client:
            return bool(client.ping())
    except (redis.RedisError, KombuError, OSError, ValueError):
        return False


_CHECKS: dict[str, Callable[[], str]] = {
    "listener": lambda: listener_problem(ListenerSettings()),
    "admin-page": lambda: page_problem(DashboardSettings()),
    "sweeper": lambda: mark_problem(alive_mark(StoreSettings().mark_folder, "sweeper"), "sweeper"),
    **{
        f"workers-{lane}": lambda lane=lane: workers_problem(  # type: ignore[misc]
            StoreSettings(), BrokerSettings(), lane
        )
        for lane in ("all", "quick", "long")
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("service", choices=_CHECKS, help="which service of this host")


def run(args: argparse.Namespace) -> int:
    """Exit 0 when the service turns, 1 with one line when it does not."""
    problem = _CHECKS[args.service]()
    if problem:
        print(f"lentigo health: {problem}", file=sys.stderr)
    return 1 if problem else 0
