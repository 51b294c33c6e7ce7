"""Figures that cost too much to be read for every look: kept with their age, read anew aside.

A page never waits long for one: it shows the kept figure with the moment it was read, or says that
it is being counted. While one thread reads a figure anew, everybody else gets the last one.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gateway.store.engine import Clock, utc_now

log = logging.getLogger(__name__)

PATIENCE_S = 0.1
"""How long a page waits for a figure that was never read; with its own work under 0.3 s."""
_LARGE_STUDIES, _LARGE_INSTANCES = 2000, 20_000
_CLOSE_S = 10.0

T = TypeVar("T")


def is_large(studies: int, instances: int) -> bool:
    """Return whether a record is so large that its figures are read aside."""
    return studies > _LARGE_STUDIES or instances > _LARGE_INSTANCES


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[T]):
    """A figure with its age."""

    value: T
    read_at: dt.datetime
    """When its reading began: what came later is not in it."""
    is_fresh: bool
    """Whether it was young enough; an older one is being read anew."""


@dataclass(kw_only=True)
class _Place:
    """What the shelf has of one figure."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    value: Any = None
    at: float = 0.0
    read_at: dt.datetime | None = None
    """None until it was read once."""
    reader: threading.Thread | None = None
    fault: Exception | None = None


class Shelf:
    """Keeps figures by name.

    Parameters
    ----------
    is_large
        Whether the record is so large that figures take long; once it is, it stays so.
    monotonic, clock
        Where ages and moments come from.
    """

    def __init__(
        self,
        is_large: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
    ) -> None:
        self._ask_large = is_large
        self._is_large = False
        self._monotonic = monotonic
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}

    def look(
        self, name: str, read: Callable[[], T], *, keep_s: float, must_have: bool = False
    ) -> Kept[T] | None:
        """Return a figure; None where a large record's is being read for the first time.

        That of a small record is read at every look.

        Parameters
        ----------
        name
            Names the figure; one name is always read in one way.
        read
            Reads it, in a thread of its own.
        keep_s
            Seconds until it is read anew when somebody looks.
        must_have
            Wait for the first reading however long it takes: programs want an answer.

        Raises
        ------
        Exception
            What ``read`` raised, to everybody who waited for it.
        """
        self._is_large = self._is_large or self._ask_large()
        if not self._is_large:
            read_at = self._clock()
            return Kept(value=read(), read_at=read_at, is_fresh=True)
        with self._lock:
            place = self._places.setdefault(name, _Place())
        with place.changed:
            if self._is_fresh(place, keep_s):
                return self._kept(place, keep_s)
            if place.reader is None:
                self._begin(place, name, read)
            if place.read_at is None:  # else the last one will do, with its age
                patience_s = None if must_have else PATIENCE_S
                place.changed.wait_for(lambda: place.reader is None, patience_s)
            if place.reader is None and place.fault is not None:
                raise place.fault
            return self._kept(place, keep_s)

    def get(self, name: str, read: Callable[[], T], *, keep_s: float) -> Kept[T]:
        """Return a figure as ``look`` does, and wait where it was never read."""
        found = self.look(name, read, keep_s=keep_s, must_have=True)
        assert found is not None  # what is waited for is there, or raises
        return found

    def _begin(self, place: _Place, name: str, read: Callable[[], Any]) -> None:
        place.fault = None
        place.reader = threading.Thread(
            target=self._read, args=(place, name, read), name=f"figure {name}", daemon=True
        )
        place.reader.start()

    def close(self) -> None:
        """Wait until nothing is being read any more."""
        with self._lock:
            readers = [each.reader for each in self._places.values()]
        for reader in readers:
            if reader is not None:
                reader.join(_CLOSE_S)

    def _read(self, place: _Place, name: str, read: Callable[[], Any]) -> None:
        began, read_at = self._monotonic(), self._clock()
        value, fault = None, None
        try:
            value = read()
        except Exception as exc:  # raised again where somebody waits for the figure
            fault = exc
            log.warning(
                "a figure cannot be read: %s",
                type(exc).__name__,
                extra={"action": "figure.failed", "figure": name},
            )
        with place.changed:
            if fault is None:
                place.value, place.at, place.read_at = value, began, read_at
            place.fault, place.reader = fault, None
            place.changed.notify_all()

    def _is_fresh(self, place: _Place, keep_s: float) -> bool:
        return place.read_at is not None and self._monotonic() - place.at < keep_s

    def _kept(self, place: _Place, keep_s: float) -> Kept[Any] | None:
        if place.read_at is None:
            return None
        return Kept(
            value=place.value, read_at=place.read_at, is_fresh=self._is_fresh(place, keep_s)
        )
