"""Watching whether the features, while they are learnt, still tell images apart.

A teacher-free run has no guard that proves the features cannot collapse to one vector, so the
spread is measured after each epoch on images that stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.encoder import Encoder
from training.augment import normalise

COLLAPSED_STD = 0.1
"""``feature_std`` below which a run is called collapsed; random vectors have 1."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far features of different images differ."""

    std: float
    """Deviation of a channel of the unit-length features over the images, averaged, times the
    square root of the width: 0 when all are one vector, near 1 when they point anywhere."""
    rank: float
    """Effective number of dimensions, from 1 to the width: the exponential of the entropy of the
    shares of the singular values (Roy and Vetterli, EUSIPCO 2007), mean taken away."""


@torch.no_grad()
def embed(
    encoder: Encoder, views: NDArray[np.uint8], device: torch.device, *, batch_size: int = 64
) -> NDArray[np.float32]:
    """Class tokens of images.

    Parameters
    ----------
    encoder
        Its mode, training or evaluation, is restored.
    views
        (B, S, S, 3) uint8.

    Returns
    -------
    ndarray
        (B, D) float32.
    """
    was_training = encoder.training
    encoder.eval()
    parts = []
    for start in range(0, len(views), batch_size):
        batch = torch.from_numpy(views[start : start + batch_size]).to(device)
        parts.append(encoder(normalise(batch.permute(0, 3, 1, 2).float() / 255)).cls.float().cpu())
    encoder.train(was_training)
    return torch.cat(parts).numpy() if parts else np.empty((0, encoder.shape.dim), np.float32)


def measure_spread(features: NDArray[np.float32]) -> Spread:
    """Measure the spread of (B, D) features; nan for fewer than two images."""
    if len(features) < 2:
        return Spread(std=float("nan"), rank=float("nan"))
    unit = unit_length(features)
    std = float(unit.std(axis=0).mean() * np.sqrt(unit.shape[1]))
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    total = singular.sum()
    # Features that are all one vector have no direction at all; they count as one dimension.
    shares = singular[singular > 0] / total if total > 1e-9 else np.ones(1)
    return Spread(std=std, rank=float(np.exp(-(shares * np.log(shares)).sum())))


def unit_length(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features (B, D) divided by their lengths; zero stays zero."""
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths == 0, 1, lengths)


def nearest(features: NDArray[np.float32], queries: int, neighbours: int) -> NDArray[np.int64]:
    """Nearest other images of the first ``queries`` images by cosine.

    Parameters
    ----------
    features
        (B, D), less their mean before the angle is taken: what all images share says nothing.

    Returns
    -------
    ndarray
        (min(queries, B), min(neighbours, B - 1)) row numbers, nearest first.
    """
    if not len(features):
        return np.empty((0, 0), np.int64)
    unit = unit_length(features - features.mean(axis=0, keepdims=True))
    first = unit[:queries]
    similarity = first @ unit.T
    similarity[np.arange(len(first)), np.arange(len(first))] = -np.inf
    count = max(0, min(neighbours, len(features) - 1))
    order: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order
