"""Labelled cohorts of the recipes that classify whole images: table, splits, files."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.cohorts import Cohort, Row, check_leakage, find_file, read_rows, split_groups
from training.errors import CohortError

TABLE = "labels.csv"
IMAGES = "images"
_SPLIT_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class LabelledSettings:
    """Which columns, and how the rows are split."""

    image_column: str
    """Column with the image's file name, with or without suffix."""
    label_column: str
    """Column with the label."""
    group_column: str
    """Column that keeps images of one lesion (or patient) together."""
    split_column: str
    """Column that says train, val(idation) or test; empty to split by group here."""
    label_map: dict[str, str]
    """Value of the label column -> label of the model, in the order of the logits."""
    train_fraction: float
    """Share of the groups for training, in (0, 1); unused with a split column."""
    validation_fraction: float
    """Share of the groups for validation, in (0, 1); the rest is the test split."""
    split_seed: int
    """Seed of the split."""

    def __post_init__(self) -> None:
        """Refuse shares and maps that no cohort fits."""
        if len(self.labels) < 2:
            raise ValueError("label_map must lead to at least two labels")
        shares = (self.train_fraction, self.validation_fraction)
        if not (min(shares) > 0 and sum(shares) < 1):
            raise ValueError("the fractions must be positive and leave a rest for the test split")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the logits: first appearance in the label map."""
        return tuple(dict.fromkeys(self.label_map.values()))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the three splits, with its labels as numbers."""

    cohort: Cohort
    """Rows and where their images lie."""
    labels: NDArray[np.int64]
    """(B,) position in the label set."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in order."""
        return tuple(row.image_id for row in self.cohort.rows)

    @property
    def groups(self) -> NDArray[np.str_]:
        """(B,) group of each image."""
        return np.array([row.group_id for row in self.cohort.rows])

    def select(self, is_kept: NDArray[np.bool_]) -> Part:
        """Keep the rows where (B,) is true, in order."""
        rows = tuple(row for row, kept in zip(self.cohort.rows, is_kept, strict=True) if kept)
        cohort = Cohort(rows=rows, images=self.cohort.images)
        return Part(cohort=cohort, labels=self.labels[is_kept])

    def files(self) -> list[tuple[str, Path]]:
        """Image id and file of each row.

        Raises
        ------
        CohortError
            If an image has no file; it is named.
        """
        found = []
        for row in self.cohort.rows:
            path = find_file(self.cohort.images, row.image_id)
            if path is None:
                raise CohortError(f"{row.image_id}: no image in {self.cohort.images}")
            found.append((row.image_id, path))
        return found


@dataclass(frozen=True, kw_only=True)
class LabelledSplits:
    """The three parts of a cohort; no group is in two of them."""

    train: Part
    validation: Part
    test: Part
    labels: tuple[str, ...]
    """Labels in the order of the logits."""

    def counts(self) -> list[dict[str, object]]:
        """Images of each label in each part, one row a label."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        rows: list[dict[str, object]] = []
        for number, label in enumerate(self.labels):
            row: dict[str, object] = {"label": label}
            row |= {name: int((part.labels == number).sum()) for name, part in parts.items()}
            rows.append(row)
        return rows


def read_labelled(settings: LabelledSettings, data: Path) -> LabelledSplits:
    """Read ``labels.csv`` and the image folder of a cohort and split it.

    Parameters
    ----------
    data
        Folder with ``labels.csv`` and ``images/``.

    Raises
    ------
    CohortError
        If the table cannot be used, a part is empty, or a label has no training image.
    LeakageError
        If the table's own split has one group in two parts.
    """
    rows = read_rows(
        data / TABLE,
        image_column=settings.image_column,
        label_column=settings.label_column,
        group_column=settings.group_column,
        label_map=settings.label_map,
    )
    if settings.split_column:
        divided = _split_as_told(rows, settings, data / TABLE)
    else:
        shares = (settings.train_fraction, settings.validation_fraction)
        groups = split_groups(rows, fractions=(*shares, 1 - sum(shares)), seed=settings.split_seed)
        divided = [[row for row in rows if row.group_id in part] for part in groups]
    names = ("train", "validation", "test")
    check_leakage(
        {n: {row.group_id for row in part} for n, part in zip(names, divided, strict=True)}
    )
    labels = settings.labels
    parts = []
    for name, part in zip(names, divided, strict=True):
        if not part:
            raise CohortError(f"{data / TABLE}: the {name} split has no image")
        numbers = np.array([labels.index(row.label) for row in part], np.int64)
        parts.append(Part(cohort=Cohort(rows=tuple(part), images=data / IMAGES), labels=numbers))
    absent = [label for number, label in enumerate(labels) if not (parts[0].labels == number).any()]
    if absent:
        raise CohortError(f"no training image has label {absent}")
    return LabelledSplits(train=parts[0], validation=parts[1], test=parts[2], labels=labels)


def _split_as_told(
    rows: tuple[Row, ...], settings: LabelledSettings, table: Path
) -> list[list[Row]]:
    """Split as a column of the table says."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            records = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table}: {exc}") from exc
    if settings.split_column not in records[0]:
        raise CohortError(f"{table}: no column {settings.split_column}")
    told = {
        Path(record[settings.image_column]).stem: (record[settings.split_column] or "").strip()
        for record in records
    }
    unknown = Counter(
        told[r.image_id] for r in rows if told[r.image_id].lower() not in _SPLIT_NAMES
    )
    if unknown:
        raise CohortError(
            f"{table}: {sum(unknown.values())} rows with a {settings.split_column} that is not "
            "train, val or test"
        )
    divided: list[list[Row]] = [[], [], []]
    for row in rows:
        divided[_SPLIT_NAMES[told[row.image_id].lower()]].append(row)
    return divided
