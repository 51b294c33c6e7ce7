"""Choosing the thresholds of TBP screening on validation patients, and growing its trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from models.tbp.lesions import FusionThresholds
from models.tbp.trees import LEAF, Forest

MIN_THRESHOLD = 1e-6


@dataclass(frozen=True, kw_only=True)
class ModuleVotes:
    """What the modules say of N validation lesions."""

    risk: NDArray[np.floating]
    """(N,) probability."""
    trees: NDArray[np.floating]
    """(N,) probability; nan where they abstain."""
    is_duckling: NDArray[np.bool_]
    """(N,) outlier within its patient."""


def choose_thresholds(
    votes: ModuleVotes, malignant: NDArray[np.bool_], sensitivity: float
) -> FusionThresholds:
    """Thresholds of the OR with the fewest false alarms at a stated sensitivity.

    Parameters
    ----------
    votes
        Scores of the validation lesions.
    malignant
        (N,) truth.
    sensitivity
        Share of the malignant lesions that at least one module must find, in (0, 1].

    Returns
    -------
    FusionThresholds
        Of all pairs of thresholds at scores of malignant lesions the one with the highest
        specificity that reaches the sensitivity; among equals the highest thresholds. A module
        that is not needed gets a threshold above every score.

    Raises
    ------
    ValueError
        If there is no malignant lesion or the sensitivity is impossible.
    """
    if not 0 < sensitivity <= 1 or not malignant.any():
        raise ValueError("a malignant lesion and a sensitivity in (0, 1] are needed")
    trees = np.nan_to_num(np.asarray(votes.trees, np.float64), nan=-1.0)
    risk = np.asarray(votes.risk, np.float64)
    needed = int(np.ceil(sensitivity * malignant.sum() - 1e-9))
    best: tuple[int, float, float] | None = None
    # Only scores of malignant lesions can matter: a threshold between two of them may rise to the
    # upper one without losing a malignant lesion.
    for first in _candidates(risk[malignant]):
        found = votes.is_duckling | (risk >= first)
        second = _highest(trees[malignant], found[malignant], needed)
        if second is None:
            continue
        alarms = int(((found | (trees >= second)) & ~malignant).sum())
        key = (alarms, -first, -second)
        best = key if best is None or key < best else best
    if best is None:  # every module at its lowest still misses: abstentions count as misses
        return FusionThresholds(risk=MIN_THRESHOLD, trees=MIN_THRESHOLD)
    return FusionThresholds(risk=-best[1], trees=-best[2])


def _candidates(scores: NDArray[np.float64]) -> list[float]:
    return [1.0, *sorted({max(float(s), MIN_THRESHOLD) for s in scores}, reverse=True)]


def _highest(scores: NDArray[np.float64], is_found: NDArray[np.bool_], needed: int) -> float | None:
    """Highest threshold at which the trees add what is still missing."""
    lacking = needed - int(is_found.sum())
    if lacking <= 0:
        return 1.0
    left = np.sort(scores[~is_found & (scores > 0)])[::-1]
    return None if len(left) < lacking else max(float(left[lacking - 1]), MIN_THRESHOLD)


def fit_count_threshold(
    nevus_prob: NDArray[np.floating], is_nevus: NDArray[np.bool_], patients: Sequence[str]
) -> tuple[float, float]:
    """Threshold with the least mean absolute error of the patients' nevus counts.

    A threshold that is best for single tiles may be wrong for every patient by the same number.

    Parameters
    ----------
    nevus_prob
        (N,) finite probability in [0, 1].
    is_nevus
        (N,) truth.
    patients
        N patients.

    Returns
    -------
    tuple of float
        Threshold in (0, 1), and the mean absolute error of a patient's count with it. Of equal
        ones the threshold with the least bias, then the largest.

    Raises
    ------
    ValueError
        If there is no lesion.
    """
    if len(nevus_prob) == 0:
        raise ValueError("no tile to calibrate the count with")
    _, numbers = np.unique(np.asarray(patients), return_inverse=True)
    values = np.clip(np.asarray(nevus_prob, np.float64), 2e-6, 1 - 2e-6)
    errors = -np.bincount(numbers, weights=is_nevus)
    order = np.argsort(-values, kind="stable")
    steps = [(float(values[order[0]]) + 1) / 2]
    candidates = [_judge(errors, steps[0])]
    # Tiles enter the count one after the other as the threshold sinks.
    for place, tile in enumerate(order):
        errors[numbers[tile]] += 1
        following = float(values[order[place + 1]]) if place + 1 < len(order) else 0.0
        if following < values[tile]:
            candidates.append(_judge(errors, (float(values[tile]) + following) / 2))
    error, _, negative = min(candidates)
    return -negative, error


def _judge(errors: NDArray[np.number], threshold: float) -> tuple[float, float, float]:
    return float(np.abs(errors).mean()), abs(float(errors.sum())), -threshold


@dataclass(frozen=True, kw_only=True)
class TreeSettings:
    """How the trees grow; the paper names ExtraTrees and no more."""

    trees: int
    """Number of trees."""
    min_leaf: int
    """Fewest lesions in a leaf."""
    max_depth: int
    """Deepest leaf."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if min(self.trees, self.min_leaf, self.max_depth) < 1:
            raise ValueError("trees, min_leaf and max_depth must be positive")


def grow_trees(
    measurements: NDArray[np.floating],
    malignant: NDArray[np.bool_],
    columns: Sequence[int],
    settings: TreeSettings,
    seed: int,
) -> ExtraTreesClassifier:
    """Grow extremely randomised trees on some columns of the measurements.

    Parameters
    ----------
    measurements
        (N, 32), nan where a value is missing.
    malignant
        (N,) target; the classes are weighted to balance.
    columns
        Columns to learn from.
    """
    forest = ExtraTreesClassifier(
        n_estimators=settings.trees,
        min_samples_leaf=settings.min_leaf,
        max_depth=settings.max_depth,
        class_weight="balanced",
        random_state=seed,
        n_jobs=1,
    )
    forest.fit(measurements[:, list(columns)].astype(np.float32), malignant.astype(np.int64))
    return forest


def export_trees(classifier: ExtraTreesClassifier, columns: Sequence[int], features: int) -> Forest:
    """Turn scikit-learn's trees into arrays that ask for columns of the whole table.

    Parameters
    ----------
    classifier
        Fitted on two classes; class 1 is the positive one.
    columns
        Columns of the whole table that it was fitted on, in order.
    features
        Columns of the whole table.
    """
    parts: dict[str, list[NDArray[np.generic]]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "missing_left", "value")
    }
    roots, start = [], 0
    whole = np.append(np.asarray(columns, np.int64), LEAF)
    for estimator in classifier.estimators_:
        tree = estimator.tree_
        nodes = np.arange(tree.node_count)
        is_leaf = tree.children_left < 0
        parts["feature"].append(np.where(is_leaf, LEAF, whole[np.maximum(tree.feature, -1)]))
        parts["threshold"].append(_round_down(np.where(is_leaf, 0.0, tree.threshold)))
        for name, child in (("left", tree.children_left), ("right", tree.children_right)):
            parts[name].append(start + np.where(is_leaf, nodes, child))
        parts["missing_left"].append(np.where(is_leaf, 0, tree.missing_go_to_left))
        shares = tree.value[:, 0, :]
        parts["value"].append(shares[:, 1] / shares.sum(axis=1))
        roots.append(start)
        start += tree.node_count
    kinds = {
        "feature": np.int16,
        "threshold": np.float32,
        "left": np.int32,
        "right": np.int32,
        "missing_left": np.uint8,
        "value": np.float32,
    }
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.concatenate(parts[name]).astype(kind) for name, kind in kinds.items()
    }
    return Forest.from_arrays({**arrays, "roots": np.array(roots, np.int32)}, features)


def _round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Largest float32 not above each threshold: no float32 feature then changes its side."""
    rounded = thresholds.astype(np.float32)
    above = rounded.astype(np.float64) > thresholds
    return np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded)
