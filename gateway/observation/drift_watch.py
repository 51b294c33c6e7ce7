"""Keeps, for each source, model and measure, the first answers and the newest, and compares them.

The reference is the first ``reference_count`` answers of a model for a source: what the site saw
when it accepted the model; or those of a span of time that an administrator names
(``drift_reference``). A new model digest begins anew. A series drifts when the population
stability index passes its alarm *and* the Kolmogorov-Smirnov test calls the shift unlikely; it is
stable again only under half of the alarm, so that it does not flap.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from gateway.observation.drift import shift
from gateway.observation.settings import DriftSettings
from gateway.observation.tallies import OTHER
from gateway.store import states
from gateway.store.tables import DriftSeries, Instance, WorkItem
from gateway.store.work.self_tests import SELF_TEST_AE_TITLES

COLLECTING, STABLE, DRIFTING = "collecting", "stable", "drifting"
NAMED = "until"
"""Key of a reference that an administrator named: it takes no further answers."""
SCORE, UNASSESSED = "score", "unassessed"
# The number of a summary that stands for the whole answer, in [0, 1] or a risk score.
_SCORES = ("malignancy", "positive", "change_probability", "score", "probability")
_MAX_SERIES = 400


def measures(summary: dict[str, Any] | None, outcome: str) -> Iterator[tuple[str, float]]:
    """Yield (measure, value) of one answer: its score, and how much of it was not assessed.

    Examples
    --------
    >>> dict(measures({"malignancy": 0.2, "images": 4, "not_assessed": 1}, "assessed"))
    {'score': 0.2, 'unassessed': 0.25}
    >>> dict(measures({}, "not_assessed"))
    {'unassessed': 1.0}
    """
    found = summary or {}
    if outcome == "assessed":
        score = next((found[name] for name in _SCORES if _is_number(found.get(name))), None)
        if score is not None:
            yield SCORE, float(score)
    skipped, total = found.get("not_assessed"), found.get("images") or found.get("lesions")
    if outcome == "not_assessed":
        yield UNASSESSED, 1.0
    elif isinstance(skipped, int) and isinstance(total, int) and total > 0:
        yield UNASSESSED, min(1.0, skipped / total)
    else:
        yield UNASSESSED, 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def source_of(connection: Connection, study_id: int) -> str:
    """Return the AE title that a study came from."""
    found = connection.execute(
        select(Instance.calling_ae_title)
        .where(Instance.study_id == study_id, Instance.disposition == "accepted")
        .order_by(Instance.id)
        .limit(1)
    ).scalar()
    return str(found or OTHER)


class DriftWatch:
    """Adds answers to their series and says when one begins or ends to drift."""

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings

    def add(self, connection: Connection, rows: Sequence[Any], now: dt.datetime) -> None:
        """Take the answers that some lines of the timeline speak of."""
        items = {row.work_item_id for row in rows if row.action == "work_item.analysed"}
        if not self._settings.enabled or not items:
            return
        answers = connection.execute(
            select(
                WorkItem.study_id,
                WorkItem.analysis,
                WorkItem.model_digest,
                WorkItem.outcome,
                WorkItem.summary,
            )
            .where(WorkItem.id.in_(items))
            .order_by(WorkItem.id)
        ).all()
        for answer in answers:
            source = source_of(connection, answer.study_id)
            if source in SELF_TEST_AE_TITLES:
                continue
            for measure, value in measures(answer.summary, answer.outcome):
                key = (source, answer.analysis, answer.model_digest, measure)
                self._take(connection, key, value, now)

    def _take(
        self, connection: Connection, key: tuple[str, str, str, str], value: float, now: dt.datetime
    ) -> None:
        row = self._series(connection, key, now)
        settings = self._settings
        reference = list(row.reference.get("values", ()))
        recent = list(row.recent.get("values", ()))
        if len(reference) < settings.reference_count and NAMED not in row.reference:
            reference.append(round(value, 4))
        else:
            recent = [*recent, round(value, 4)][-settings.window_count :]
        values: dict[str, Any] = {
            "reference": {**row.reference, "values": reference},
            "recent": {"values": recent},
            "updated_at": now,
        }
        values |= compared(settings, row.state, reference, recent)
        state = values.get("state", row.state)
        if state != row.state:
            values["since"] = now
            _note(connection, row, values, now)
        connection.execute(update(DriftSeries).where(DriftSeries.id == row.id).values(**values))

    def _series(
        self, connection: Connection, key: tuple[str, str, str, str], now: dt.datetime
    ) -> Any:
        columns = (
            DriftSeries.source,
            DriftSeries.analysis,
            DriftSeries.model_digest,
            DriftSeries.measure,
        )

        def find(wanted: tuple[str, str, str, str]) -> Any:
            same = (column == value for column, value in zip(columns, wanted, strict=True))
            return connection.execute(select(DriftSeries).where(*same)).first()

        found = find(key)
        if found is None:
            count = connection.execute(select(func.count()).select_from(DriftSeries)).scalar_one()
            if count >= _MAX_SERIES:  # a caller may invent AE titles
                key = (OTHER, *key[1:])
                found = find(key)
        if found is not None:
            return found
        connection.execute(
            insert(DriftSeries).values(
                **{column.key: value for column, value in zip(columns, key, strict=True)},
                reference={"values": []},
                recent={"values": []},
                state=COLLECTING,
                since=now,
                updated_at=now,
            )
        )
        return find(key)


def compared(
    settings: DriftSettings, before: str, reference: Sequence[float], recent: Sequence[float]
) -> dict[str, Any]:
    """Return psi, ks and state of a series; empty while there are too few answers."""
    if len(recent) < settings.window_count or not reference:
        return {}
    found = shift(reference, recent)
    is_far = found.psi >= settings.psi_alarm and found.p_value <= settings.ks_p_value
    is_still = before == DRIFTING and found.psi >= settings.psi_alarm / 2
    state = DRIFTING if is_far or is_still else STABLE
    return {"psi": round(found.psi, 4), "ks": round(found.ks, 4), "state": state}


def _note(connection: Connection, row: Any, values: dict[str, Any], now: dt.datetime) -> None:
    """Say on the timeline that a series began or ended to drift."""
    state = values["state"]
    if state == STABLE and row.state == COLLECTING:
        return
    states.note(
        connection,
        now,
        "drift.began" if state == DRIFTING else "drift.ended",
        level="alarm" if state == DRIFTING else "info",
        source=row.source,
        analysis=row.analysis,
        model_digest=row.model_digest,
        measure=row.measure,
        psi=round(values["psi"], 3),
        ks=round(values["ks"], 3),
    )
