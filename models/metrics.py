"""Figures by which the models are judged, with intervals that respect groups.

The definitions are scikit-learn's, and the tests compare with it. The area under the curve is
counted from sorted scores, since the bootstrap needs it thousands of times; labels that are
absent from a sample are left out; resampling is by group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with its uncertainty."""

    value: float
    """Point estimate on the whole sample."""
    low: float
    """2.5th percentile of the bootstrap."""
    high: float
    """97.5th percentile of the bootstrap."""
    n: int
    """Images behind the number."""


def _check_labels(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> None:
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape} do not fit"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError("a label lies outside the columns of the probabilities")


def macro_auroc(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Mean one-versus-rest area under the ROC curve over the labels that occur.

    Parameters
    ----------
    labels
        (B,) label numbers, 0-based.
    probabilities
        (B, C) scores; only their order within a column matters.

    Returns
    -------
    float
        In [0, 1]; nan when fewer than two labels occur.
    """
    _check_labels(labels, probabilities)
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(
        np.mean([binary_auroc(labels == label, probabilities[:, label]) for label in present])
    )


def binary_auroc(is_positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve; nan when only one of the two occurs.

    Parameters
    ----------
    is_positive
        (B,) bool.
    scores
        (B,) larger for positive.

    References
    ----------
    Hanley and McNeil, Radiology 143, 1982: the area is the Mann-Whitney statistic, the share of
    pairs in the right order, ties counting half.
    """
    positives = np.count_nonzero(is_positive)
    negatives = len(is_positive) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    others, own = np.sort(scores[~is_positive]), scores[is_positive]
    # Pairs won, and pairs won or tied: their mean counts a tie half.
    wins = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    return float(wins.sum() / 2 / (positives * negatives))


def balanced_accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Mean recall of the most probable label over the labels that occur."""
    _check_labels(labels, probabilities)
    found = probabilities.argmax(axis=1)
    return float(np.mean([np.mean(found[labels == label] == label) for label in np.unique(labels)]))


def jaccard(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 when both are empty."""
    if found.shape != truth.shape:
        raise ValueError(f"masks of shapes {found.shape} and {truth.shape}")
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Twice the intersection over the sum of two masks; 1 when both are empty."""
    if found.shape != truth.shape:
        raise ValueError(f"masks of shapes {found.shape} and {truth.shape}")
    total = np.count_nonzero(found) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(found & truth) / total if total else 1.0


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: NDArray[np.str_] | list[str],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Figure:
    """Value of a statistic with its 95 % percentile interval, resampling whole groups.

    Images of one lesion or patient are not independent: groups are drawn with replacement, and
    a group drawn twice brings its images twice.

    Parameters
    ----------
    statistic
        Takes the numbers of the images of a sample, returns a float; nan values are left out.
    groups
        (B,) group of each image.
    replicates
        Number of samples.
    seed
        Seed of the samples.

    Returns
    -------
    Figure
        The interval is nan when the statistic is undefined in more than half of the samples.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (percentile
    interval) and 8 (resampling units).
    """
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(replicates):
        drawn = rng.integers(0, len(members), len(members))
        values.append(statistic(np.concatenate([members[i] for i in drawn])))
    known = np.array([value for value in values if np.isfinite(value)])
    low, high = float("nan"), float("nan")
    if len(known) * 2 > replicates:
        low, high = (float(v) for v in np.percentile(known, (2.5, 97.5)))
    whole = np.arange(len(numbers))
    return Figure(value=float(statistic(whole)), low=low, high=high, n=len(numbers))


def permutation_test(
    difference: Callable[[NDArray[np.bool_]], float],
    groups: NDArray[np.str_] | list[str],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> float:
    """Two-sided p-value that two models are as good as each other, swapping them by group.

    If the models were equal, their answers on any group could change places. All images of a
    group are swapped together, since they are not independent.

    Parameters
    ----------
    difference
        Takes (B,) bool, True where the two models' answers are swapped; returns the difference of
        their figures. nan differences are left out.
    groups
        (B,) group of each image.
    replicates
        Number of random swaps.
    seed
        Seed of the swaps.

    Returns
    -------
    float
        In (0, 1]; nan when the difference itself is undefined.

    References
    ----------
    Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; the observed
    arrangement counts as one of the permutations (Phipson and Smyth, SAGMB 9, 2010).
    """
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    observed = difference(np.zeros(len(numbers), np.bool_))
    if not np.isfinite(observed):
        return float("nan")
    rng = np.random.default_rng(seed)
    found = np.array(
        [difference((rng.random(len(names)) < 0.5)[numbers]) for _ in range(replicates)]
    )
    found = found[np.isfinite(found)]
    # A hair's breadth for sums taken in another order.
    as_large = np.count_nonzero(np.abs(found) >= abs(observed) - 1e-12)
    return float((as_large + 1) / (len(found) + 1))
