"""Average performance drop: what training on confounded centres costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from training.errors import CohortError
from training.robustness.cohort import CentreCohort
from training.runs import Progress

STRENGTHS = tuple(float(c) for c in np.logspace(-8, 4, 15))
"""The paper's 15 values of C."""
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.2  # of the groups of each cell of label and centre
MAX_ITERATIONS = 500
_MIN_SPREAD = 1e-12


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracy after training on splits of rising association."""

    mean: tuple[float, ...]
    """One a split, the first without association."""
    low: tuple[float, ...]
    """Lower ends of the 95 % intervals within repetitions (Masson and Loftus)."""
    high: tuple[float, ...]
    """Upper ends."""
    drop: float
    """Mean of accuracy over that of the first split, minus 1, over the later splits."""
    drop_low: float
    """95 % interval of the drop over repetitions."""
    drop_high: float


@dataclass(frozen=True, kw_only=True)
class PerformanceDrop:
    """The drop where the centres are known, and where they are new."""

    association: tuple[float, ...]
    """Cramér's V of label and centre in the training part of each split."""
    samples: int
    """Training samples of every split."""
    in_distribution: Accuracies
    unseen: Accuracies | None
    """None where no centre was kept aside."""
    repetitions: int
    not_converged: int
    """Fits stopped at ``MAX_ITERATIONS``."""


def cramers_v(table: NDArray[np.integer]) -> float:
    """Association of rows and columns of a contingency table, in [0, 1].

    Parameters
    ----------
    table
        (L, M) counts. Empty rows and columns are left out; nan if fewer than two of either stay.

    References
    ----------
    Cramér, Mathematical Methods of Statistics, 1946, section 21.9.

    Examples
    --------
    >>> cramers_v(np.array([[5, 0], [0, 5]]))
    1.0
    """
    counts = np.asarray(table, np.float64)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if min(counts.shape) < 2:
        return float("nan")
    total = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return float(math.sqrt(chi2 / (total * (min(counts.shape) - 1))))


def split_tables(available: NDArray[np.integer], steps: int) -> tuple[NDArray[np.int64], ...]:
    """Contingency tables of equal size, from no association to the strongest.

    Parameters
    ----------
    available
        (L, M) samples there are of each label and centre.
    steps
        Number of tables, at least 2.

    Returns
    -------
    tuple of ndarray
        (L, M) each. The first is uniform; in the last, label number i comes only from centre
        number i mod M (with more centres than labels: centre j gives only label j mod L).

    Raises
    ------
    CohortError
        If some cell is too small for any table.
    """
    labels, centres = available.shape
    diagonal = np.zeros((labels, centres))
    for number in range(max(labels, centres)):
        diagonal[number % labels, number % centres] = 1
    # Every label keeps its number of samples, so that only the centre changes.
    diagonal /= diagonal.sum(axis=1, keepdims=True)
    uniform = np.full((labels, centres), 1 / centres)
    shares = [uniform + (diagonal - uniform) * step / (steps - 1) for step in range(steps)]
    largest = max(
        (
            size
            for size in range(1, int(available.sum(axis=1).min()) + 1)
            if all((_rounded(share, size) <= available).all() for share in shares)
        ),
        default=0,
    )
    if largest < centres:
        raise CohortError("too few samples of some label and centre for splits of equal size")
    return tuple(_rounded(share, largest) for share in shares)


def _rounded(shares: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``size`` in each row (largest remainders)."""
    exact = shares * size
    found = np.floor(exact + 1e-9).astype(np.int64)
    for row, rest in enumerate(size - found.sum(axis=1)):
        order = np.argsort(-(exact[row] - found[row]), kind="stable")
        found[row, order[:rest]] += 1
    return found


def performance_drop(
    cohort: CentreCohort,
    *,
    unseen_centres: Sequence[str],
    steps: int,
    repetitions: int,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    report: Progress,
) -> PerformanceDrop:
    """Measure the drop of a linear classifier.

    Parameters
    ----------
    cohort
        Embeddings of unit length.
    unseen_centres
        Names of centres kept from training altogether.
    steps
        Splits of rising association.
    repetitions
        Draws of groups and samples (the paper has 20).
    strengths
        Values of C; the one with the best balanced accuracy on the validation part of the same
        split is taken, the smallest of equal ones.
    seed
        Seed of the draws.
    report
        Called after each repetition.

    Raises
    ------
    CohortError
        If a centre is unknown, or a label and centre have too few groups to split.

    Notes
    -----
    Groups of each label and centre are parted into training, validation and test; the test parts
    of all splits of one repetition are the same. Accuracy is balanced accuracy. The validation
    part has the association of its training part: a site that is confounded does not know it.

    References
    ----------
    PathoROB, Nature Communications 17:5218, 2026, methods, "Downstream performance". Masson and
    Loftus, Canadian Journal of Experimental Psychology 57, 2003 (intervals within repetitions).
    """
    unknown = set(unseen_centres) - set(cohort.centre_names)
    if unknown:
        raise CohortError(f"no centre {sorted(unknown)}")
    is_unseen = np.isin(
        cohort.centres, [i for i, name in enumerate(cohort.centre_names) if name in unseen_centres]
    )
    seen, unseen = cohort.subset(~is_unseen), cohort.subset(is_unseen)
    inside, outside, missed = [], [], 0
    association: tuple[float, ...] = ()
    samples = 0
    for repetition in range(repetitions):
        rng = np.random.default_rng([seed, repetition])
        parts = _part_groups(seen, rng)
        tables = [split_tables(_table(seen, parts == part), steps) for part in (0, 1)]
        association = tuple(cramers_v(table) for table in tables[0])
        samples = int(tables[0][0].sum())
        rows_in, rows_out = [], []
        for step in range(steps):
            train = _draw(seen, parts == 0, tables[0][step], rng)
            validation = _draw(seen, parts == 1, tables[1][step], rng)
            tests = [seen.subset(parts == 2), unseen]
            scores, bad = _fit(seen.subset(train), seen.subset(validation), tests, strengths)
            missed += bad
            rows_in.append(scores[0])
            rows_out.append(scores[1])
        inside.append(rows_in)
        outside.append(rows_out)
        report("performance drop", repetition + 1, repetitions)
    return PerformanceDrop(
        association=association,
        samples=samples,
        in_distribution=_summarise(np.array(inside)),
        unseen=_summarise(np.array(outside)) if is_unseen.any() else None,
        repetitions=repetitions,
        not_converged=missed,
    )


def _part_groups(cohort: CentreCohort, rng: np.random.Generator) -> NDArray[np.int64]:
    """0 training, 1 validation, 2 test for each sample, by group and cell.

    A group with several labels counts under its first: its samples still stay together.
    """
    groups, first = np.unique(cohort.groups, return_index=True)
    cells = cohort.labels[first] * len(cohort.centre_names) + cohort.centres[first]
    part_of = np.zeros(int(groups.max()) + 1, np.int64)
    for cell in np.unique(cells):
        members = rng.permutation(groups[cells == cell])
        if len(members) < 3:
            label, centre = divmod(int(cell), len(cohort.centre_names))
            raise CohortError(
                f"label {cohort.label_names[label]} has {len(members)} groups in centre "
                f"{cohort.centre_names[centre]}, three are needed"
            )
        test = max(1, round(TEST_SHARE * len(members)))
        validation = max(1, round(VALIDATION_SHARE * len(members)))
        part_of[members[:test]] = 2
        part_of[members[test : test + validation]] = 1
    return part_of[cohort.groups]


def _table(cohort: CentreCohort, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Samples of each label and centre that occur; all labels must occur in all centres."""
    table = np.zeros((len(cohort.label_names), len(cohort.centre_names)), np.int64)
    np.add.at(table, (cohort.labels[chosen], cohort.centres[chosen]), 1)
    table = table[:, np.unique(cohort.centres)]
    if (table == 0).any():
        raise CohortError("every label must occur in every centre that is trained on")
    return table


def _draw(
    cohort: CentreCohort,
    chosen: NDArray[np.bool_],
    table: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Samples drawn to a table, without replacement."""
    drawn = []
    for (label, column), count in np.ndenumerate(table):
        centre = np.unique(cohort.centres)[column]
        cell = np.flatnonzero(chosen & (cohort.labels == label) & (cohort.centres == centre))
        drawn.append(rng.permutation(cell)[:count])
    return np.concatenate(drawn)


def _fit(
    train: CentreCohort,
    validation: CentreCohort,
    tests: Sequence[CentreCohort],
    strengths: Sequence[float],
) -> tuple[list[float], int]:
    """Balanced accuracy on each test of the classifier that validates best."""
    # Ridge-penalised fits depend on the span of the training samples alone: turn into it first.
    mean = train.embeddings.mean(axis=0)
    _, _, turn = np.linalg.svd(train.embeddings - mean, full_matrices=False)
    scale = np.maximum((train.embeddings - mean).std(), _MIN_SPREAD)
    parts = [(part.embeddings - mean) @ turn.T / scale for part in (train, validation, *tests)]
    best, best_score, missed = None, -1.0, 0
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
            model.fit(parts[0], train.labels)
        missed += int(np.max(model.n_iter_) >= MAX_ITERATIONS)
        score = _balanced(model.predict(parts[1]), validation.labels)
        if score > best_score:
            best, best_score = model, score
    return [
        _balanced(best.predict(part), test.labels) if best and len(test.labels) else float("nan")
        for part, test in zip(parts[2:], tests, strict=True)
    ], missed


def _balanced(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def _summarise(accuracy: NDArray[np.float64]) -> Accuracies:
    """Means, intervals within repetitions, and the drop of (R, S) accuracies."""
    count, steps = accuracy.shape
    mean = accuracy.mean(axis=0)
    drops = (accuracy[:, 1:] / accuracy[:, :1] - 1).mean(axis=1)
    half, drop_half = float("nan"), float("nan")
    if count > 1:
        residual = accuracy - accuracy.mean(axis=1, keepdims=True) - mean + accuracy.mean()
        freedom = (count - 1) * (steps - 1)
        error = (residual**2).sum() / freedom
        half = float(student.ppf(0.975, freedom) * math.sqrt(error / count))
        drop_half = float(student.ppf(0.975, count - 1) * drops.std(ddof=1) / math.sqrt(count))
    return Accuracies(
        mean=tuple(float(v) for v in mean),
        low=tuple(float(v - half) for v in mean),
        high=tuple(float(v + half) for v in mean),
        drop=float(drops.mean()),
        drop_low=float(drops.mean() - drop_half),
        drop_high=float(drops.mean() + drop_half),
    )
