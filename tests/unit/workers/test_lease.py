"""The heartbeat: holds on through outages, lets go only on the record's word."""

from __future__ import annotations

import threading

import pytest

from gateway.errors import LeaseLost, RecordUnavailable
from gateway.store.values import Claim
from tests.unit.workers.fakes import claim
from workers.lease import Heartbeat


class Record:
    """Counts extensions and fails as told."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.beats = threading.Semaphore(0)

    def extend(self, claim: Claim, lease_s: float) -> None:
        self.beats.release()
        if self._errors:
            raise self._errors.pop(0)


def beat(record: Record, times: int) -> None:
    for _ in range(times):
        assert record.beats.acquire(timeout=10)


def test_extends_while_the_step_runs_and_not_after() -> None:
    record = Record()
    with Heartbeat(record, claim(), lease_s=0.03) as heartbeat:
        beat(record, 3)
        heartbeat.check()
    while record.beats.acquire(blocking=False):
        pass
    assert not record.beats.acquire(timeout=0.1)


def test_waits_out_a_record_that_does_not_answer() -> None:
    record = Record(RecordUnavailable("away"), RecordUnavailable("away"))
    with Heartbeat(record, claim(), lease_s=0.03) as heartbeat:
        beat(record, 4)
        heartbeat.check()


def test_says_when_the_lease_is_lost() -> None:
    record = Record(LeaseLost("held by another"))
    with Heartbeat(record, claim(), lease_s=0.03) as heartbeat:
        beat(record, 1)
        heartbeat._thread.join(10)
        with pytest.raises(LeaseLost):
            heartbeat.check()


def test_ends_at_once_when_the_step_ends() -> None:
    with Heartbeat(Record(), claim(), lease_s=3600):
        pass
