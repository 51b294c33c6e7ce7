"""Linear heads on embeddings: penalised logistic regression, to the optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.errors import CohortError, RunError

MAX_STEPS = 300
TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """Logits are ``embedding @ weight.T + bias``."""

    weight: NDArray[np.float32]
    """(C, D)"""
    bias: NDArray[np.float32]
    """(C,)"""
    losses: tuple[float, ...]
    """Penalised loss after each step."""

    def logits(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logits (N, C)."""
        product = embeddings.astype(np.float64) @ self.weight.astype(np.float64).T
        return np.asarray(product + self.bias)


def class_weights(labels: NDArray[np.int64], classes: int, balance: float) -> NDArray[np.float64]:
    """Weight of each lesion by its class's count to the power ``-balance``, of mean 1.

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 2, 1.0).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.maximum(counts, 1)[labels] ** -balance
    return np.asarray(weights / weights.mean())


def fit_linear_head(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    classes: int,
    penalty: float,
    balance: float,
) -> LinearHead:
    """Fit a head; the optimum is unique, so no seed is needed.

    Parameters
    ----------
    embeddings
        (N, D).
    labels
        (N,) numbers in [0, classes).
    classes
        2 gives one logit, of class 1; more give one each.
    penalty
        Weight of half the squared norm of the weights on standardised features, beside the mean
        cross-entropy.
    balance
        0 natural, 1 balanced class weights.

    Raises
    ------
    CohortError
        If a class has no example.
    RunError
        If the loss does not stay finite.

    Notes
    -----
    Features are standardised for the fit; the result applies to plain features.
    """
    if set(np.unique(labels).tolist()) != set(range(classes)):
        raise CohortError(f"a head of {classes} classes needs examples of each")
    mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    features = torch.from_numpy(((embeddings - mean) / scale).astype(np.float64))
    targets = torch.from_numpy(labels)
    weights = torch.from_numpy(class_weights(labels, classes, balance))
    outputs = 1 if classes == 2 else classes
    weight = torch.zeros((outputs, features.shape[1]), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    losses: list[float] = []

    def loss() -> torch.Tensor:
        logits = features @ weight.T + bias
        if outputs == 1:
            each = functional.binary_cross_entropy_with_logits(
                logits[:, 0], targets.double(), reduction="none"
            )
        else:
            each = functional.cross_entropy(logits, targets, reduction="none")
        return (weights * each).mean() + penalty / 2 * weight.square().sum()

    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value

    for _ in range(MAX_STEPS):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            losses.append(float(loss()))
        if not np.isfinite(losses[-1]):
            raise RunError("the loss of a linear head is not finite")
        if len(losses) > 1 and losses[-2] - losses[-1] < TOLERANCE:
            break
    plain = weight.detach().numpy() / scale
    return LinearHead(
        weight=plain.astype(np.float32),
        bias=(bias.detach().numpy() - plain @ mean).astype(np.float32),
        losses=tuple(losses),
    )
