"""Cohorts: tables of images, their pixels, and splits that keep groups together."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.preprocessing import INPUT_SIZE, prepare_image
from training.errors import CohortError, LeakageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
# What Pillow raises on broken files; SyntaxError is its word for a broken PNG.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)
MASK_THRESHOLD = 128  # masks are 0/255 or 0/1-bit PNGs; resampled ones have values between


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of a cohort."""

    image_id: str
    """File name without suffix."""
    label: str
    """Label of the model's label set; empty when the cohort has none."""
    group_id: str
    """Lesion or patient: images of one group never come apart."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Rows with where their pixels lie."""

    rows: tuple[Row, ...]
    images: Path
    """Folder of images."""
    masks: Path | None = None
    """Folder of lesion masks of the same names, or None."""

    def subset(self, groups: set[str]) -> Cohort:
        """Return the rows of these groups, in order."""
        rows = tuple(row for row in self.rows if row.group_id in groups)
        return Cohort(rows=rows, images=self.images, masks=self.masks)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Decoded images of a cohort, at the network's input size."""

    images: NDArray[np.uint8]
    """(B, S, S, 3) RGB."""
    masks: NDArray[np.uint8]
    """(B, S, S), 255 inside the lesion; zeros where there is no mask."""
    has_mask: NDArray[np.bool_]
    """(B,)"""
    aspects: NDArray[np.float64]
    """(B,) width over height of the source image."""


def read_rows(
    table: Path,
    *,
    image_column: str,
    label_column: str | None = None,
    group_column: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """Read a CSV table.

    Parameters
    ----------
    table
        CSV file with a header.
    image_column, label_column, group_column
        Column names; without a group column every image is its own group.
    label_map
        Value of the label column -> label of the model. Rows with another value are left out;
        None keeps values as they are.

    Raises
    ------
    CohortError
        If the file or a column is missing, an image is named twice, or no row is left.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            records = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table}: {exc}") from exc
    needed = [c for c in (image_column, label_column, group_column) if c is not None]
    present = set(records[0]) if records else set()
    if not set(needed) <= present:
        raise CohortError(f"{table}: no column {sorted(set(needed) - present)}")
    rows = []
    for record in records:
        label = record[label_column] if label_column else ""
        if label_map is not None:
            if label not in label_map:
                continue
            label = label_map[label]
        image_id = Path(record[image_column]).stem
        group = record[group_column] if group_column else image_id
        rows.append(Row(image_id=image_id, label=label, group_id=group))
    twice = [name for name, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise CohortError(f"{table}: {len(twice)} images are named twice, first {twice[0]}")
    if not rows:
        raise CohortError(f"{table}: no row has a known label")
    return tuple(rows)


def split_groups(
    rows: Sequence[Row], *, fractions: tuple[float, float, float], seed: int
) -> tuple[set[str], set[str], set[str]]:
    """Split groups into train, validation and test, label by label.

    A group takes the rarest of its labels, so that rare labels are spread evenly.

    Parameters
    ----------
    rows
        All rows of the cohort.
    fractions
        Shares of the groups, summing to 1.
    seed
        The same rows and seed give the same split, whatever the order of the rows.

    Returns
    -------
    tuple of sets
        Group ids of train, validation and test: disjoint, and together all of them.
    """
    if not np.isclose(sum(fractions), 1.0) or min(fractions) < 0:
        raise CohortError(f"fractions {fractions} must sum to 1")
    counts = Counter(row.label for row in rows)
    strata: dict[str, str] = {}
    for row in rows:
        held = strata.get(row.group_id, row.label)
        strata[row.group_id] = min(held, row.label, key=lambda label: (counts[label], label))
    by_label: dict[str, list[str]] = defaultdict(list)
    for group in sorted(strata):
        by_label[strata[group]].append(group)
    rng = np.random.default_rng(seed)
    train: set[str] = set()
    validation: set[str] = set()
    test: set[str] = set()
    for label in sorted(by_label):
        groups = [by_label[label][i] for i in rng.permutation(len(by_label[label]))]
        first = round(fractions[0] * len(groups))
        second = first + round(fractions[1] * len(groups))
        train.update(groups[:first])
        validation.update(groups[first:second])
        test.update(groups[second:])
    check_leakage({"train": train, "validation": validation, "test": test})
    return train, validation, test


def check_leakage(splits: Mapping[str, set[str]]) -> None:
    """Refuse splits that share a group.

    Raises
    ------
    LeakageError
        Naming the two splits and how many groups they share.
    """
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = splits[first] & splits[second]
            if shared:
                raise LeakageError(f"{first} and {second} share {len(shared)} groups")


def find_file(folder: Path, image_id: str) -> Path | None:
    """Return the image file of this name, whatever its suffix, or None."""
    for suffix in IMAGE_SUFFIXES:
        for candidate in (folder / f"{image_id}{suffix}", folder / f"{image_id}{suffix.upper()}"):
            if candidate.is_file():
                return candidate
    return None


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB.

    Raises
    ------
    CohortError
        If the file cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except _UNREADABLE as exc:
        raise CohortError(f"{path.name}: cannot be decoded") from exc


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask file as (H, W) uint8, 0 or 255.

    Raises
    ------
    CohortError
        If the file cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            grey = np.array(picture.convert("L"))
    except _UNREADABLE as exc:
        raise CohortError(f"{path.name}: cannot be decoded") from exc
    return np.where(grey >= min(MASK_THRESHOLD, max(1, int(grey.max()))), 255, 0).astype(np.uint8)


def load_pixels(
    cohort: Cohort, *, size: int = INPUT_SIZE, progress: Callable[[], None] = lambda: None
) -> Pixels:
    """Decode a whole cohort into memory: 150 kB an image at 224 px.

    Raises
    ------
    CohortError
        If an image is missing or cannot be decoded, or a mask has another aspect.
    """
    count = len(cohort.rows)
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    has_mask = np.zeros(count, np.bool_)
    aspects = np.empty(count)
    for index, row in enumerate(cohort.rows):
        path = find_file(cohort.images, row.image_id)
        if path is None:
            raise CohortError(f"{row.image_id}: no image in {cohort.images}")
        image = read_image(path)
        images[index] = prepare_image(image, size)
        aspects[index] = image.shape[1] / image.shape[0]
        mask_path = find_file(cohort.masks, row.image_id) if cohort.masks else None
        if mask_path is not None:
            mask = Image.fromarray(read_mask(mask_path))
            masks[index] = np.array(mask.resize((size, size), Image.Resampling.BILINEAR))
            has_mask[index] = True
        progress()
    return Pixels(images=images, masks=masks, has_mask=has_mask, aspects=aspects)
