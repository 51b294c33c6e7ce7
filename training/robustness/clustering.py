"""Clustering score: whether clusters follow the biology or the centre."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from training.errors import CohortError
from training.robustness.cohort import CentreCohort
from training.runs import Progress

STARTS = 5  # n_init of k-means
SILHOUETTE_SAMPLE = 2000


@dataclass(frozen=True, kw_only=True)
class ClusteringScore:
    """Mean over all pairs of labels and pairs of centres."""

    value: float
    """ARI with the labels minus ARI with the centres, in [-1, 1]."""
    low: float
    """2.5th percentile over seeds of the mean over combinations."""
    high: float
    """97.5th percentile."""
    with_labels: float
    """Mean ARI with the labels."""
    with_centres: float
    """Mean ARI with the centres."""
    combinations: int
    """Pairs of labels times pairs of centres with samples in all four cells."""
    clusters: tuple[int, ...]
    """Number of clusters chosen in each."""


def choose_clusters(embeddings: NDArray[np.float64], *, max_clusters: int, seed: int = 0) -> int:
    """Number of clusters, from 2 on, with the best cosine silhouette."""
    limit = min(max_clusters, len(embeddings) - 1)
    if limit < 2:
        raise CohortError(f"{len(embeddings)} samples cannot be clustered")
    scores = []
    for count in range(2, limit + 1):
        found = _clusters(embeddings, count, seed)
        sample = min(SILHOUETTE_SAMPLE, len(embeddings))
        scores.append(
            silhouette_score(
                embeddings, found, metric="cosine", sample_size=sample, random_state=seed
            )
            if len(np.unique(found)) > 1
            else -1.0
        )
    return 2 + int(np.argmax(scores))


def _clusters(embeddings: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    means = KMeans(n_clusters=count, n_init=STARTS, random_state=seed)
    return np.asarray(means.fit_predict(embeddings), np.int64)


def clustering_score(
    cohort: CentreCohort, *, seeds: int, max_clusters: int, report: Progress
) -> ClusteringScore:
    """Score of a cohort.

    Parameters
    ----------
    cohort
        Embeddings of unit length.
    seeds
        Repetitions of k-means (the paper has 50).
    max_clusters
        Largest number of clusters tried (the paper has 30).
    report
        Called after each combination.

    Raises
    ------
    CohortError
        If no pair of labels and centres has samples in all four cells.

    References
    ----------
    PathoROB, Nature Communications 17:5218, 2026, methods, "Clustering score". The number of
    clusters is chosen once for each combination, with the first seed.
    """
    pairs = [
        chosen
        for labels in itertools.combinations(range(len(cohort.label_names)), 2)
        for centres in itertools.combinations(range(len(cohort.centre_names)), 2)
        if (chosen := _cells(cohort, labels, centres)) is not None
    ]
    if not pairs:
        raise CohortError("no two labels occur in the same two centres")
    scores = np.zeros((len(pairs), seeds, 2))
    clusters = []
    for number, chosen in enumerate(pairs):
        part = cohort.subset(chosen)
        count = choose_clusters(part.embeddings, max_clusters=max_clusters)
        clusters.append(count)
        for seed in range(seeds):
            found = _clusters(part.embeddings, count, seed)
            scores[number, seed] = (
                adjusted_rand_score(part.labels, found),
                adjusted_rand_score(part.centres, found),
            )
        report("clustering", number + 1, len(pairs))
    by_seed = (scores[..., 0] - scores[..., 1]).mean(axis=0)
    return ClusteringScore(
        value=float(by_seed.mean()),
        low=float(np.percentile(by_seed, 2.5)),
        high=float(np.percentile(by_seed, 97.5)),
        with_labels=float(scores[..., 0].mean()),
        with_centres=float(scores[..., 1].mean()),
        combinations=len(pairs),
        clusters=tuple(clusters),
    )


def _cells(
    cohort: CentreCohort, labels: tuple[int, ...], centres: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Samples of two labels and two centres; None where a cell is empty."""
    chosen = np.isin(cohort.labels, labels) & np.isin(cohort.centres, centres)
    cells = set(zip(cohort.labels[chosen], cohort.centres[chosen], strict=True))
    return chosen if len(cells) == 4 else None
