"""Notices when a source falls silent, judged by its own rhythm.

A camera of a clinic that sends all day and one that sends on Mondays both have a pause that is too
long, and it is not the same one. A source is silent when it has paused ``factor`` times longer than
nearly all (95 %) of its pauses before, and never before ``at_least_h`` hours; nights and weekends
are among the pauses that it has shown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from gateway.observation.settings import EventSettings
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Generation, Instance, SourceRhythm
from gateway.store.work.self_tests import SELF_TEST_AE_TITLES

KEPT = 200
"""Newest pauses that make a rhythm: some weeks of a busy camera's days, nights included."""
LEARNT = 20
"""Pauses under which nothing is known of a source."""
_MAX_SOURCES = 200
_BUSY_S = 60.0


def longest_usual_s(pauses: Sequence[float]) -> float:
    """Return the pause that 95 % of the pauses do not exceed.

    Examples
    --------
    >>> longest_usual_s([60.0] * 19 + [3600.0])
    3600.0
    """
    ordered = sorted(pauses)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def allowed_s(pauses: Sequence[float], settings: EventSettings) -> float | None:
    """Return how long a source may pause; None while its rhythm is not known."""
    if len(pauses) < LEARNT:
        return None
    at_least_s = settings.silence_at_least_h * 3600
    return max(at_least_s, settings.silence_factor * longest_usual_s(pauses))


class SilenceWatch:
    """Learns rhythms from what arrives, and looks for sources that are silent."""

    def __init__(self, engine: Engine, settings: EventSettings, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock

    def add(self, connection: Connection, rows: Sequence[Any], now: dt.datetime) -> None:
        """Take the studies that some lines of the timeline speak of."""
        for row in rows:
            if row.action != "generation.opened" or row.study_id is None:
                continue
            source = connection.execute(
                select(Instance.calling_ae_title)
                .join(Generation, Instance.generation_id == Generation.id)
                .where(
                    Generation.study_id == row.study_id,
                    Generation.number == row.detail.get("generation", 1),
                )
                .order_by(Instance.id)
                .limit(1)
            ).scalar()
            if source and source not in SELF_TEST_AE_TITLES:
                self._heard(connection, source, row.at)

    def _heard(self, connection: Connection, source: str, at: dt.datetime) -> None:
        row = connection.execute(
            select(SourceRhythm).where(SourceRhythm.ae_title == source)
        ).first()
        if row is None:
            known = connection.execute(select(func.count()).select_from(SourceRhythm)).scalar_one()
            if known < _MAX_SOURCES:  # a caller may invent AE titles
                connection.execute(
                    insert(SourceRhythm).values(
                        ae_title=source, last_at=at, pauses={"seconds": []}, silent_since=None
                    )
                )
            return
        pause_s = (at - row.last_at).total_seconds()
        if pause_s <= 0:
            return
        pauses = list(row.pauses.get("seconds", ()))
        if pause_s >= _BUSY_S or len(pauses) < LEARNT:  # a burst is one visit, not many pauses
            pauses = [*pauses, round(pause_s, 1)][-KEPT:]
        connection.execute(
            update(SourceRhythm)
            .where(SourceRhythm.ae_title == source)
            .values(last_at=at, pauses={"seconds": pauses}, silent_since=None)
        )
        if row.silent_since is not None:
            states.note(connection, at, "source.sends", source=source, seconds=round(pause_s))

    def look(self) -> int:
        """Report the sources that have become silent; return how many.

        Raises
        ------
        RecordUnavailable
            The next look finds the same.
        """
        now = self._clock()
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(SourceRhythm).where(SourceRhythm.silent_since.is_(None))
            ).all()
        return sum(self._report(row, now) for row in rows)

    def _report(self, row: Any, now: dt.datetime) -> bool:
        allowed = allowed_s(row.pauses.get("seconds", ()), self._settings)
        pause_s = (now - row.last_at).total_seconds()
        if allowed is None or pause_s < allowed:
            return False
        with writing(self._engine) as connection:
            changed = connection.execute(
                update(SourceRhythm)
                .where(
                    SourceRhythm.ae_title == row.ae_title,
                    SourceRhythm.silent_since.is_(None),
                    SourceRhythm.last_at == row.last_at,
                )
                .values(silent_since=now)
            ).rowcount
            if changed:
                states.note(
                    connection,
                    now,
                    "source.silent",
                    level="warning",
                    source=row.ae_title,
                    seconds=round(pause_s),
                )
        return bool(changed)
