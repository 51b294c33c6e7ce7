"""Losses of the recipes, and how labels are drawn so that rare ones are learnt."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def sampling_weights(labels: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Probability of drawing each image when a label weighs count ** -balance."""
    counts = np.bincount(labels)
    weights = counts[labels].astype(np.float64) ** -balance
    return np.asarray(weights / weights.sum())


def prior_shift(labels: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> Tensor:
    """Log ratio of the sampled to the natural label frequency, (C,).

    Added to the logits in the loss, it lets the logits themselves keep the natural frequencies
    although rare labels are drawn more often (Menon et al., ICLR 2021, section 4).
    """
    natural = np.bincount(labels, minlength=count) / len(labels)
    sampled = np.bincount(labels, weights=weights, minlength=count)
    return torch.from_numpy(np.log(sampled / natural)).float()


def diagnosis_loss(logits: Tensor, targets: Tensor, *, shift: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with smoothed soft targets under the sampled label frequencies."""
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    return -(targets * (logits + shift).log_softmax(dim=1)).sum(dim=1).mean()


def lesion_loss(logit: Tensor, masks: Tensor, has_mask: Tensor) -> Tensor:
    """Cross-entropy plus soft Jaccard over the images that have a mask.

    Images without a mask weigh nothing; a batch without any gives zero.
    """
    entropy = functional.binary_cross_entropy_with_logits(logit, masks, reduction="none")
    prob = logit.sigmoid()
    common = (prob * masks).sum((1, 2, 3))
    union = (prob + masks - prob * masks).sum((1, 2, 3))
    each = entropy.mean((1, 2, 3)) + 1 - (common + 1) / (union + 1)
    return (each * has_mask).sum() / has_mask.sum().clamp_min(1)
