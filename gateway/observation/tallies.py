"""Counters and histograms that live in the record: they outlive every process and every purge.

A tally is added to in the transaction that moves the follower's cursor on, so nothing is counted
twice or left out, whoever is killed. Labels are bounded by construction: a family names the values
that each label may have, or how many; what is beyond is counted under ``other``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import Tally

OTHER = "other"
MAX_SERIES = 200
"""Label sets of one family; Prometheus advises against more than a few hundred."""
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0)
"""Upper bounds of the buckets of durations; from one photograph to a night of waiting."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One metric: what it is called, what it means, and which labels it has."""

    name: str
    help: str
    labels: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    """Label -> values it may have; None where only their number is bounded."""
    is_histogram: bool = False

    def bounded(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the labels with every value that is not allowed replaced by ``other``.

        Examples
        --------
        >>> Family(name="x", help="", labels={"a": frozenset({"1"})}).bounded({"a": "2"})
        {'a': 'other'}
        """
        return {
            name: value if allowed is None or value in allowed else OTHER
            for name, allowed in self.labels.items()
            for value in (given.get(name, "") or OTHER,)
        }


def key_of(labels: Mapping[str, str]) -> str:
    """Return labels as the record keeps them."""
    return json.dumps(dict(labels), sort_keys=True, separators=(",", ":"))


class Tallies:
    """Counts of one batch, before they are written."""

    def __init__(self) -> None:
        self._counts: dict[Family, dict[str, float]] = {}

    def count(self, family: Family, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        if value > 0:
            self._add(family, family.bounded(labels), value)

    def observe(self, family: Family, seconds: float, **labels: str) -> None:
        """Add one duration to a histogram; a clock that was set back makes it 0."""
        found, seconds = family.bounded(labels), max(0.0, seconds)
        for bound in SECONDS:
            if seconds <= bound:
                self._add(family, {**found, "le": f"{bound:g}"}, 1.0)
                break  # buckets are added up when they are read
        else:
            self._add(family, {**found, "le": "+Inf"}, 1.0)
        self._add(family, {**found, "le": "sum"}, seconds)

    def _add(self, family: Family, labels: Mapping[str, str], value: float) -> None:
        counts = self._counts.setdefault(family, {})
        key = key_of(labels)
        counts[key] = counts.get(key, 0.0) + value

    def write(self, connection: Connection) -> None:
        """Add the counts to the record, in the transaction that is open."""
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        for family, counts in self._counts.items():
            for key, value in sorted(_within(connection, family, counts).items()):
                statement = dialect.insert(Tally).values(name=family.name, labels=key, value=value)
                connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=[Tally.name, Tally.labels],
                        set_={"value": Tally.value + statement.excluded.value},
                    )
                )
        self._counts.clear()


def _without_bound(key: str) -> str:
    """Return labels without the bucket of a histogram."""
    labels = json.loads(key)
    labels.pop("le", None)
    return key_of(labels)


def _within(
    connection: Connection, family: Family, counts: Mapping[str, float]
) -> Mapping[str, float]:
    """Return the counts with those that would be a label set too many under ``other``."""
    if all(allowed is not None for allowed in family.labels.values()):
        return counts
    rows = connection.execute(select(Tally.labels).where(Tally.name == family.name))
    known = {_without_bound(key) for key in rows.scalars()}
    found: dict[str, float] = {}
    for key, value in counts.items():
        kept = key
        if (base := _without_bound(key)) not in known:
            if len(known) < MAX_SERIES:
                known.add(base)
            else:
                unnamed = {name for name, allowed in family.labels.items() if allowed is None}
                labels = json.loads(key)
                kept = key_of({name: OTHER if name in unnamed else labels[name] for name in labels})
        found[kept] = found.get(kept, 0.0) + value
    return found


@dataclass(frozen=True, kw_only=True)
class Series:
    """One label set of a family, as it is read."""

    labels: Mapping[str, str]
    value: float = 0.0
    """Of a counter; the sum of a histogram's durations."""
    buckets: tuple[tuple[str, float], ...] = ()
    """Of a histogram: upper bound and how many were no longer, ``+Inf`` last."""


def read_series(connection: Connection, family: Family) -> list[Series]:
    """Return every label set of a family."""
    rows = connection.execute(
        select(Tally.labels, Tally.value).where(Tally.name == family.name).order_by(Tally.labels)
    ).all()
    if not family.is_histogram:
        return [Series(labels=json.loads(row.labels), value=row.value) for row in rows]
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        labels = json.loads(row.labels)
        bound = labels.pop("le")
        found.setdefault(key_of(labels), {})[bound] = row.value
    return [_histogram(json.loads(key), counts) for key, counts in found.items()]


def _histogram(labels: Mapping[str, str], counts: Mapping[str, float]) -> Series:
    total, buckets = 0.0, []
    for bound in (*(f"{each:g}" for each in SECONDS), "+Inf"):
        total += counts.get(bound, 0.0)
        buckets.append((bound, total))
    return Series(labels=labels, value=counts.get("sum", 0.0), buckets=tuple(buckets))
