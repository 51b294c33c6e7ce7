"""Figures of the overview that cost too much to be read for every look: kept for a short while."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.store.overview import (
    WINDOWS,
    FunnelStep,
    OverviewReader,
    StageHistory,
    StageLoad,
    Window,
)

_KEEP_S = {"1h": 10.0, "24h": 60.0, "7d": 300.0}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was counted over a window."""

    window: Window
    at: float
    """Monotonic seconds."""
    read_at: dt.datetime
    funnel: tuple[FunnelStep, ...]
    histories: tuple[StageHistory, ...]


class OverviewBoard:
    """The overview's figures: what is now is read every time, what was is kept for a while."""

    def __init__(
        self, reader: OverviewReader, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._monotonic = monotonic
        self._kept: dict[str, Figures] = {}
        self._locks = {name: threading.Lock() for name in WINDOWS}

    def loads(self) -> list[StageLoad]:
        """Return what is in each stage now."""
        return self._reader.loads()

    def received_today(self) -> int:
        """Return how many studies came since midnight in this host's time zone."""
        midnight = dt.datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return self._reader.received_since(midnight)

    def figures(self, name: str) -> Figures:
        """Return the figures of a window; while one request reads them anew, others get the last.

        Parameters
        ----------
        name
            A key of ``WINDOWS``.
        """
        kept = self._kept.get(name)
        if kept is not None and self._monotonic() - kept.at < _KEEP_S[name]:
            return kept
        lock = self._locks[name]
        if not lock.acquire(blocking=kept is None):
            assert kept is not None
            return kept
        try:
            again = self._kept.get(name)
            if again is not None and again is not kept:
                return again  # somebody else has read them meanwhile
            return self._read(name)
        finally:
            lock.release()

    def _read(self, name: str) -> Figures:
        window = WINDOWS[name]
        now = dt.datetime.now(dt.UTC)
        figures = Figures(
            window=window,
            at=self._monotonic(),
            read_at=now,
            funnel=tuple(self._reader.funnel(now - dt.timedelta(seconds=window.seconds))),
            histories=tuple(self._reader.histories(window)),
        )
        self._kept[name] = figures
        return figures
