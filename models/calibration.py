"""Calibration: making a probability of 0.8 mean eight times out of ten."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

TEMPERATURE_RANGE = (0.05, 20.0)  # outside it the logits are meaningless, not miscalibrated


def calibrate(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities from logits.

    Parameters
    ----------
    logits
        (..., C) as the network gives them.
    temperature
        Positive; above 1 makes the model less sure. The order of the labels never changes.

    Returns
    -------
    ndarray
        (..., C) float64, summing to 1.

    Raises
    ------
    ValueError
        If the temperature is not positive.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 9.

    Examples
    --------
    >>> calibrate(np.array([0.0, 0.0]), 2.0).tolist()
    [0.5, 0.5]
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive")
    return np.asarray(softmax(np.asarray(logits, np.float64) / temperature, axis=-1))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Temperature with the least cross-entropy on images the network was not trained on.

    Parameters
    ----------
    logits
        (B, C).
    labels
        (B,) label numbers, 0-based.

    Returns
    -------
    float
        Within ``TEMPERATURE_RANGE``.

    Notes
    -----
    One parameter, found by L-BFGS-B on its logarithm.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} logits do not fit {len(labels)} labels")
    rows = np.arange(len(labels))
    scores = np.asarray(logits, np.float64)

    def cross_entropy(log_temperature: NDArray[np.float64]) -> float:
        scaled = log_softmax(scores / np.exp(log_temperature[0]), axis=1)
        return float(-scaled[rows, labels].mean())

    bounds = [tuple(np.log(TEMPERATURE_RANGE))]
    found = minimize(cross_entropy, np.zeros(1), method="L-BFGS-B", bounds=bounds)
    return float(np.exp(found.x[0]))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy of the most probable label.

    Parameters
    ----------
    probabilities
        (B, C), rows summing to 1.
    labels
        (B,) label numbers.
    bins
        Bins of equal **width** over the confidence in [0, 1], as in the reference.

    References
    ----------
    Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015;
    Guo et al., ICML 2017, eq. 3 (15 bins).
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    numbers = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(numbers, minlength=bins)
    gap = np.abs(
        np.bincount(numbers, confidence, bins) - np.bincount(numbers, is_right.astype(float), bins)
    )
    return float(gap.sum() / count.sum())


def brier_score(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean squared distance between probabilities and truth, summed over labels, in [0, 2].

    References
    ----------
    Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2.
    """
    truth = np.zeros(probabilities.shape)
    truth[np.arange(len(labels)), labels] = 1
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())
