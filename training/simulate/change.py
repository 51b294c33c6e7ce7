"""Simulated pairs of one lesion at two times, from single real dermoscopic images.

Two public pairs are no training set. An unchanged pair is one real image taken twice (turned,
shifted, lit, blurred, with other hairs); in a changed pair the lesion was grown, darkened in part
or recoloured inside its mask before the second picture. What changed is known to the pixel. What
is learnt from such pairs proves that the software works, not that early melanoma is found.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.cohorts import Cohort, Row, split_groups
from training.errors import CohortError
from training.runs import Progress, write_atomically
from training.simulate.imaging import (
    ReimagingSettings,
    from_lab,
    load_lesion,
    read_lesions,
    reimage,
    soften,
    to_lab,
)

SPLITS = ("train", "validation", "test")
MARKER = "simulation.json"
UNCHANGED, OTHER_LESION = "unchanged", "other lesion"
MIN_TRUTH_SHIFT = 6.0  # CIE76 distance from which a pixel counts as changed


@dataclass(frozen=True, kw_only=True)
class ChangeSimulation:
    """Sizes and assumed changes."""

    seed: int
    """Seed of everything."""
    train_pairs: int
    """Pairs for training, half of them changed; one pair a lesion."""
    validation_pairs: int
    """Pairs for choosing epoch, temperature and threshold."""
    test_pairs: int
    """Pairs for the figures."""
    other_pairs: int
    """Further test pairs of two different lesions, which registration must refuse."""
    labels: tuple[str, ...]
    """Labels of the source whose lesions are taken."""
    min_growth: float
    """Least growth of a grown lesion's diameter, as a share."""
    max_growth: float
    """Largest growth of a grown lesion's diameter, as a share."""
    min_darkening: float
    """Least loss of L* of a changed area."""
    max_darkening: float
    """Largest loss of L* of a changed area."""
    max_extent: float
    """Lesions larger than this share of their picture are left out: they could not grow."""
    reimaging: ReimagingSettings

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        checks = {
            "pairs": min(self.train_pairs, self.validation_pairs, self.test_pairs) >= 4
            and self.other_pairs >= 0,
            "labels": bool(self.labels),
            "growth": 0 < self.min_growth <= self.max_growth < 1,
            "darkening": 0 < self.min_darkening <= self.max_darkening,
            "max_extent": 0 < self.max_extent <= 1,
        }
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {', '.join(wrong)}")


def simulate_pairs(
    settings: ChangeSimulation, *, lesions: Path, folder: Path, report: Progress
) -> None:
    """Write a cohort as ``training.change.pairs`` reads it; nothing is done when it is there.

    Parameters
    ----------
    settings
        Sizes and changes.
    lesions
        Real dermoscopic images with masks (``training.simulate.imaging.read_lesions``).
    folder
        Where the cohort goes.
    report
        Told of the progress.

    Raises
    ------
    CohortError
        If the source cannot be used or has too few lesions.
    """
    if (folder / "pairs.csv").is_file():
        return
    for name in ("images", "masks", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = read_lesions(lesions, settings.labels)
    sizes = (settings.train_pairs, settings.validation_pairs, settings.test_pairs)
    needed = (*sizes[:2], sizes[2] + 2 * settings.other_pairs)
    shares = [lesions_of / sum(needed) for lesions_of in needed]
    parts = split_groups(
        source.rows, fractions=(shares[0], shares[1], shares[2]), seed=settings.seed
    )
    rows: list[dict[str, object]] = []
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        cohort = source.subset(part)
        others = settings.other_pairs if SPLITS[number] == "test" else 0
        rng = np.random.default_rng([settings.seed, number])
        kinds = plan_kinds(size, others)
        drawn = _Lesions(cohort, settings.max_extent, rng)
        for place, kind in enumerate(kinds):
            rows.append(
                _write_pair(
                    settings,
                    drawn,
                    kind,
                    name=f"{SPLITS[number]}{place:05d}",
                    split=SPLITS[number],
                    folder=folder,
                    rng=rng,
                )
            )
            report(f"simulating pairs of {SPLITS[number]}", place + 1, len(kinds))
    marker = {"lesions": lesions.resolve().name}
    write_atomically(folder / MARKER, (json.dumps(marker, indent=2) + "\n").encode())
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "pairs.csv", content.getvalue().encode())


def plan_kinds(pairs: int, others: int) -> list[str]:
    """Kinds of the pairs of a split: every second one unchanged, the changes in turn.

    Examples
    --------
    >>> plan_kinds(4, 1)
    ['unchanged', 'grown', 'unchanged', 'darkened', 'other lesion']
    """
    changes = list(CHANGES)
    return [
        changes[place // 2 % len(changes)] if place % 2 else UNCHANGED for place in range(pairs)
    ] + [OTHER_LESION] * others


class _Lesions:
    """Lesions of a split, one of each group, in random order."""

    def __init__(self, cohort: Cohort, max_extent: float, rng: np.random.Generator) -> None:
        self.cohort, self.max_extent = cohort, max_extent
        by_group: dict[str, Row] = {}
        for row in cohort.rows:
            by_group.setdefault(row.group_id, row)
        rows = list(by_group.values())
        self.rows = [rows[i] for i in rng.permutation(len(rows))]

    def next(self) -> tuple[Row, NDArray[np.uint8], NDArray[np.bool_]]:
        """The next lesion that is small enough.

        Raises
        ------
        CohortError
            If none is left.
        """
        while self.rows:
            row = self.rows.pop()
            image, mask = load_lesion(self.cohort, row)
            extents = [np.ptp(places) + 1 for places in np.nonzero(mask)]
            if all(e <= self.max_extent * s for e, s in zip(extents, mask.shape, strict=True)):
                return row, image, mask
        raise CohortError("too few lesions for so many pairs")


def _write_pair(
    settings: ChangeSimulation,
    lesions: _Lesions,
    kind: str,
    *,
    name: str,
    split: str,
    folder: Path,
    rng: np.random.Generator,
) -> dict[str, object]:
    row, image, mask = lesions.next()
    second, second_mask = image, mask
    truth = np.zeros_like(mask)
    if kind == OTHER_LESION:
        _, second, second_mask = lesions.next()
    elif kind != UNCHANGED:
        second, second_mask = CHANGES[kind](image, mask, settings, rng)
        truth = changed_pixels(image, second)
    pictures = {
        "before": reimage(image, mask, settings.reimaging, rng),
        "after": reimage(second, second_mask, settings.reimaging, rng),
    }
    for when, (picture, picture_mask) in pictures.items():
        Image.fromarray(picture).save(folder / "images" / f"{name}_{when}.jpg", quality=95)
        Image.fromarray(picture_mask).save(folder / "masks" / f"{name}_{when}.png")
    Image.fromarray(truth).save(folder / "truth" / f"{name}.png")
    return {
        "pair_id": name,
        "before": f"{name}_before",
        "after": f"{name}_after",
        "group_id": row.group_id,
        "split": split,
        "changed": "" if kind == OTHER_LESION else int(kind != UNCHANGED),
        "kind": kind,
        "relative_growth": f"{second_mask.sum() / mask.sum() - 1:.4f}",
    }


def changed_pixels(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose colour differs visibly (CIE76) between two aligned images, (H, W)."""
    distance = np.linalg.norm(to_lab(before) - to_lab(after), axis=2)
    return np.asarray(distance >= MIN_TRUTH_SHIFT)


def grow(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: ChangeSimulation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grow a lesion about its centre, more to one side, the skin around giving way smoothly.

    Returns
    -------
    tuple of ndarray
        Image (H, W, 3) uint8 and mask (H, W) bool.
    """
    height, width = mask.shape
    growth = rng.uniform(settings.min_growth, settings.max_growth)
    side, lean = rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.6)
    centre = np.array([places.mean() for places in np.nonzero(mask)])
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    offsets = np.stack([rows - centre[0], columns - centre[1]])
    angle = np.arctan2(offsets[0], offsets[1])
    reach = np.sqrt(mask.sum() / np.pi)
    radius = np.hypot(*offsets)
    # Full growth inside the lesion, none beyond 1.8 times its radius.
    fading = np.clip((1.8 * reach - radius) / (0.8 * reach), 0, 1)
    fading = fading * fading * (3 - 2 * fading)
    factor = 1 / (1 + growth * (1 + lean * np.cos(angle - side)) * fading)
    sources = centre[:, None, None] + offsets * factor
    maps = (sources[1].astype(np.float32), sources[0].astype(np.float32))
    grown = cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    grown_mask = cv2.remap(mask.astype(np.uint8), *maps, cv2.INTER_NEAREST)
    return np.asarray(grown, np.uint8), np.asarray(grown_mask > 0)


def darken(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: ChangeSimulation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put a new, darker area into a lesion; the mask stays."""
    places = np.argwhere(mask)
    centre = places[rng.integers(len(places))]
    reach = np.sqrt(mask.sum() / np.pi) * rng.uniform(0.25, 0.5)
    blob = np.zeros(mask.shape, np.uint8)
    axes = tuple(int(v) for v in np.maximum(2, reach * rng.uniform(0.6, 1.4, 2)))
    middle = (int(centre[1]), int(centre[0]))
    cv2.ellipse(blob, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    weight = soften((blob > 0) & mask, max(1.0, reach / 5))
    lab = to_lab(image)
    lab[..., 0] -= weight * rng.uniform(settings.min_darkening, settings.max_darkening)
    return from_lab(lab), mask.copy()


def recolour_part(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: ChangeSimulation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Shift the colour of one side of a lesion, to red, grey or brown; the mask stays."""
    angle = rng.uniform(-np.pi, np.pi)
    rows, columns = np.nonzero(mask)
    height, width = np.mgrid[: mask.shape[0], : mask.shape[1]]
    along = (height - rows.mean()) * np.sin(angle) + (width - columns.mean()) * np.cos(angle)
    weight = soften(mask & (along > 0), max(1.0, np.sqrt(mask.sum()) / 20))
    tints = np.array([[-0.3, 0.8, 0.2], [-0.5, -0.5, -0.8], [-0.8, 0.3, 0.6]])
    amount = rng.uniform(settings.min_darkening, settings.max_darkening)
    shift = tints[rng.integers(len(tints))] * amount
    lab = to_lab(image) + weight[..., None] * shift
    return from_lab(lab.astype(np.float32)), mask.copy()


_Change = Callable[
    [NDArray[np.uint8], NDArray[np.bool_], ChangeSimulation, np.random.Generator],
    tuple[NDArray[np.uint8], NDArray[np.bool_]],
]
CHANGES: dict[str, _Change] = {"grown": grow, "darkened": darken, "recoloured": recolour_part}
"""Kind of change -> what makes it."""
