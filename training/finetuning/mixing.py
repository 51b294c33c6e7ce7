"""Mixup and CutMix of batches, and the loss of their soft labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def soften(labels: NDArray[np.int64], count: int, smoothing: float) -> Tensor:
    """Smoothed one-hot labels.

    Parameters
    ----------
    labels
        (B,) label numbers.
    count
        Labels C.
    smoothing
        Mass spread evenly over all labels, in [0, 1).

    Returns
    -------
    Tensor
        (B, C) float32, rows summing to 1.
    """
    one_hot = torch.from_numpy(np.eye(count, dtype=np.float32)[labels])
    return one_hot * (1 - smoothing) + smoothing / count


def draw_rectangle(
    rng: np.random.Generator, share: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """Draw a rectangle of 1 - ``share`` of the area, clipped at the border.

    Returns
    -------
    tuple
        Top, bottom, left, right in pixels.

    References
    ----------
    Yun et al., CutMix, ICCV 2019, eq. 2.
    """
    side = float(np.sqrt(1 - share))
    tall, wide = int(height * side), int(width * side)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = (int(np.clip(row + s * (tall // 2), 0, height)) for s in (-1, 1))
    left, right = (int(np.clip(column + s * (wide // 2), 0, width)) for s in (-1, 1))
    return top, bottom, left, right


def mix(
    images: Tensor,
    targets: Tensor,
    rng: np.random.Generator,
    *,
    mixup: float,
    cutmix: float,
    switch: float,
) -> tuple[Tensor, Tensor]:
    """Mix a batch with its reverse.

    Parameters
    ----------
    images, targets
        (B, 3, H, W) and (B, C) label probabilities.
    rng
        Decides kind, share and place.
    mixup, cutmix
        Both parameters of the Beta distribution of each share; 0 switches that kind off.
    switch
        Probability of CutMix where both are on.

    Returns
    -------
    tuple of Tensor
        Mixed images and targets; the batch itself where both are off.

    References
    ----------
    Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, targets
    is_cut = cutmix > 0 and (mixup <= 0 or rng.random() < switch)
    alpha = cutmix if is_cut else mixup
    share = float(rng.beta(alpha, alpha))
    other = images.flip(0)
    if is_cut:
        height, width = images.shape[2:]
        top, bottom, left, right = draw_rectangle(rng, share, height, width)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # after clipping
    else:
        mixed = share * images + (1 - share) * other
    return mixed, share * targets + (1 - share) * targets.flip(0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, C) with label probabilities (B, C)."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
