"""Rows of TBP measurements: real ones, ones drawn like them, and ones that deviate."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tbp.lesions import TileFilters, filter_tiles
from models.tbp.measurements import (
    LOCATIONS,
    NAMES,
    column_number,
    ranges,
    read_measurements,
)
from training.cohorts import Row, split_groups
from training.errors import CohortError

MAY_BE_ABSENT = ("dnn_lesion_confidence",)
PASSING_SHARE = 0.9
"""Share of drawn rows that pass the device's filters; the others show that these work."""
_CONTRAST = ("deltaL", "deltaA", "deltaB")


def _n(name: str) -> int:
    return column_number(name)


@dataclass(frozen=True, kw_only=True)
class MeasurementPool:
    """Rows to draw from."""

    values: NDArray[np.float64]
    """(N, 32); nan in columns that may be absent."""
    patients: tuple[str, ...]
    """N patients the rows come from."""

    @classmethod
    def read(cls, path: Path) -> MeasurementPool:
        """Read real rows.

        Raises
        ------
        CohortError
            If the file cannot be read, has no ``patient_id``, or no row is complete.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as handle:
                records = list(csv.DictReader(handle))
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            raise CohortError(f"{path}: {exc}") from exc
        if not records or "patient_id" not in records[0]:
            raise CohortError(f"{path}: no column patient_id")
        table = read_measurements(records)
        whole = [i for i in range(len(records)) if set(table.missing(i)) <= set(MAY_BE_ABSENT)]
        if not whole:
            raise CohortError(f"{path}: no row has all measurements")
        return cls(
            values=table.values[whole].astype(np.float64),
            patients=tuple(records[i]["patient_id"] for i in whole),
        )

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> MeasurementPool:
        """Draw rows from the marginal distributions of 681 public ISIC 2024 rows.

        Colours, contrasts and scores are drawn one by one; what follows from others (chroma, hue,
        contrasts, area, perimeter, eccentricity) is computed.
        """
        values = np.full((count, len(NAMES)), np.nan)
        # Mean and deviation; positive quantities by their logarithm.
        for name, mean, spread in (
            ("Lext", 51.3, 12.2),
            ("Aext", 14.9, 3.5),
            ("Bext", 26.8, 4.5),
            ("deltaL", -9.1, 3.7),
            ("deltaA", 5.2, 2.9),
            ("deltaB", 1.3, 2.2),
        ):
            values[:, _n(name)] = rng.normal(mean, spread, count)
        for name, mean, spread in (
            ("majorAxisMM", 1.31, 0.35),
            ("stdL", 0.84, 0.61),
            ("stdLExt", 0.79, 0.27),
            ("color_std_mean", -0.15, 0.6),
            ("radial_color_std_max", -0.2, 0.6),
            ("norm_color", 1.0, 0.5),
            ("norm_border", 1.13, 0.45),
            ("area_perim_ratio", 2.91, 0.22),
            ("symm_2axis", -1.25, 0.38),
            ("deltaLBnorm", 2.0, 0.3),
        ):
            values[:, _n(name)] = np.exp(rng.normal(mean, spread, count))
        values[:, _n("minorAxisMM")] = values[:, _n("majorAxisMM")] * rng.uniform(0.4, 0.9, count)
        values[:, _n("areaMM2")] = (
            np.pi / 4 * values[:, _n("majorAxisMM")] * values[:, _n("minorAxisMM")]
        )
        values[:, _n("symm_2axis_angle")] = 5.0 * rng.integers(0, 36, count)
        values[:, _n("nevi_confidence")] = 100 * rng.beta(0.3, 0.45, count)
        values[:, _n("location_simple")] = rng.integers(0, len(LOCATIONS) - 1, count)
        return cls(
            values=np.stack([complete(row) for row in values]),
            patients=tuple(f"D{i // 2}" for i in range(count)),
        )

    def split(self, fractions: tuple[float, float, float], seed: int) -> list[MeasurementPool]:
        """Split by patient into three pools.

        Raises
        ------
        CohortError
            If a pool would hold no row that passes the device's filters.
        """
        rows = [
            Row(image_id=str(i), label="", group_id=name) for i, name in enumerate(self.patients)
        ]
        pools = []
        for groups in split_groups(rows, fractions=fractions, seed=seed):
            chosen = [i for i, name in enumerate(self.patients) if name in groups]
            pool = MeasurementPool(
                values=self.values[chosen], patients=tuple(self.patients[i] for i in chosen)
            )
            if not pool.passing.any():
                raise CohortError("too few measurement rows: a split has none that passes")
            pools.append(pool)
        return pools

    @cached_property
    def passing(self) -> NDArray[np.bool_]:
        """Which rows pass the device's filters, (N,)."""
        return filter_tiles(self.values, TileFilters()).is_kept

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one row, (32,): mostly one that the filters pass."""
        passing = self.passing
        wanted = passing if rng.random() < PASSING_SHARE or passing.all() else ~passing
        rows = np.flatnonzero(wanted)
        return np.array(self.values[rows[rng.integers(len(rows))]])


def deviate(
    row: NDArray[np.float64],
    anchor: NDArray[np.float64],
    *,
    style: float,
    strength: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Make a row one of a patient's lesions, deviating like a malignant one when asked to.

    Parameters
    ----------
    row
        (32,) real row: what the lesion starts from.
    anchor
        (32,) real row that gives the patient's skin and style.
    style
        Share of the contrasts and sizes taken from the anchor, in [0, 1].
    strength
        0 for a benign lesion; 1 for the assumed mean effect of malignancy: 1.4 times as large,
        1.35 times the contrast, more varied colours, a more irregular border.

    Returns
    -------
    ndarray
        (32,) within the ranges, what follows from other columns computed anew.
    """
    new = row.copy()
    for name, spread in (("Lext", 1.5), ("Aext", 0.7), ("Bext", 0.7)):
        new[_n(name)] = anchor[_n(name)] + rng.normal(0, spread)
    for name in _CONTRAST:
        new[_n(name)] = style * anchor[_n(name)] + (1 - style) * row[_n(name)]
    grown = np.exp(strength * rng.normal(0.34, 0.25) + rng.normal(0, 0.08))
    for name in ("majorAxisMM", "minorAxisMM"):
        new[_n(name)] = grown * np.exp(
            style * np.log(anchor[_n(name)]) + (1 - style) * np.log(row[_n(name)])
        )
    new[_n("minorAxisMM")] = min(new[_n("minorAxisMM")], 0.99 * new[_n("majorAxisMM")])
    new[_n("areaMM2")] = (
        row[_n("areaMM2")]
        * (new[_n("majorAxisMM")] * new[_n("minorAxisMM")])
        / (row[_n("majorAxisMM")] * row[_n("minorAxisMM")])
    )
    darker = np.exp(strength * rng.normal(0.3, 0.2) + rng.normal(0, 0.05))
    for name in (*_CONTRAST, "deltaLBnorm"):
        new[_n(name)] *= darker
    for name, mean, spread in (
        ("stdL", 0.3, 0.25),
        ("color_std_mean", 0.35, 0.3),
        ("radial_color_std_max", 0.35, 0.3),
        ("norm_color", 0.3, 0.25),
        ("norm_border", 0.25, 0.25),
        ("symm_2axis", 0.2, 0.2),
        ("area_perim_ratio", 0.12, 0.1),
    ):
        new[_n(name)] *= np.exp(strength * rng.normal(mean, spread) + rng.normal(0, 0.05))
    return complete(new)


def complete(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute what follows from other columns, and keep all within the table's ranges.

    The identities hold in the public rows to rounding: C and H are the length and the angle of
    (a*, b*), contrasts are differences, ``area_perim_ratio`` is the squared perimeter over the
    area; ``deltaLB`` and the eccentricity hold to about 5 %.
    """
    new = row.copy()
    for inside, outside, delta in (
        ("L", "Lext", "deltaL"),
        ("A", "Aext", "deltaA"),
        ("B", "Bext", "deltaB"),
    ):
        new[_n(outside)] = np.clip(new[_n(outside)], 1.0, 95.0)
        new[_n(inside)] = np.clip(new[_n(outside)] + new[_n(delta)], 1.0, 95.0)
        new[_n(delta)] = new[_n(inside)] - new[_n(outside)]
    for where in ("", "ext"):
        a, b = new[_n("A" + where)], new[_n("B" + where)]
        new[_n("C" + where)] = np.hypot(a, b)
        new[_n("H" + where)] = np.degrees(np.arctan2(b, a))
    new[_n("deltaLB")] = np.hypot(new[_n("deltaL")], new[_n("deltaB")])
    ratio = new[_n("minorAxisMM")] / new[_n("majorAxisMM")]
    new[_n("eccentricity")] = np.sqrt(max(0.0, 1 - ratio**2))
    new[_n("perimeterMM")] = np.sqrt(new[_n("area_perim_ratio")] * new[_n("areaMM2")])
    low, high = ranges()
    return np.asarray(np.clip(new, low, high))
