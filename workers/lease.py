"""The heartbeat that holds a work item while its step runs."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Protocol

from gateway.errors import LeaseLost, RecordUnavailable
from gateway.store.values import Claim

log = logging.getLogger(__name__)

_ASK_EVERY_S = 0.5


class LeaseRecord(Protocol):
    """The part of the record that a heartbeat writes."""

    def extend(self, claim: Claim, lease_s: float) -> None:
        """Hold the work item for another ``lease_s`` seconds; raises ``LeaseLost``."""
        ...


class Heartbeat:
    """Extends a lease from a thread; a context manager around the step.

    A process that dies takes the thread with it, and the lease runs out. A record that does not
    answer is asked again: only the word of the record ends the work.
    """

    def __init__(self, record: LeaseRecord, claim: Claim, *, lease_s: float) -> None:
        self._record = record
        self._claim = claim
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._is_lost = False
        self._asked_at = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name=f"heartbeat-{claim.work_item_id}", daemon=True
        )

    def __enter__(self) -> Heartbeat:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise ``LeaseLost`` once somebody else holds the work item, or it was canceled.

        The record is asked here too, so that a canceled work item stops at its next checkpoint
        and not at its next heartbeat.
        """
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S:
            self._ask()
        if self._is_lost:
            raise LeaseLost(f"work item {self._claim.work_item_id} is held by another worker")

    def _run(self) -> None:
        while not self._is_lost and not self._stop.wait(self._lease_s / 3):
            self._ask()

    def _ask(self) -> None:
        """Extend the lease, and learn whether it is still ours."""
        self._asked_at = time.monotonic()
        try:
            self._record.extend(self._claim, self._lease_s)
        except LeaseLost:
            self._is_lost = not self._stop.is_set()
        except RecordUnavailable:
            log.warning("the record does not answer a heartbeat", extra={"action": "lease.waiting"})
