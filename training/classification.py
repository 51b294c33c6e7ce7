"""Figures and report of a classifier of whole images on its held-out images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from models.calibration import brier_score, expected_calibration_error
from models.metrics import Figure, balanced_accuracy, binary_auroc, bootstrap, macro_auroc
from models.preprocessing import prepare_image
from training.cohorts import read_image
from training.labelled import LabelledSplits, Part
from training.plots import confusion, pr_curves, reliability, roc_curves
from training.report import Page

EXAMPLES = 6
"""Images shown of each kind, right and wrong."""


def pairwise_auroc(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Macro one-versus-one area under the ROC curve over the labels that occur.

    Parameters
    ----------
    labels
        (B,) label numbers.
    probabilities
        (B, C) scores.

    Returns
    -------
    float
        In [0, 1]; nan when fewer than two labels occur.

    References
    ----------
    Hand and Till, Machine Learning 45, 2001, eq. 7: both directions of each pair of labels,
    each by its own column.
    """
    areas = []
    for first, second in itertools.combinations(np.unique(labels), 2):
        is_pair = (labels == first) | (labels == second)
        is_first, scores = labels[is_pair] == first, probabilities[is_pair]
        areas += [
            binary_auroc(is_first, scores[:, first]),
            binary_auroc(~is_first, scores[:, second]),
        ]
    return float(np.mean(areas)) if areas else float("nan")


def auroc(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """One-versus-rest area; of two labels the area of the second."""
    if probabilities.shape[1] == 2:
        return binary_auroc(labels == 1, probabilities[:, 1])
    return macro_auroc(labels, probabilities)


def measure_classifier(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    groups: NDArray[np.str_],
    *,
    replicates: int = 1000,
) -> dict[str, Figure]:
    """Every figure with its 95 % interval over whole groups.

    Parameters
    ----------
    labels
        (B,) label numbers.
    probabilities
        (B, C), rows summing to 1.
    groups
        (B,) lesion or patient.
    replicates
        Samples of the bootstrap.
    """
    statistics: dict[str, Callable[..., float]] = {"AUROC, one versus rest": auroc}
    if probabilities.shape[1] > 2:
        statistics["AUROC, one versus one"] = pairwise_auroc
    statistics |= {
        "balanced accuracy": balanced_accuracy,
        "accuracy": lambda y, p: float((p.argmax(1) == y).mean()),
        "expected calibration error": lambda y, p: expected_calibration_error(p, y),
        "Brier score": lambda y, p: brier_score(p, y),
    }
    return {
        name: bootstrap(
            lambda sample, of=of: of(labels[sample], probabilities[sample]),  # type: ignore[misc]
            groups,
            replicates=replicates,
        )
        for name, of in statistics.items()
    }


def plain_figures(figures: dict[str, Figure]) -> dict[str, dict[str, float | None]]:
    """Figures as plain values for JSON; what is undefined is None."""
    return {
        name: {k: float(v) if np.isfinite(v) else None for k, v in asdict(figure).items()}
        for name, figure in figures.items()
    }


def describe_splits(page: Page, splits: LabelledSplits) -> None:
    """Add the table of counts."""
    page.table("Images by label and split (no group is in two splits)", splits.counts())


def describe_classifier(
    page: Page, part: Part, probabilities: NDArray[np.floating], names: Sequence[str]
) -> None:
    """Add the plots of a classifier and examples of right and wrong answers."""
    labels = part.labels
    page.figure("ROC curves, test split", roc_curves(labels, probabilities, names))
    page.figure("Precision and recall, test split", pr_curves(labels, probabilities, names))
    page.figure(
        "Reliability, test split",
        reliability(probabilities, labels),
        "Points on the diagonal: a confidence of 0.8 is right eight times out of ten.",
    )
    page.figure("Confusion matrix, test split", confusion(labels, probabilities, names))
    found = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    for title, chosen in (
        ("Wrong with the greatest confidence", np.flatnonzero(found != labels)),
        ("Right with the least confidence", np.flatnonzero(found == labels)),
    ):
        sign = -1 if title.startswith("Wrong") else 1
        order = chosen[np.argsort(sign * confidence[chosen], kind="stable")][:EXAMPLES]
        files = part.files()
        page.images(
            title,
            [
                (
                    prepare_image(read_image(files[i][1])),
                    f"{names[labels[i]]}, answered {names[found[i]]} ({confidence[i]:.2f})",
                )
                for i in order
            ],
        )
