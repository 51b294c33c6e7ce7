"""Siamese head: two embeddings of one lesion in, the likelihood of change and a distance out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SiameseShape:
    """The numbers that tell one head from another."""

    embedding_dim: int = 1280
    """Features D of an embedding."""
    hidden: int = 256
    """Width of the fully connected layer."""
    projection: int = 64
    """Features of the contrastive embedding."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if min(self.embedding_dim, self.hidden, self.projection) < 1:
            raise ValueError("every number of a head's shape must be positive")


class SiameseHead(nn.Module):
    """Two fully connected layers on both embeddings and their difference.

    Parameters
    ----------
    shape
        Sizes.
    dropout
        Share of the hidden features dropped in training.

    References
    ----------
    PanDerm, Nature Medicine 2025, methods, "Short-term change detection" (one encoder, features
    concatenated, two layers); Hadsell, Chopra and LeCun, Dimensionality reduction by learning an
    invariant mapping, CVPR 2006 (the distance). The absolute difference beside the two features
    is ours: on a frozen encoder two layers would have to learn to subtract.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: SiameseShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.embedding_dim))
        self.register_buffer("scale", torch.ones(shape.embedding_dim))
        self.first = nn.Linear(3 * shape.embedding_dim, shape.hidden)
        self.second = nn.Linear(shape.hidden, 1)
        self.project = nn.Linear(shape.embedding_dim, shape.projection, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Compare pairs.

        Parameters
        ----------
        before, after
            (B, D) embeddings.

        Returns
        -------
        tuple of Tensor
            Logit of change (B,) and Euclidean distance (B,) between the contrastive embeddings.
        """
        one, two = ((x - self.mean) * self.scale for x in (before, after))
        features = self.dropout(torch.cat([one, two, (one - two).abs()], dim=1))
        hidden = self.dropout(torch.relu(self.first(features)))
        logit: Tensor = self.second(hidden).squeeze(1)
        gap: Tensor = self.project(one - two)
        # The root has no slope at zero; the constant keeps it finite for equal images.
        distance = (gap.square().sum(dim=1) + 1e-12).sqrt()
        return logit, distance


def contrastive_loss(distance: Tensor, is_changed: Tensor, margin: float) -> Tensor:
    """Pull unchanged pairs together, push changed ones a margin apart.

    Parameters
    ----------
    distance
        (B,) not negative.
    is_changed
        (B,) 1 for changed pairs, 0 for unchanged.
    margin
        Distance beyond which a changed pair costs nothing.

    Returns
    -------
    Tensor
        Scalar, mean over the batch of d²/2 for unchanged and max(0, margin - d)²/2 for changed.

    References
    ----------
    Hadsell, Chopra and LeCun, CVPR 2006, eq. 4.
    """
    apart = (margin - distance).clamp_min(0).square() / 2
    return torch.mean((1 - is_changed) * distance.square() / 2 + is_changed * apart)
