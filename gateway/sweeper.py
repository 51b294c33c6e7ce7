"""The sweeper: closes studies that are quiet and announces work that nobody holds.

It keeps nothing in memory, so it may be killed at any moment, and two may run at once: closing is
a conditional update, and a hint that is sent twice finds the work taken.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from gateway.errors import RecordUnavailable
from gateway.faults import failpoint
from gateway.queue import BrokerUnavailable, Queue
from gateway.settings import CompletenessSettings
from gateway.store.work.hints import HintBoard

log = logging.getLogger(__name__)


class Closing(Protocol):
    """Closes the studies that are complete."""

    def close_due_generations(self) -> int:
        """Return how many were closed; raises ``RecordUnavailable``."""
        ...


class Upkeep(Protocol):
    """Puts right what time has brought about."""

    def run(self) -> None:
        """Look once; raises ``RecordUnavailable``."""
        ...


class Sweeper:
    """Looks at the record again and again.

    Parameters
    ----------
    upkeep
        What is put right before each look: the clock, deadlines; None for nothing.
    """

    def __init__(
        self,
        closing: Closing,
        board: HintBoard,
        queue: Queue,
        settings: CompletenessSettings,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._closing = closing
        self._upkeep = upkeep
        self._board = board
        self._queue = queue
        self._settings = settings

    def sweep(self) -> int:
        """Look once; return how many pieces of work were announced.

        Raises
        ------
        RecordUnavailable, BrokerUnavailable
            Nothing is lost: the next look finds the same work.
        """
        if self._upkeep is not None:
            # First: by a clock that has jumped, everything would seem due or nothing.
            self._upkeep.run()
        self._closing.close_due_generations()
        failpoint("sweeper.closed")
        hints = self._board.due_hints(self._settings.hint_interval_s)
        announced = []
        try:
            for hint in hints:
                self._queue.announce(hint)
                announced.append(hint)
        finally:
            if announced:
                failpoint("sweeper.announced")
                self._board.mark_hinted(announced, self._settings.hint_interval_s)
        return len(announced)

    def run(self, stop: threading.Event) -> None:
        """Sweep until ``stop`` is set; outages are logged once and waited out."""
        outage = ""
        while not stop.is_set():
            try:
                self.sweep()
            except (RecordUnavailable, BrokerUnavailable) as exc:
                if outage != str(exc):
                    log.warning("waiting: %s", exc, extra={"action": "sweeper.waiting"})
                outage = str(exc)
            else:
                if outage:
                    log.info("going on", extra={"action": "sweeper.resumed"})
                outage = ""
            stop.wait(self._settings.sweep_interval_s if not outage else 1.0)
