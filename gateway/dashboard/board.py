"""Figures of the overview: what is now is read every time, what was is kept for a while."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from gateway.dashboard.shelf import Kept, Shelf
from gateway.store.engine import utc_now
from gateway.store.reading.overview import (
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
    funnel: tuple[FunnelStep, ...]
    histories: tuple[StageHistory, ...]


class OverviewBoard:
    """The overview's figures."""

    def __init__(self, reader: OverviewReader, shelf: Shelf) -> None:
        self._reader = reader
        self._shelf = shelf

    def loads(self) -> list[StageLoad]:
        """Return what is in each stage now."""
        return self._reader.loads()

    def received_today(self) -> int:
        """Return how many studies came since midnight in this host's time zone."""
        midnight = dt.datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return self._reader.received_since(midnight)

    def figures(self, name: str, *, must_have: bool = False) -> Kept[Figures] | None:
        """Return the figures of a window; None while those of a large record are first counted.

        Parameters
        ----------
        name
            A key of ``WINDOWS``.
        must_have
            Wait for them.
        """
        return self._shelf.look(
            f"overview {name}",
            lambda: self._read(WINDOWS[name]),
            keep_s=_KEEP_S[name],
            must_have=must_have,
        )

    def _read(self, window: Window) -> Figures:
        since = utc_now() - dt.timedelta(seconds=window.seconds)
        return Figures(
            window=window,
            funnel=tuple(self._reader.funnel(since)),
            histories=tuple(self._reader.histories(window)),
        )
