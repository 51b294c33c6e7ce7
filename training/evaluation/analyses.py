"""Beyond the figures: subgroups, comparison with another model, sets, referral, net benefit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.conformal import conformal_scores, conformal_sets, conformal_threshold, referral_curve
from models.decision import net_benefit
from models.metrics import Figure, bootstrap, permutation_test
from training.errors import CohortError
from training.evaluation.measures import (
    SHORT_NAMES,
    Judged,
    Statistic,
    all_statistics,
    label_statistics,
    mean_of,
)

SMALL = 10  # images below which a subgroup is named but not measured
MAX_SUBGROUPS = 40
AGE_EDGES = (30, 50, 70)
NOT_STATED = "not stated"
SUBGROUP_METRICS = ("macro_auroc", "melanoma_auroc", "malignant_auroc", "balanced_accuracy", "ece")
COVERAGE = 0.9
KEPT_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
THRESHOLDS = np.linspace(0.01, 0.99, 99)
CURVE_REPLICATES = 200


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """One value of one column, and the figures of its images."""

    column: str
    value: str
    n: int
    groups: int
    figures: dict[str, Figure]
    """Short name -> figure; empty when there are fewer than ``SMALL`` images."""


def band(column: str, value: str) -> str:
    """Value of a subgroup column as it is reported: ages in bands, gaps named."""
    text = value.strip()
    if text.lower() in ("", "nan", "na", "none", "unknown", "unk"):
        return NOT_STATED
    if column.lower().startswith("age"):
        try:
            age = float(text)
        except ValueError:
            return text
        index = sum(age >= edge for edge in AGE_EDGES)
        bounds = (None, *AGE_EDGES, None)
        low, high = bounds[index], bounds[index + 1]
        if low is None:
            return f"under {high}"
        return f"{low} and over" if high is None else f"{low} to {high - 1}"
    return text


def measure_subgroups(
    columns: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    groups: NDArray[np.str_],
    *,
    judged: Judged | None,
    jaccard: NDArray[np.float64],
) -> list[Subgroup]:
    """Figures of each value of each column.

    Parameters
    ----------
    columns
        Columns of the table.
    attributes
        Column -> value, one a row.
    groups
        (B,) lesion or patient.
    judged
        Labels and answers; None when only outlines are measured.
    jaccard
        (B,) overlaps, nan without a mask.

    Raises
    ------
    CohortError
        If a column has more than ``MAX_SUBGROUPS`` values: it tells images apart, not subgroups.
    """
    found = []
    for column in columns:
        values = np.array([band(column, row[column]) for row in attributes])
        names = sorted(set(values))
        if len(names) > MAX_SUBGROUPS:
            raise CohortError(f"column {column!r} has {len(names)} values: too many for subgroups")
        for name in names:
            chosen = np.flatnonzero(values == name)
            figures = {}
            if len(chosen) >= SMALL:
                figures = _figures(chosen, groups, judged, jaccard)
            found.append(
                Subgroup(
                    column=column,
                    value=str(name),
                    n=len(chosen),
                    groups=len(np.unique(groups[chosen])),
                    figures=figures,
                )
            )
    return found


def _figures(
    chosen: NDArray[np.intp],
    groups: NDArray[np.str_],
    judged: Judged | None,
    jaccard: NDArray[np.float64],
) -> dict[str, Figure]:
    statistics: list[tuple[str, Statistic]] = []
    if judged is not None:
        part = dataclasses.replace(
            judged,
            **{
                name: getattr(judged, name)[chosen]
                for name in ("labels", "probabilities", "is_malignant", "malignancy", "is_called")
            },
        )
        statistics = [
            (SHORT_NAMES[name], of)
            for name, of in label_statistics(part)
            if SHORT_NAMES[name] in SUBGROUP_METRICS
        ]
    figures = {
        name: bootstrap(of, groups[chosen], replicates=CURVE_REPLICATES) for name, of in statistics
    }
    overlaps, own = jaccard[chosen], groups[chosen]
    known = np.isfinite(overlaps)
    if known.sum() >= SMALL:
        of = mean_of(overlaps[known])
        figures["jaccard"] = bootstrap(of, own[known], replicates=CURVE_REPLICATES)
    return figures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of two models on the same images."""

    metric: str
    value: float
    against: float
    p_value: float
    """Two-sided, permutation by group."""
    n: int


def compare(
    judged: Judged | None,
    other: Judged | None,
    *,
    jaccard: NDArray[np.float64],
    other_jaccard: NDArray[np.float64],
    groups: NDArray[np.str_],
    replicates: int,
) -> list[Comparison]:
    """Compare two models by swapping their answers group by group.

    Raises
    ------
    CohortError
        If the models have other labels.
    """
    found = []
    if judged is not None and other is not None:
        if set(judged.names) != set(other.names):
            raise CohortError(
                f"the models differ in their labels: {sorted(set(judged.names) ^ set(other.names))}"
            )
        other = _reorder(other, judged.names)
        wanted = ("macro_auroc", "melanoma_auroc", "malignant_auroc", "balanced_accuracy", "brier")
        for name, _ in label_statistics(judged):
            if SHORT_NAMES[name] in wanted:
                found.append(_compare_labels(name, judged, other, groups, replicates))
    known = np.isfinite(jaccard) & np.isfinite(other_jaccard)
    if known.any():
        a, b = jaccard[known], other_jaccard[known]
        found.append(
            Comparison(
                metric="Jaccard of the lesion",
                value=float(a.mean()),
                against=float(b.mean()),
                p_value=permutation_test(
                    lambda swapped: float(np.where(swapped, b - a, a - b).mean()),
                    groups[known],
                    replicates=replicates,
                ),
                n=int(known.sum()),
            )
        )
    return found


def _reorder(judged: Judged, names: tuple[str, ...]) -> Judged:
    order = [judged.names.index(name) for name in names]
    labels = np.array([names.index(judged.names[label]) for label in judged.labels], np.int64)
    return dataclasses.replace(
        judged, names=names, labels=labels, probabilities=judged.probabilities[:, order]
    )


def _compare_labels(
    metric: str, one: Judged, two: Judged, groups: NDArray[np.str_], replicates: int
) -> Comparison:
    everything = np.arange(len(groups))

    def value(judged: Judged) -> float:
        return dict(all_statistics(judged))[metric](everything)

    def mix(a: Judged, b: Judged, swapped: NDArray[np.bool_]) -> Judged:
        return dataclasses.replace(
            a,
            probabilities=np.where(swapped[:, None], b.probabilities, a.probabilities),
            malignancy=np.where(swapped, b.malignancy, a.malignancy),
            is_called=np.where(swapped, b.is_called, a.is_called),
        )

    return Comparison(
        metric=metric,
        value=value(one),
        against=value(two),
        p_value=permutation_test(
            lambda swapped: value(mix(one, two, swapped)) - value(mix(two, one, swapped)),
            groups,
            replicates=replicates,
        ),
        n=len(groups),
    )


@dataclass(frozen=True, kw_only=True)
class ConformalFigures:
    """Sets of one method at the promised coverage."""

    method: str
    promised: float
    coverage: Figure
    """Share of sets that hold the true label."""
    size: Figure
    """Mean number of labels in a set."""
    malignant_coverage: Figure | None
    """Coverage among the malignant images; None without one."""


def measure_conformal(judged: Judged, groups: NDArray[np.str_]) -> list[ConformalFigures]:
    """Coverage and size of conformal sets, each half of the groups calibrated on the other.

    Empty with fewer than two groups.
    """
    names = np.unique(groups)
    if len(names) < 2:
        return []
    first = np.isin(groups, np.random.default_rng(0).permutation(names)[: len(names) // 2])
    found = []
    for method in ("lac", "aps"):
        sets = np.empty(judged.probabilities.shape, np.bool_)
        for held in (first, ~first):
            scores = conformal_scores(judged.probabilities[~held], judged.labels[~held], method)
            threshold = conformal_threshold(scores, COVERAGE)
            sets[held] = conformal_sets(judged.probabilities[held], threshold, method)
        holds = sets[np.arange(len(sets)), judged.labels].astype(float)
        malignant = judged.is_malignant
        found.append(
            ConformalFigures(
                method=method,
                promised=COVERAGE,
                coverage=bootstrap(mean_of(holds), groups),
                size=bootstrap(mean_of(sets.sum(axis=1).astype(float)), groups),
                malignant_coverage=bootstrap(mean_of(holds[malignant]), groups[malignant])
                if malignant.any()
                else None,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Referral:
    """What is left to the model when the least sure images go to a reader."""

    kept: float
    """Share of images the model answers."""
    accuracy: Figure
    """Among them."""


def measure_referral(judged: Judged, groups: NDArray[np.str_]) -> list[Referral]:
    """Accuracy among the surest images, surest by the probability of the answer."""
    confidence = judged.probabilities.max(axis=1)
    is_wrong = judged.probabilities.argmax(axis=1) != judged.labels

    def accuracy(share: float) -> Statistic:
        def of(sample: NDArray[np.intp]) -> float:
            _, error = referral_curve(confidence[sample], is_wrong[sample])
            return float(1 - error[max(1, round(share * len(sample))) - 1])

        return of

    return [
        Referral(
            kept=share,
            accuracy=bootstrap(accuracy(share), groups, replicates=CURVE_REPLICATES),
        )
        for share in KEPT_SHARES
    ]


def measure_net_benefit(
    judged: Judged, groups: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Net benefit of acting on malignancy at ``THRESHOLDS``, with its 95 % interval by group."""
    _, numbers = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    rng = np.random.default_rng(0)
    curves = []
    for _ in range(CURVE_REPLICATES):
        drawn = rng.integers(0, len(members), len(members))
        sample = np.concatenate([members[i] for i in drawn])
        curves.append(
            net_benefit(judged.is_malignant[sample], judged.malignancy[sample], THRESHOLDS)
        )
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    return net_benefit(judged.is_malignant, judged.malignancy, THRESHOLDS), low, high


def count_labels(judged: Judged, groups: NDArray[np.str_]) -> list[dict[str, object]]:
    """Images and groups of each label of the model, and the share recognised."""
    counts = Counter(judged.labels.tolist())
    found = judged.probabilities.argmax(axis=1)
    rows: list[dict[str, object]] = []
    for number, name in enumerate(judged.names):
        own = judged.labels == number
        rows.append(
            {
                "label": name,
                "images": counts[number],
                "groups": len(np.unique(groups[own])),
                "recall": bootstrap(
                    mean_of((found[own] == number).astype(float)),
                    groups[own],
                    replicates=CURVE_REPLICATES,
                )
                if own.any()
                else None,
            }
        )
    return rows
