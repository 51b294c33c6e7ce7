"""Sets of labels with a promised coverage, and what is gained by referring unsure images.

Split conformal prediction: scores on images the model was not trained on give one threshold; a
set then holds the true label with at least the promised probability, on average over images drawn
as those were. On another hospital's images the promise does not hold; its coverage is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["lac", "aps"]
"""``lac``: least ambiguous sets (Sadinle et al. 2019); ``aps``: adaptive sets (Romano et al.
2020)."""


@dataclass(frozen=True, kw_only=True)
class ConformalSpec:
    """How a model's sets of labels are made, and what they promise; part of a manifest."""

    method: Method
    """What makes a label strange."""
    coverage: float
    """Promised share of sets that hold the true label, in (0, 1)."""
    thresholds: dict[str, float]
    """Label -> strangeness in [0, 1] up to which it is in the set."""
    largest_set: int
    """A set of more labels says too little, and the lesion is referred."""
    calibration: str
    """What the threshold was fitted on."""

    def __post_init__(self) -> None:
        """Refuse what no set can be made with."""
        if (
            not 0 < self.coverage < 1
            or not self.thresholds
            or not all(0 <= value <= 1 for value in self.thresholds.values())
            or self.largest_set < 1
            or not self.calibration.strip()
        ):
            raise ValueError("impossible coverage, thresholds, largest_set or calibration")


def _label_scores(probabilities: NDArray[np.floating], method: str) -> NDArray[np.float64]:
    """(B, C) strangeness of each label, small for labels that fit."""
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2:
        raise ValueError(f"probabilities {values.shape} must be (B, C)")
    if method == "lac":
        return 1 - values
    if method == "aps":
        order = np.argsort(-values, axis=1, kind="stable")
        summed = np.cumsum(np.take_along_axis(values, order, axis=1), axis=1)
        scores = np.empty_like(summed)
        np.put_along_axis(scores, order, summed, axis=1)
        return scores
    raise ValueError(f"no conformal method {method!r}; there are lac and aps")


def conformal_scores(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], method: str
) -> NDArray[np.float64]:
    """Strangeness of the true labels.

    Parameters
    ----------
    probabilities
        (B, C), rows summing to 1.
    labels
        (B,) label numbers.
    method
        ``lac``: one minus the probability (smallest sets on average). ``aps``: summed probability
        of the labels from the most probable down to the true one (sets grow where the model is
        unsure).

    References
    ----------
    Sadinle et al., JASA 114, 2019 (LAC); Romano et al., NeurIPS 2020 (APS), without their
    randomisation, so that the same image always gets the same set, at the price of larger ones.
    """
    return _label_scores(probabilities, method)[np.arange(len(labels)), labels]


def conformal_threshold(scores: NDArray[np.floating], coverage: float) -> float:
    """Score up to which labels enter the set.

    Parameters
    ----------
    scores
        (B,) of the true labels of calibration images.
    coverage
        Promised share of sets that hold the true label, in (0, 1).

    Returns
    -------
    float
        The ceil((B + 1) coverage)-th smallest score; infinite when B is too small to promise it.

    References
    ----------
    Vovk et al., Algorithmic Learning in a Random World, 2005; Angelopoulos and Bates,
    arXiv:2107.07511, section 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage {coverage} must lie within (0, 1)")
    # Rounded first: 0.9 * 10 must not count as more than 9.
    rank = int(np.ceil(round((len(scores) + 1) * coverage, 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def conformal_sets(
    probabilities: NDArray[np.floating], threshold: float, method: str
) -> NDArray[np.bool_]:
    """Labels of each image's set; the most probable label is always in it.

    Parameters
    ----------
    probabilities
        (B, C).
    threshold
        Of ``conformal_threshold`` with the same method.

    Returns
    -------
    ndarray
        (B, C) bool.
    """
    is_in = _label_scores(probabilities, method) <= threshold
    is_in[np.arange(len(is_in)), np.argmax(probabilities, axis=1)] = True
    return is_in


def fit_by_group(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups_of_labels: Sequence[Sequence[int]],
    *,
    coverage: float,
    method: Method,
) -> NDArray[np.float64]:
    """Thresholds with the promised coverage within each group of labels.

    One threshold for all labels promises its coverage for all images taken together, which a
    majority of easy benign ones can carry alone; a threshold for each group promises it for the
    malignant images too.

    Parameters
    ----------
    probabilities
        (B, C) of calibration images.
    labels
        (B,) label numbers.
    groups_of_labels
        Label numbers of each group; together every label once.

    Returns
    -------
    ndarray
        (C,), at most 1: the scores of both methods are.

    References
    ----------
    Vovk, Machine Learning 92, 2013, section 3 (label-conditional validity).
    """
    scores = conformal_scores(probabilities, labels, method)
    thresholds = np.empty(np.shape(probabilities)[1])
    for group in groups_of_labels:
        own = scores[np.isin(labels, group)]
        thresholds[list(group)] = min(conformal_threshold(own, coverage), 1.0)
    return thresholds


def label_set(
    probabilities: NDArray[np.floating], thresholds: NDArray[np.floating], method: Method
) -> tuple[int, ...]:
    """Label numbers of one image's set, most probable first; empty when none fits.

    Unlike in ``conformal_sets`` the most probable label is not forced in: an empty set says that
    no label is as probable as true ones are.

    Parameters
    ----------
    probabilities
        (C,) summing to 1.
    thresholds
        (C,) strangeness up to which each label is in the set.

    Examples
    --------
    >>> label_set(np.array([0.1, 0.35, 0.55]), np.array([0.7, 0.7, 0.5]), "lac")
    (2, 1)
    """
    scores = _label_scores(np.asarray(probabilities)[None], method)[0]
    order = np.argsort(-np.asarray(probabilities), kind="stable")
    return tuple(int(label) for label in order if scores[label] <= thresholds[label])


def referral_curve(
    confidence: NDArray[np.floating], is_wrong: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Error among the images that are kept when the least sure ones are referred.

    Parameters
    ----------
    confidence
        (B,) larger for surer.
    is_wrong
        (B,) bool.

    Returns
    -------
    tuple of ndarray
        (B,) share kept, from 1/B to 1, and the share of wrong answers among them; images of
        equal confidence count with their mean error.

    References
    ----------
    El-Yaniv and Wiener, JMLR 11, 2010 (risk-coverage curve).
    """
    if confidence.ndim != 1 or confidence.shape != is_wrong.shape or not len(confidence):
        raise ValueError(f"confidence {confidence.shape} and errors {is_wrong.shape}")
    order = np.argsort(-confidence, kind="stable")
    _, block, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    mean = np.bincount(block, is_wrong[order].astype(float)) / size
    kept = np.arange(1, len(order) + 1)
    return kept / len(order), np.cumsum(mean[block]) / kept
