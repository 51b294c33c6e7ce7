"""Reading a cohort to be evaluated, and what is wrong with it.

Faults that would make the figures wrong are refused; images whose label is contradicted are left
out; the rest is remarked on. Everything is said by name.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.cohorts import IMAGE_SUFFIXES, Cohort, Row, find_file
from training.errors import CohortError, LeakageError
from training.evaluation.answers import Answers

_Pair: TypeAlias = tuple[Row, dict[str, str]]
"""A row and its values in the subgroup columns."""

NAMED = 5  # names in a message; the JSON file has all


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the table mean what."""

    image: str
    """File name of the image, with or without suffix."""
    label: str | None = None
    """Diagnosis; None when only outlines are measured."""
    group: str | None = None
    """Lesion or patient; None: every image alone."""
    split: str | None = None
    """Split of each row, when the table holds several."""
    subgroups: tuple[str, ...] = ()
    """Columns by which figures are given."""

    @property
    def all(self) -> tuple[str, ...]:
        """All columns that are read."""
        named = (self.image, self.label, self.group, self.split, *self.subgroups)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """One image under several labels."""

    images: tuple[str, ...]
    """Names of the rows, or of the files with the same pixels."""
    labels: tuple[str, ...]
    """What they are called."""
    found_by: str
    """``name`` or ``pixels``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationCohort:
    """A cohort with what must be said of it."""

    cohort: Cohort
    attributes: tuple[dict[str, str], ...]
    """Subgroup column -> value, one dictionary a row."""
    conflicts: tuple[Conflict, ...] = ()
    """Images left out because they bear several labels."""
    remarks: tuple[str, ...] = ()

    def subset(
        self, kept: NDArray[np.bool_], *, conflicts: Sequence[Conflict], remarks: Sequence[str]
    ) -> EvaluationCohort:
        """Return the rows that are kept, with more conflicts and remarks."""
        pairs = list(zip(self.cohort.rows, self.attributes, kept, strict=True))
        cohort = Cohort(
            rows=tuple(row for row, _, is_kept in pairs if is_kept),
            images=self.cohort.images,
            masks=self.cohort.masks,
        )
        return EvaluationCohort(
            cohort=cohort,
            attributes=tuple(values for _, values, is_kept in pairs if is_kept),
            conflicts=(*self.conflicts, *conflicts),
            remarks=(*self.remarks, *remarks),
        )


def read_cohort(
    images: Path,
    table: Path,
    columns: Columns,
    *,
    masks: Path | None = None,
    label_map: Mapping[str, str] | None = None,
    split: str | None = None,
) -> EvaluationCohort:
    """Read a table of images.

    Parameters
    ----------
    images, masks
        Folders.
    table
        CSV file with a header.
    label_map
        Value of the label column -> label of the model. Rows with another value are left out, with
        a remark; None keeps values as they are.
    split
        Value of the split column to evaluate; None for all rows.

    Raises
    ------
    CohortError
        If the file or a column is missing, no row is left, or an image is missing.
    LeakageError
        If a group is in more than one split.
    """
    records = _read_records(table, columns)
    _check_splits(records, columns, table)
    if split is not None:
        if columns.split is None:
            raise CohortError("a split can be chosen only where a split column is named")
        records = [record for record in records if record[columns.split] == split]
        if not records:
            raise CohortError(f"{table}: no row of split {split!r}")
    rows = [_read_row(record, columns) for record in records]
    return _finish(rows, images=images, masks=masks, label_map=label_map, where=str(table))


def scan_folders(
    images: Path, *, masks: Path | None = None, label_map: Mapping[str, str] | None = None
) -> EvaluationCohort:
    """Read a folder whose images lie in folders named by their label, at any depth.

    Raises
    ------
    CohortError
        If there is no image.
    """
    if not images.is_dir():
        raise CohortError(f"{images} is no folder")
    paths = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise CohortError(f"{images} holds no images")
    rows: list[_Pair] = []
    for path in paths:
        name = path.relative_to(images).with_suffix("").as_posix()
        rows.append((Row(image_id=name, label=path.parent.name, group_id=path.stem), {}))
    return _finish(rows, images=images, masks=masks, label_map=label_map, where=str(images))


def _read_records(table: Path, columns: Columns) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            present = set(reader.fieldnames or ())
            records = [{k: v or "" for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table}: {exc}") from exc
    missing = sorted(set(columns.all) - present)
    if missing:
        raise CohortError(f"{table}: no column {missing}")
    if not records:
        raise CohortError(f"{table}: no rows")
    return records


def _read_row(record: Mapping[str, str], columns: Columns) -> _Pair:
    name = record[columns.image]
    path = Path(name)
    image_id = path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name
    if not image_id:
        raise CohortError(f"a row has no {columns.image}")
    # An image of no stated group stands alone: all such images together would be one patient.
    group = (record[columns.group] if columns.group else "") or image_id
    label = record[columns.label] if columns.label else ""
    row = Row(image_id=image_id, label=label, group_id=group)
    return row, {name: record[name] for name in columns.subgroups}


def _check_splits(records: Sequence[Mapping[str, str]], columns: Columns, table: Path) -> None:
    if columns.split is None:
        return
    splits: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    for record in records:
        group = record[columns.group or columns.image]
        splits[group].add(record[columns.split])
        first.setdefault(group, record[columns.image])
    torn = [group for group, values in splits.items() if len(values) > 1]
    if torn:
        raise LeakageError(
            f"{table}: {len(torn)} groups are in more than one split; the first is that of image "
            f"{first[torn[0]]}"
        )


def _finish(
    rows: Sequence[_Pair],
    *,
    images: Path,
    masks: Path | None,
    label_map: Mapping[str, str] | None,
    where: str,
) -> EvaluationCohort:
    """Map labels, take out contradictions and repetitions, and look for the files."""
    remarks: list[str] = []
    if label_map is not None:
        rows, remarks = _map_labels(rows, label_map)
    labels: dict[str, set[str]] = defaultdict(set)
    members: dict[str, list[str]] = defaultdict(list)
    for row, _ in rows:
        key = Path(row.image_id).name
        labels[key].add(row.label)
        members[key].append(row.image_id)
    conflicts = [
        Conflict(images=tuple(members[key]), labels=tuple(sorted(found)), found_by="name")
        for key, found in labels.items()
        if len(found) > 1
    ]
    kept: dict[str, _Pair] = {}
    for row, attributes in rows:
        if len(labels[Path(row.image_id).name]) == 1:
            kept.setdefault(Path(row.image_id).name, (row, attributes))
    repeated = sum(len(members[key]) - 1 for key in kept)
    if repeated:
        remarks.append(f"{repeated} rows repeat an image and count once")
    if not kept:
        complaint = "; ".join(describe_conflicts(conflicts)) or "no row has a known label"
        raise CohortError(f"{where}: no image is left: {complaint}")
    cohort = Cohort(rows=tuple(row for row, _ in kept.values()), images=images, masks=masks)
    _check_files(cohort)
    return EvaluationCohort(
        cohort=cohort,
        attributes=tuple(attributes for _, attributes in kept.values()),
        conflicts=tuple(conflicts),
        remarks=(*remarks, *describe_conflicts(conflicts)),
    )


def _map_labels(
    rows: Sequence[_Pair], label_map: Mapping[str, str]
) -> tuple[list[_Pair], list[str]]:
    found = Counter(row.label for row, _ in rows)
    remarks = [
        f"{count} rows with label {value!r} are left out: it is not in the label map"
        for value, count in sorted(found.items())
        if value not in label_map
    ]
    remarks += [
        f"no row has the label {value!r} of the label map"
        for value in label_map
        if value not in found
    ]
    mapped = [
        (Row(image_id=r.image_id, label=label_map[r.label], group_id=r.group_id), attributes)
        for r, attributes in rows
        if r.label in label_map
    ]
    return mapped, remarks


def _check_files(cohort: Cohort) -> None:
    if not cohort.images.is_dir():
        raise CohortError(f"{cohort.images} is no folder")
    missing = [
        row.image_id for row in cohort.rows if find_file(cohort.images, row.image_id) is None
    ]
    if missing:
        raise CohortError(
            f"{cohort.images}: no image of {len(missing)} rows of {len(cohort.rows)}: "
            f"{name_some(missing)}"
        )


def name_some(names: Sequence[str]) -> str:
    """First few of many names."""
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def describe_conflicts(conflicts: Sequence[Conflict]) -> list[str]:
    """One remark for all conflicts found in one way."""
    remarks = []
    for way in ("name", "pixels"):
        found = [conflict for conflict in conflicts if conflict.found_by == way]
        if found:
            names = name_some([f"{c.images[0]} ({', '.join(c.labels)})" for c in found])
            remarks.append(
                f"{len(found)} images bear several labels (same {way}), left out: {names}"
            )
    return remarks


def compare_pixels(
    read: EvaluationCohort, answers: Answers, training_hashes: Iterable[str] = ()
) -> tuple[EvaluationCohort, Answers]:
    """Find equal pixels under other names, and images that the model was trained on.

    Parameters
    ----------
    training_hashes
        ``pixel_hash`` of the images the model was trained on, where they are known.

    Returns
    -------
    tuple
        Cohort and answers without the images whose equal pixels bear several labels; equal images
        with one label and images trained on stay, with a remark.

    Raises
    ------
    CohortError
        If no image is left.
    """
    rows = read.cohort.rows
    members: dict[str, list[Row]] = defaultdict(list)
    for row, digest in zip(rows, answers.pixel_hash, strict=True):
        members[str(digest)].append(row)
    conflicts, is_torn, equal = [], set(), 0
    for digest, same in members.items():
        labels = sorted({row.label for row in same})
        if len(labels) > 1:
            names = tuple(row.image_id for row in same)
            conflicts.append(Conflict(images=names, labels=tuple(labels), found_by="pixels"))
            is_torn.add(digest)
        else:
            equal += len(same) - 1
    remarks = describe_conflicts(conflicts)
    if equal:
        remarks.append(f"{equal} images have the same pixels as another of the same label")
    known = set(training_hashes)
    seen = [row.image_id for h, same in members.items() if h in known for row in same]
    if seen:
        remarks.append(
            f"{len(seen)} images are among those the model was trained on; the figures are too "
            f"good: {name_some(seen)}"
        )
    kept = np.array([str(digest) not in is_torn for digest in answers.pixel_hash], np.bool_)
    if not kept.any():
        raise CohortError("every image bears several labels")
    return read.subset(kept, conflicts=conflicts, remarks=remarks), answers.subset(kept)
