"""Robustness index: whether neighbours share the biology or the centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.metrics import bootstrap
from training.errors import CohortError
from training.robustness.cohort import CentreCohort

CHUNK = 1024  # rows of similarities held at once
DEFAULT_K = (1, 3, 5, 7, 9, 11, 15, 21, 31, 41, 51, 61, 81, 101)


@dataclass(frozen=True, kw_only=True)
class RobustnessIndex:
    """The index with what is needed to judge it."""

    value: float
    """In [0, 1]; 0.5 balanced, 1 robust; nan when no sample has a neighbour of either kind."""
    low: float
    """2.5th percentile of the bootstrap by group."""
    high: float
    """97.5th percentile."""
    k: int
    """Neighbours looked at."""
    balanced_accuracy: float
    """Of the kNN classifier of the biology at this k, neighbours of the same group left out."""
    share_without: float
    """Share of samples that have neither kind of neighbour and so add nothing."""
    n: int
    """Samples."""
    same_class_other_centre: int
    """All SO neighbours."""
    other_class_same_centre: int
    """All OS neighbours."""
    same_both: int
    """All SS neighbours."""
    other_both: int
    """All OO neighbours."""


def nearest(cohort: CentreCohort, k: int) -> NDArray[np.int64]:
    """Nearest neighbours by cosine, own group left out.

    Parameters
    ----------
    cohort
        Embeddings of unit length.
    k
        Neighbours wanted.

    Returns
    -------
    ndarray
        (B, k) sample numbers, nearest first, ties in the order of samples; -1 where a sample has
        fewer than k samples outside its group.
    """
    count = len(cohort.labels)
    found = np.full((count, k), -1, np.int64)
    kept = min(k, count)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        similarity = cohort.embeddings[start:stop] @ cohort.embeddings.T
        own = cohort.groups[start:stop, np.newaxis] == cohort.groups
        similarity[own] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :kept]
        is_other = np.isfinite(np.take_along_axis(similarity, order, axis=1))
        found[start:stop, :kept] = np.where(is_other, order, -1)
    return found


def knn_balanced_accuracy(cohort: CentreCohort, neighbours: NDArray[np.int64]) -> float:
    """Balanced accuracy of the majority label among neighbours; ties go to the nearest of them.

    Parameters
    ----------
    neighbours
        (B, k) as ``nearest`` gives them. Samples without any are left out.
    """
    classes = len(cohort.label_names)
    known = neighbours >= 0
    votes = np.zeros((len(neighbours), classes))
    for place in range(neighbours.shape[1]):
        rows = np.flatnonzero(known[:, place])
        # Each vote is worth a shade less than the one before: it decides ties and nothing else.
        worth = 1 - place * 1e-6
        np.add.at(votes, (rows, cohort.labels[neighbours[rows, place]]), worth)
    has_any = known.any(axis=1)
    predicted, truth = votes.argmax(axis=1)[has_any], cohort.labels[has_any]
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def choose_k(cohort: CentreCohort, candidates: Sequence[int] = DEFAULT_K) -> int:
    """The k with the best balanced accuracy of the biology; the smallest of equal ones."""
    usable = sorted({k for k in candidates if 1 <= k < len(cohort.labels)})
    if not usable:
        raise CohortError(f"{len(cohort.labels)} samples are too few for neighbours")
    neighbours = nearest(cohort, usable[-1])
    scores = [knn_balanced_accuracy(cohort, neighbours[:, :k]) for k in usable]
    return usable[int(np.argmax(scores))]


def robustness_index(
    cohort: CentreCohort, *, k: int | None = None, replicates: int = 1000, seed: int = 0
) -> RobustnessIndex:
    """Share of same-class-other-centre among the telling neighbours.

    Parameters
    ----------
    cohort
        Embeddings of unit length.
    k
        Neighbours; None for ``choose_k``.
    replicates
        Bootstrap samples, drawn by group.
    seed
        Seed of the bootstrap.

    Raises
    ------
    CohortError
        If k is impossible.

    References
    ----------
    PathoROB, Nature Communications 17:5218, 2026, methods, "Robustness index":
    ``sum n_SO / sum (n_SO + n_OS)`` over the k nearest outside the sample's slide.
    """
    chosen = choose_k(cohort) if k is None else k
    if not 1 <= chosen < len(cohort.labels):
        raise CohortError(f"k {chosen} for {len(cohort.labels)} samples")
    neighbours = nearest(cohort, chosen)
    known = neighbours >= 0
    same_class = cohort.labels[neighbours] == cohort.labels[:, np.newaxis]
    same_centre = cohort.centres[neighbours] == cohort.centres[:, np.newaxis]
    so = (known & same_class & ~same_centre).sum(axis=1)
    os = (known & ~same_class & same_centre).sum(axis=1)

    def statistic(sample: NDArray[np.intp]) -> float:
        total = int(so[sample].sum() + os[sample].sum())
        return float(so[sample].sum() / total) if total else float("nan")

    figure = bootstrap(statistic, cohort.groups.astype(np.str_), replicates=replicates, seed=seed)
    return RobustnessIndex(
        value=figure.value,
        low=figure.low,
        high=figure.high,
        k=chosen,
        balanced_accuracy=knn_balanced_accuracy(cohort, neighbours),
        share_without=float(((so + os) == 0).mean()),
        n=len(cohort.labels),
        same_class_other_centre=int(so.sum()),
        other_class_same_centre=int(os.sum()),
        same_both=int((known & same_class & same_centre).sum()),
        other_both=int((known & ~same_class & ~same_centre).sum()),
    )
