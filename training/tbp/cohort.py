"""Cohorts of total body photography: one table of lesions with tiles, one of skin tiles.

A folder holds ``lesions.csv`` and ``tiles/``, ``photodamage.csv`` and ``photodamage/``. Inputs are
checked before anything is learnt from them: a column that tells the outcome, an unknown one, a
value that is no number, or one patient in two splits ends the run.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tbp.lesions import PHOTODAMAGE_GRADES
from models.tbp.measurements import (
    NAMES,
    OTHER_COLUMNS,
    MeasurementTable,
    canonical_name,
    is_leak,
    read_measurements,
)
from training.cohorts import Row, check_leakage, find_file, split_groups
from training.errors import CohortError, LeakageError
from training.simulate.tbp import MARKER, SPLITS

OUT_OF_BOUNDS = ("out_of_bounds_fraction", "tbp_lv_out_of_bounds_fraction")
_SPLIT_NAMES = {"train": 0, "val": 1, "validation": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class TbpColumns:
    """Columns of ``lesions.csv``."""

    tile: str
    """File name of the tile without suffix, under ``tiles/``."""
    patient: str
    """Patient."""
    split: str | None
    """``train``, ``validation`` or ``test``; None when the recipe splits by patient."""
    referred: str
    """1 when the lesion was sent to dermoscopy, else 0; empty when unknown."""
    nevus: str
    """1 for a nevus, else 0; empty when unknown."""
    malignant: str
    """1 for a lesion that proved malignant, else 0."""
    inputs: tuple[str, ...]
    """Measurements the trees learn from, in either spelling."""
    optional: tuple[str, ...]
    """Measurements, by the device's names, that a lesion or the whole table may lack."""
    ignored: tuple[str, ...]
    """Further columns that the table may have."""

    def __post_init__(self) -> None:
        """Refuse inputs that tell the outcome, and unknown ones."""
        targets = {self.referred, self.nevus, self.malignant}
        leaks = sorted(name for name in self.inputs if is_leak(name) or name in targets)
        if leaks:
            raise ValueError(f"targets among the inputs: {', '.join(leaks)}")
        unknown = sorted(name for name in self.inputs if canonical_name(name) is None)
        unknown += sorted(set(self.optional) - set(NAMES))
        if unknown:
            raise ValueError(f"no such measurements: {', '.join(unknown)}")
        if not self.inputs or len(set(self.input_names)) != len(self.inputs):
            raise ValueError("inputs must name at least one measurement, each once")

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs by the device's names."""
        return tuple(name for name in map(canonical_name, self.inputs) if name is not None)


@dataclass(frozen=True, kw_only=True)
class LesionCohort:
    """N lesions."""

    tiles: tuple[Path, ...]
    """Image files."""
    patients: NDArray[np.str_]
    """(N,)"""
    split: NDArray[np.int64]
    """(N,) 0 train, 1 validation, 2 test."""
    referred: NDArray[np.float64]
    """(N,) 1, 0 or nan."""
    nevus: NDArray[np.float64]
    """(N,) 1, 0 or nan."""
    malignant: NDArray[np.bool_]
    """(N,)"""
    measurements: MeasurementTable
    out_of_bounds: NDArray[np.float64] | None
    """(N,) share of the tile outside the image; None when the table lacks it."""


@dataclass(frozen=True, kw_only=True)
class SkinCohort:
    """M skin tiles."""

    tiles: tuple[Path, ...]
    """Image files."""
    patients: NDArray[np.str_]
    """(M,)"""
    split: NDArray[np.int64]
    """(M,)"""
    grade: NDArray[np.int64]
    """(M,) number in ``PHOTODAMAGE_GRADES``."""


@dataclass(frozen=True, kw_only=True)
class TbpCohort:
    """Everything a run learns from."""

    lesions: LesionCohort
    skin: SkinCohort
    simulation: dict[str, str] | None
    """Sources that a simulator drew on; None for a real cohort."""

    @property
    def is_simulated(self) -> bool:
        """True when the folder says that a simulator wrote it."""
        return self.simulation is not None


def read_cohort(
    folder: Path,
    columns: TbpColumns,
    *,
    fractions: tuple[float, float, float],
    seed: int,
) -> TbpCohort:
    """Read and check a cohort.

    Parameters
    ----------
    folder
        Folder with both tables and their images.
    columns
        What the columns mean.
    fractions, seed
        Split by patient, where the table has none.

    Raises
    ------
    CohortError
        If a file or a column is missing, a column is unknown, a value is no number, a tile comes
        twice, or a split lacks a label.
    LeakageError
        If a patient is in two splits.
    """
    records = _read_table(folder / "lesions.csv")
    skins = _read_table(folder / "photodamage.csv")
    _check_columns(folder / "lesions.csv", records, columns)
    malignant = _flags(folder / "lesions.csv", records, columns.malignant, may_lack=False) == 1
    patients = np.array([record[columns.patient] for record in records])
    split_of = _splits(records, malignant, columns, fractions, seed)
    lesions = LesionCohort(
        tiles=_files(folder / "tiles", [record[columns.tile] for record in records]),
        patients=patients,
        split=np.array([split_of[name] for name in patients]),
        referred=_flags(folder / "lesions.csv", records, columns.referred),
        nevus=_flags(folder / "lesions.csv", records, columns.nevus),
        malignant=malignant,
        measurements=_measurements(folder / "lesions.csv", records, columns),
        out_of_bounds=_out_of_bounds(folder / "lesions.csv", records),
    )
    _check_labels(lesions)
    return TbpCohort(
        lesions=lesions,
        skin=_read_skin(folder, skins, columns, split_of),
        simulation=_read_marker(folder / MARKER),
    )


def _read_marker(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        return {name: str(content[name]) for name in ("lesions", "measurements")}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise CohortError(f"{path} cannot be read") from exc


def cohort_digest(folder: Path) -> str:
    """SHA-256 of both tables."""
    found = hashlib.sha256()
    for name in ("lesions.csv", "photodamage.csv"):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            records = [dict(record) for record in csv.DictReader(handle)]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{path}: {exc}") from exc
    if not records:
        raise CohortError(f"{path}: no rows")
    if any(None in record or None in record.values() for record in records):
        raise CohortError(f"{path}: a row has another number of columns than the header")
    return records


def _check_columns(path: Path, records: Sequence[dict[str, str]], columns: TbpColumns) -> None:
    present = set(records[0])
    own = [columns.tile, columns.patient, columns.referred, columns.nevus, columns.malignant]
    if columns.split is not None:
        own.append(columns.split)
    missing = sorted(set(own) - present)
    measured = {canonical_name(name) for name in present}
    missing += sorted(set(columns.input_names) - measured - set(columns.optional))
    if missing:
        raise CohortError(f"{path}: no column {', '.join(missing)}")
    # Columns that tell the outcome may lie in the table: they are no inputs, and so are not read.
    unknown = sorted(
        name
        for name in present - set(own) - set(columns.ignored) - OTHER_COLUMNS
        if canonical_name(name) is None and not is_leak(name)
    )
    if unknown:
        raise CohortError(f"{path}: unknown columns {', '.join(unknown)}; name them as ignored")


def _flags(
    path: Path, records: Sequence[dict[str, str]], column: str, *, may_lack: bool = True
) -> NDArray[np.float64]:
    kinds = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
    if may_lack:
        kinds[""] = np.nan
    wrong = sum(record[column].strip() not in kinds for record in records)
    if wrong:
        raise CohortError(f"{path}: {wrong} values of {column} are neither 0 nor 1")
    return np.array([kinds[record[column].strip()] for record in records])


def _splits(
    records: Sequence[dict[str, str]],
    malignant: NDArray[np.bool_],
    columns: TbpColumns,
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[str, int]:
    """Split of each patient."""
    if columns.split is None:
        rows = [
            Row(image_id=str(i), label=str(bool(m)), group_id=record[columns.patient])
            for i, (record, m) in enumerate(zip(records, malignant, strict=True))
        ]
        parts = split_groups(rows, fractions=fractions, seed=seed)
        return {name: number for number, part in enumerate(parts) for name in part}
    named: list[set[str]] = [set(), set(), set()]
    for record in records:
        number = _SPLIT_NAMES.get(record[columns.split].strip().casefold())
        if number is None:
            raise CohortError(f"column {columns.split}: splits are {sorted(_SPLIT_NAMES)}")
        named[number].add(record[columns.patient])
    check_leakage(dict(zip(SPLITS, named, strict=True)))
    return {name: number for number, part in enumerate(named) for name in part}


def _files(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CohortError(f"{folder.name}: {len(twice)} tiles are named twice, first {twice[0]}")
    found = [(name, find_file(folder, name)) for name in names]
    missing = [name for name, path in found if path is None]
    if missing:
        raise CohortError(f"{folder}: {len(missing)} tiles are missing, first {missing[0]}")
    return tuple(path for _, path in found if path is not None)


def _measurements(
    path: Path, records: Sequence[dict[str, str]], columns: TbpColumns
) -> MeasurementTable:
    """Measurements, refused when an input is not a usable number."""
    table = read_measurements(records)
    needed = set(columns.input_names)
    problems = Counter(
        (problem.name, problem.problem)
        for lesion in table.problems
        for problem in lesion
        if problem.name in needed
        and not (problem.problem == "missing" and problem.name in columns.optional)
    )
    if problems:
        (name, problem), count = problems.most_common(1)[0]
        raise CohortError(f"{path}: {count} values of {name} cannot be used ({problem})")
    return table


def _out_of_bounds(path: Path, records: Sequence[dict[str, str]]) -> NDArray[np.float64] | None:
    for column in OUT_OF_BOUNDS:
        if column in records[0]:
            try:
                return np.array([float(record[column] or "nan") for record in records])
            except ValueError as exc:
                raise CohortError(f"{path}: a value of {column} is no number") from exc
    return None


def _check_labels(lesions: LesionCohort) -> None:
    for number, split in enumerate(SPLITS):
        part = lesions.split == number
        for name, values in (
            ("referred", lesions.referred[part]),
            ("nevus", lesions.nevus[part]),
            ("malignant", lesions.malignant[part].astype(np.float64)),
        ):
            if not {0.0, 1.0} <= set(values[np.isfinite(values)].tolist()):
                raise CohortError(f"the {split} split needs lesions with and without {name}")


def _read_skin(
    folder: Path,
    records: Sequence[dict[str, str]],
    columns: TbpColumns,
    split_of: dict[str, int],
) -> SkinCohort:
    path = folder / "photodamage.csv"
    missing = {columns.tile, columns.patient, "grade"} - set(records[0])
    if missing:
        raise CohortError(f"{path}: no column {', '.join(sorted(missing))}")
    grades = [record["grade"].strip().casefold() for record in records]
    if not set(grades) <= set(PHOTODAMAGE_GRADES):
        raise CohortError(f"{path}: grades are {', '.join(PHOTODAMAGE_GRADES)}")
    strangers = {record[columns.patient] for record in records} - set(split_of)
    if strangers:
        # Without lesions nothing says which split they belong to.
        raise LeakageError(f"{path}: {len(strangers)} patients have no lesion, hence no split")
    patients = np.array([record[columns.patient] for record in records])
    cohort = SkinCohort(
        tiles=_files(folder / "photodamage", [record[columns.tile] for record in records]),
        patients=patients,
        split=np.array([split_of[name] for name in patients]),
        grade=np.array([PHOTODAMAGE_GRADES.index(grade) for grade in grades]),
    )
    absent = set(range(len(PHOTODAMAGE_GRADES))) - set(cohort.grade[cohort.split == 0].tolist())
    if absent:
        names = ", ".join(PHOTODAMAGE_GRADES[number] for number in sorted(absent))
        raise CohortError(f"{path}: no training tile has grade {names}")
    return cohort
