"""What a decision made by a model is worth: net benefit, and shares with their intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri


def net_benefit(
    is_positive: NDArray[np.bool_],
    probability: NDArray[np.floating],
    thresholds: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Net benefit of acting wherever the probability reaches the threshold.

    Parameters
    ----------
    is_positive
        (B,) bool, B at least 1.
    probability
        (B,) calibrated, in [0, 1].
    thresholds
        (T,) threshold probabilities in (0, 1): the odds say how many needless actions one
        needful action is worth.

    Returns
    -------
    ndarray
        (T,) true positives an image, minus false positives weighted by the odds.

    Raises
    ------
    ValueError
        If the arrays do not fit or a threshold lies outside (0, 1).

    References
    ----------
    Vickers and Elkin, Medical Decision Making 26, 2006: TP/n - FP/n * pt / (1 - pt).
    """
    at = np.asarray(thresholds, np.float64)
    if is_positive.ndim != 1 or probability.shape != is_positive.shape or not len(is_positive):
        raise ValueError(f"truth {is_positive.shape} and probability {probability.shape}")
    if not ((at > 0) & (at < 1)).all():
        raise ValueError("threshold probabilities must lie within (0, 1)")
    positive, negative = np.sort(probability[is_positive]), np.sort(probability[~is_positive])
    caught = len(positive) - np.searchsorted(positive, at, "left")
    needless = len(negative) - np.searchsorted(negative, at, "left")
    return np.asarray((caught - needless * at / (1 - at)) / len(is_positive))


def wilson_interval(
    successes: NDArray[np.generic] | float, trials: NDArray[np.generic] | float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of a share of independent trials.

    Parameters
    ----------
    successes, trials
        Counts, trials at least 1.

    References
    ----------
    Wilson, JASA 22, 1927; recommended for small counts by Brown et al., Statistical Science 16,
    2001.
    """
    hits, n = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    if not ((n > 0) & (hits >= 0) & (hits <= n)).all():
        raise ValueError("successes must lie between 0 and trials, trials above 0")
    z = ndtri(0.975)
    share, weight = hits / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / weight
    half = z / weight * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)
