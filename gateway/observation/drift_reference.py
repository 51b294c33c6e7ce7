"""The reference of drift, taken from a span of time that an administrator names.

The first answers of a model are a poor reference where the site changed something afterwards, or
began with a batch of old studies. What stands here are answers of this site, because a model's
card has figures of its held-out data and no distributions, and other cameras than this site's.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from gateway.errors import DriftRefused
from gateway.observation.drift_watch import COLLECTING, NAMED, compared, measures, source_of
from gateway.observation.settings import DriftSettings
from gateway.store import audit
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import DriftSeries, WorkItem
from gateway.store.work.self_tests import SELF_TEST_AE_TITLES

FEWEST = 50
"""Answers that a reference needs: with fewer, the index is large by chance alone."""
_MOST = 2000


@dataclass(frozen=True, kw_only=True)
class Series:
    """One measure of one source, as it is compared now."""

    source: str
    analysis: str
    model_digest: str
    measure: str
    reference: int
    """Answers of the reference."""
    recent: int
    """Newest answers that are compared with it."""
    named: str
    """The span that an administrator named; empty: the first answers."""
    psi: float | None
    state: str


class ReferenceDesk:
    """Shows and sets references."""

    def __init__(
        self, engine: Engine, settings: DriftSettings | None = None, clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._settings = settings or DriftSettings()
        self._clock = clock

    def all(self) -> list[Series]:
        """Return every series, the one of the newest answer first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(DriftSeries).order_by(DriftSeries.updated_at.desc(), DriftSeries.id)
            ).all()
        return [_series(row) for row in rows]

    def take(
        self, analysis: str, since: dt.datetime, until: dt.datetime, *, actor: str, source: str = ""
    ) -> list[Series]:
        """Make the answers of a span the reference of the model that answers now.

        Parameters
        ----------
        since, until
            Bounds of the moment of analysis; ``until`` is exclusive.
        source
            AE title of the one source that it is for; empty: each source by itself.

        Raises
        ------
        DriftRefused
            There are no answers, or too few of every source.
        """
        with writing(self._engine) as connection:
            digest = connection.execute(
                select(WorkItem.model_digest)
                .where(WorkItem.analysis == analysis, WorkItem.analysed_at.is_not(None))
                .order_by(WorkItem.analysed_at.desc())
                .limit(1)
            ).scalar()
            if digest is None:
                raise DriftRefused(f"nothing was analysed by {analysis} yet")
            answers = self._answers(connection, analysis, digest, since, source)
            within = {
                key: [value for at, value in found if at < until] for key, found in answers.items()
            }
            enough = {key: found for key, found in within.items() if len(found) >= FEWEST}
            if not enough:
                most = max((len(found) for found in within.values()), default=0)
                raise DriftRefused(
                    f"{FEWEST} answers of one source are needed, there are {most} in that span by "
                    f"the model that answers now ({digest[:12]})"
                )
            span = {"since": since.isoformat(), NAMED: until.isoformat()}
            for key, reference in enough.items():
                later = [value for at, value in answers[key] if at >= until]
                recent = later[-self._settings.window_count :]
                self._put(
                    connection, (key[0], analysis, digest, key[1]), reference[-_MOST:], recent, span
                )
            audit.append(
                connection,
                self._clock(),
                actor,
                "drift.reference_set",
                analysis=analysis,
                digest=digest,
                sources=len({key[0] for key in enough}),
                **span,
            )
        return [
            each
            for each in self.all()
            if each.model_digest == digest and (each.source, each.measure) in enough
        ]

    def _answers(
        self, connection: Connection, analysis: str, digest: str, since: dt.datetime, source: str
    ) -> dict[tuple[str, str], list[tuple[dt.datetime, float]]]:
        """Return (source, measure) -> (moment, value), the oldest first."""
        rows = connection.execute(
            select(WorkItem.study_id, WorkItem.outcome, WorkItem.summary, WorkItem.analysed_at)
            .where(
                WorkItem.analysis == analysis,
                WorkItem.model_digest == digest,
                WorkItem.analysed_at >= since,
            )
            .order_by(WorkItem.analysed_at, WorkItem.id)
        ).all()
        found: dict[tuple[str, str], list[tuple[dt.datetime, float]]] = defaultdict(list)
        for row in rows:
            came_from = source_of(connection, row.study_id)
            if came_from in SELF_TEST_AE_TITLES or (source and came_from != source):
                continue
            for measure, value in measures(row.summary, row.outcome):
                found[came_from, measure].append((row.analysed_at, round(value, 4)))
        return found

    def _put(
        self,
        connection: Connection,
        key: tuple[str, str, str, str],
        reference: list[float],
        recent: list[float],
        span: dict[str, str],
    ) -> None:
        names = ("source", "analysis", "model_digest", "measure")
        same = [getattr(DriftSeries, name) == value for name, value in zip(names, key, strict=True)]
        now = self._clock()
        values: dict[str, Any] = {
            "reference": {"values": reference, **span},
            "recent": {"values": recent},
            "psi": None,
            "ks": None,
            "state": COLLECTING,
            "since": now,
            "updated_at": now,
            **compared(self._settings, COLLECTING, reference, recent),
        }
        known = connection.execute(select(DriftSeries.id).where(*same).with_for_update()).scalar()
        if known is None:
            given = dict(zip(names, key, strict=True))
            connection.execute(insert(DriftSeries).values(**given, **values))
        else:
            connection.execute(update(DriftSeries).where(DriftSeries.id == known).values(**values))


def _series(row: Any) -> Series:
    since, until = row.reference.get("since", ""), row.reference.get(NAMED, "")
    return Series(
        source=row.source,
        analysis=row.analysis,
        model_digest=row.model_digest,
        measure=row.measure,
        reference=len(row.reference.get("values", ())),
        recent=len(row.recent.get("values", ())),
        named=f"{since} to {until}" if until else "",
        psi=row.psi,
        state=row.state,
    )
