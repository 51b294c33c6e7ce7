"""What a check of the gateway's promises looks at, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from gateway.store.engine import Clock, reading, utc_now

_EXAMPLES = 10
_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check saw."""

    invariant: str
    """The promise, in words."""
    is_promise: bool = True
    """False: what breaks it is worth knowing and harms nothing."""
    checked: int
    """Rows or files that were looked at."""
    broken: int
    remedy: str = ""
    examples: tuple[str, ...] = field(default=())
    """The first few that break it: internal ids and paths, no patient attribute."""

    @property
    def verdict(self) -> str:
        """``PASS``, ``NOTE`` or ``FAIL``."""
        if not self.broken:
            return "PASS"
        return "FAIL" if self.is_promise else "NOTE"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One installation under examination."""

    engine: Engine
    spool: Path
    results: Path
    is_deep: bool = False
    """Whether every file is read and its SHA-256 compared."""
    grace_s: float = 60.0
    """How long what is in motion may take."""
    clock: Clock = utc_now


class Tally:
    """Counts what was looked at and what breaks an invariant."""

    def __init__(self, invariant: str, remedy: str, *, is_promise: bool = True) -> None:
        self._invariant, self._remedy, self._is_promise = invariant, remedy, is_promise
        self.checked, self._broken = 0, 0
        self._examples: list[str] = []

    def see(self, problem: str = "") -> None:
        """Count one; ``problem`` says what is wrong with it."""
        self.checked += 1
        if problem:
            self._broken += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append(problem)

    def finding(self) -> Finding:
        """Return the result."""
        return Finding(
            invariant=self._invariant,
            is_promise=self._is_promise,
            checked=self.checked,
            broken=self._broken,
            remedy=self._remedy if self._broken else "",
            examples=tuple(self._examples),
        )


def rows_of(subject: Subject, statement: Any) -> Iterator[Any]:
    """Yield rows in batches by ``id``, so that a large record needs little memory."""
    key = statement.selected_columns.id
    last = 0
    while True:
        with reading(subject.engine) as connection:
            found = connection.execute(
                statement.where(key > last).order_by(key).limit(_BATCH)
            ).all()
        yield from found
        if len(found) < _BATCH:
            return
        last = found[-1].id
