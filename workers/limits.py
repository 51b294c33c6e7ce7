"""Holds one attempt at an analysis within its time and its memory.

The bounds are the process' own: a prefork pool runs one work item at a time in the main thread of
each process.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from workers.analysis import Limits
from workers.errors import LimitExceeded


@contextlib.contextmanager
def held_to(limits: Limits, what: str) -> Iterator[None]:
    """End the work inside when it takes too long or too much memory.

    Parameters
    ----------
    limits
        Time and memory; a thread that is not the main one is held to the memory only.
    what
        Name of the analysis, for the message.

    Raises
    ------
    LimitExceeded
        The time or the memory was used up.
    """
    with _within_time(limits.time_s, what), _within_memory(limits.memory_bytes):
        try:
            yield
        except MemoryError as exc:
            raise LimitExceeded(
                f"{what} needs more than {limits.memory_bytes / 2**30:.1f} GiB of memory"
            ) from exc


@contextlib.contextmanager
def _within_time(seconds: float, what: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise LimitExceeded(f"{what} took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    # Repeated: a library may swallow the first one.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _within_memory(limit_bytes: int) -> Iterator[None]:
    """Bound private memory; files mapped for reading do not count (RLIMIT_DATA, Linux 4.7)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _private_bytes() + limit_bytes
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """Private writable memory of this process that the limit counts (VmData)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
