"""The figures of a diagnosis model on a cohort, with 95 % intervals that respect groups.

Nothing is fitted here: temperature and thresholds are those of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.calibration import brier_score, calibrate, expected_calibration_error
from models.conformal import label_set
from models.diagnosis import DiagnosisManifest
from models.manifest import HeldOutFigure
from models.metrics import Figure, balanced_accuracy, binary_auroc, bootstrap, macro_auroc
from training.cohorts import Cohort
from training.errors import CohortError
from training.evaluation.answers import Answers

MELANOMA = "MEL"
Statistic: TypeAlias = Callable[[NDArray[np.intp]], float]
"""Numbers of the images of a sample -> figure."""

SHORT_NAMES = {
    "macro one-versus-rest AUROC": "macro_auroc",
    "melanoma AUROC": "melanoma_auroc",
    "malignant AUROC": "malignant_auroc",
    "balanced accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
    "expected calibration error (15 equal-width bins)": "ece",
    "Brier score": "brier",
    "sensitivity for malignant at the operating point": "sensitivity",
    "specificity for malignant at the operating point": "specificity",
    "coverage of the label sets": "set_coverage",
    "coverage of the label sets, malignant": "set_coverage_malignant",
    "coverage of the label sets, benign": "set_coverage_benign",
    "labels in a set": "set_size",
    "share referred for their label set": "set_referred",
    "Jaccard of the lesion": "jaccard",
    "Dice": "dice",
    "share called out of distribution": "ood_share",
}
"""Metric -> key in the summary of the JSON file."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A cohort's labels beside the model's calibrated answers."""

    names: tuple[str, ...]
    """The C labels, in the order of the probabilities."""
    labels: NDArray[np.int64]
    """(B,) label numbers."""
    probabilities: NDArray[np.float64]
    """(B, C)"""
    is_malignant: NDArray[np.bool_]
    """(B,)"""
    malignancy: NDArray[np.float64]
    """(B,) summed probability of the malignant labels."""
    is_called: NDArray[np.bool_]
    """(B,) malignancy at or above the operating point."""


def judge(answers: Answers, cohort: Cohort, manifest: DiagnosisManifest) -> Judged:
    """Put labels and answers side by side.

    Raises
    ------
    CohortError
        If a row's label is not one of the model's.
    """
    names = tuple(manifest.labels)
    unknown = {row.label for row in cohort.rows} - set(names)
    if unknown:
        raise CohortError(f"the model has no label {sorted(unknown)}; map or leave them out")
    labels = np.array([names.index(row.label) for row in cohort.rows], np.int64)
    probabilities = calibrate(answers.logits, manifest.temperature)
    columns = [names.index(label) for label in manifest.malignant_labels]
    malignancy = probabilities[:, columns].sum(axis=1)
    return Judged(
        names=names,
        labels=labels,
        probabilities=probabilities,
        is_malignant=np.isin(labels, columns),
        malignancy=malignancy,
        is_called=malignancy >= manifest.operating_point,
    )


def measure(
    answers: Answers, cohort: Cohort, manifest: DiagnosisManifest, *, data: str, command: str
) -> tuple[HeldOutFigure, ...]:
    """All figures that the cohort allows.

    Parameters
    ----------
    data
        Name of the cohort, copied into each figure.
    command
        Command that repeats the figures, copied into each.

    Returns
    -------
    tuple of HeldOutFigure
        Classification figures when the rows have labels, outline figures where masks exist.

    Raises
    ------
    CohortError
        If a row's label is not one of the model's.
    """
    groups = group_names(cohort)
    figures = []
    if any(row.label for row in cohort.rows):
        judged = judge(answers, cohort, manifest)
        of_sets = set_statistics(judged, manifest)
        for metric, statistic in (*label_statistics(judged), *of_sets):
            figures.append((metric, groups, bootstrap(statistic, groups)))
    known = np.isfinite(answers.jaccard)
    for metric, values in (("Jaccard of the lesion", answers.jaccard), ("Dice", answers.dice)):
        if known.any():
            figures.append(
                (metric, groups[known], bootstrap(mean_of(values[known]), groups[known]))
            )
    is_ood = (answers.ood_score > manifest.ood_threshold).astype(np.float64)
    figures.append(("share called out of distribution", groups, bootstrap(mean_of(is_ood), groups)))
    return tuple(_held_out(*figure, data=data, command=command) for figure in figures)


def group_names(cohort: Cohort) -> NDArray[np.str_]:
    """(B,) group of each image."""
    return np.array([row.group_id for row in cohort.rows])


def mean_of(values: NDArray[np.float64]) -> Statistic:
    """Mean of a sample as a statistic."""
    return lambda sample: float(values[sample].mean()) if len(sample) else float("nan")


def _held_out(
    metric: str, groups: NDArray[np.str_], figure: Figure, *, data: str, command: str
) -> HeldOutFigure:
    is_known = bool(np.isfinite(figure.low))
    return HeldOutFigure(
        metric=metric,
        data=data,
        value=round(figure.value, 4),
        low=round(figure.low, 4) if is_known else None,
        high=round(figure.high, 4) if is_known else None,
        n=figure.n,
        groups=len(np.unique(groups)),
        command=command,
    )


def label_statistics(judged: Judged) -> list[tuple[str, Statistic]]:
    """Name and statistic of each classification figure that the labels allow."""
    everything = np.arange(len(judged.labels))
    return [(name, of) for name, of in all_statistics(judged) if np.isfinite(of(everything))]


def all_statistics(judged: Judged) -> list[tuple[str, Statistic]]:
    """Name and statistic of each classification figure, defined for these labels or not."""
    labels, probabilities = judged.labels, judged.probabilities

    def of_melanoma(sample: NDArray[np.intp]) -> float:
        column = judged.names.index(MELANOMA)
        return binary_auroc(labels[sample] == column, probabilities[sample, column])

    def recall(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
        return float(called[truth].mean()) if truth.any() else float("nan")

    statistics: list[tuple[str, Statistic]] = [
        (
            "macro one-versus-rest AUROC",
            lambda sample: macro_auroc(labels[sample], probabilities[sample]),
        ),
        (
            "malignant AUROC",
            lambda sample: binary_auroc(judged.is_malignant[sample], judged.malignancy[sample]),
        ),
        (
            "balanced accuracy",
            lambda sample: balanced_accuracy(labels[sample], probabilities[sample]),
        ),
        (
            "accuracy",
            lambda sample: float((probabilities[sample].argmax(1) == labels[sample]).mean()),
        ),
        (
            "expected calibration error (15 equal-width bins)",
            lambda sample: expected_calibration_error(probabilities[sample], labels[sample]),
        ),
        ("Brier score", lambda sample: brier_score(probabilities[sample], labels[sample])),
        (
            "sensitivity for malignant at the operating point",
            lambda sample: recall(judged.is_malignant[sample], judged.is_called[sample]),
        ),
        (
            "specificity for malignant at the operating point",
            lambda sample: recall(~judged.is_malignant[sample], ~judged.is_called[sample]),
        ),
    ]
    if MELANOMA in judged.names:
        statistics.insert(1, ("melanoma AUROC", of_melanoma))
    return statistics


def set_statistics(judged: Judged, manifest: DiagnosisManifest) -> list[tuple[str, Statistic]]:
    """Name and statistic of each figure of the label sets, as far as these labels define it.

    Empty where the model has no sets.
    """
    spec = manifest.conformal
    if spec is None:
        return []
    names, labels = judged.names, judged.labels
    thresholds = np.array([spec.thresholds[name] for name in names])
    sets = [label_set(row, thresholds, spec.method) for row in judged.probabilities]
    size = np.array([len(found) for found in sets], float)
    holds = np.array([label in found for label, found in zip(labels, sets, strict=True)], float)

    def coverage(kept: NDArray[np.bool_]) -> Statistic:
        return lambda sample: (
            float(holds[sample][kept[sample]].mean()) if kept[sample].any() else float("nan")
        )

    referred = ((size == 0) | (size > spec.largest_set)).astype(float)
    everything = np.arange(len(labels))
    statistics: list[tuple[str, Statistic]] = [
        ("coverage of the label sets", mean_of(holds)),
        ("coverage of the label sets, malignant", coverage(judged.is_malignant)),
        ("coverage of the label sets, benign", coverage(~judged.is_malignant)),
        ("labels in a set", mean_of(size)),
        ("share referred for their label set", mean_of(referred)),
    ]
    return [(name, of) for name, of in statistics if np.isfinite(of(everything))]
