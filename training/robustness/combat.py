"""ComBat: removing a centre's location and scale from embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.errors import CohortError

TOLERANCE, MAX_ROUNDS = 1e-4, 500
MIN_PER_CENTRE = 3
_MIN_VARIANCE = 1e-12


def combat(
    embeddings: NDArray[np.floating],
    *,
    labels: NDArray[np.int64],
    centres: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Adjust embeddings for their centre, the label kept as a covariate.

    Parameters
    ----------
    embeddings
        (B, D).
    labels
        (B,) class, protected from the adjustment.
    centres
        (B,) centre.

    Returns
    -------
    ndarray
        (B, D), not of unit length.

    Raises
    ------
    CohortError
        If a centre has one class only (its effect and the class cannot then be told apart) or
        fewer than ``MIN_PER_CENTRE`` samples, or there is only one centre.

    Notes
    -----
    The labels of **all** samples enter, so a measure taken afterwards on the same samples is
    flattered: it shows what could be removed, not what a new slide would gain.

    References
    ----------
    Johnson, Li and Rabinovic, Adjusting batch effects in microarray expression data using
    empirical Bayes methods, Biostatistics 8, 2007, sections 3.1 and 3.2 (parametric priors).
    """
    values = np.asarray(embeddings, np.float64)
    names = _check(labels, centres)
    batches = (centres[:, np.newaxis] == names).astype(np.float64)
    classes = (labels[:, np.newaxis] == np.unique(labels)[1:]).astype(np.float64)
    design = np.hstack([batches, classes])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    sizes = batches.sum(axis=0)
    grand = (sizes / len(values)) @ coefficients[: len(names)]
    residual = values - design @ coefficients
    pooled = np.maximum((residual**2).mean(axis=0), _MIN_VARIANCE)
    stand = grand + classes @ coefficients[len(names) :]
    scaled = (values - stand) / np.sqrt(pooled)
    adjusted = np.empty_like(scaled)
    for column in range(len(names)):
        own = batches[:, column] > 0
        shift, spread = _shrink(scaled[own])
        adjusted[own] = (scaled[own] - shift) / np.sqrt(spread)
    return np.asarray(adjusted * np.sqrt(pooled) + stand)


def _check(labels: NDArray[np.int64], centres: NDArray[np.int64]) -> NDArray[np.int64]:
    names = np.unique(centres)
    if len(names) < 2:
        raise CohortError("ComBat needs at least two centres")
    for name in names:
        own = labels[centres == name]
        if len(np.unique(own)) < 2:
            raise CohortError(
                f"ComBat refuses centre {name}: it has one class only, and its effect cannot be "
                "told from that of the class"
            )
        if len(own) < MIN_PER_CENTRE:
            raise CohortError(f"ComBat needs {MIN_PER_CENTRE} samples of centre {name}")
    return names


def _shrink(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Location and squared scale of one centre, drawn towards their mean over the dimensions."""
    count = len(values)
    shift, spread = values.mean(axis=0), np.maximum(values.var(axis=0, ddof=1), _MIN_VARIANCE)
    centre, width = shift.mean(), max(shift.var(ddof=1), _MIN_VARIANCE) if shift.size > 1 else 1.0
    mean, variance = spread.mean(), spread.var(ddof=1) if spread.size > 1 else 0.0
    variance = max(variance, _MIN_VARIANCE)
    # Moments of the inverse gamma prior of the squared scales.
    alpha, beta = 2 + mean**2 / variance, (mean**3 + mean * variance) / variance
    new_shift, new_spread = shift, spread
    for _ in range(MAX_ROUNDS):
        old_shift, old_spread = new_shift, new_spread
        new_shift = (count * width * shift + old_spread * centre) / (count * width + old_spread)
        squares = ((values - new_shift) ** 2).sum(axis=0)
        new_spread = (beta + squares / 2) / (count / 2 + alpha - 1)
        change = max(
            np.abs(new_shift - old_shift).max() / max(np.abs(old_shift).max(), _MIN_VARIANCE),
            (np.abs(new_spread - old_spread) / old_spread).max(),
        )
        if change < TOLERANCE:
            break
    return np.asarray(new_shift), np.asarray(new_spread)
