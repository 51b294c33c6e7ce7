"""An attempt is held to its time and its memory, and its process lives on."""

from __future__ import annotations

import resource
import signal
import time

import numpy as np
import pytest

from workers.analysis import Limits
from workers.errors import LimitExceeded
from workers.limits import held_to


def limits(time_s: float = 60.0, memory_bytes: int = 1 << 30) -> Limits:
    return Limits(time_s=time_s, memory_bytes=memory_bytes, concurrency=1, priority=0)


def test_work_within_its_limits_is_left_alone() -> None:
    with held_to(limits(), "diagnosis"):
        assert np.ones(1000).sum() == 1000


def test_work_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with (
        pytest.raises(LimitExceeded, match=r"diagnosis took longer than 0\.2 s"),
        held_to(limits(time_s=0.2), "diagnosis"),
    ):
        spin(30.0)
    assert time.monotonic() - started < 10


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_work_that_takes_too_much_memory_is_ended_and_the_next_one_is_not() -> None:
    with (
        pytest.raises(LimitExceeded, match=r"more than 0\.1 GiB"),
        held_to(limits(memory_bytes=64 << 20), "diagnosis"),
    ):
        np.zeros(1 << 30, np.uint8)
    assert np.zeros(256 << 20, np.uint8).nbytes == 256 << 20


def test_everything_is_as_before_afterwards() -> None:
    memory, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)
    with held_to(limits(), "diagnosis"):
        assert resource.getrlimit(resource.RLIMIT_DATA) != memory
    assert resource.getrlimit(resource.RLIMIT_DATA) == memory
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
