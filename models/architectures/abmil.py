"""Gated attention over the tiles of a slide (two-tier ABMIL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.slide.tiles import AbmilShape

INPUT_DROPOUT = 0.10
HIDDEN_DROPOUT = 0.25


@dataclass(frozen=True)
class AbmilOutput:
    """What the network says of bags; without the first axis when one bag came in."""

    logits: Tensor
    """(B, C) before any calibration."""
    attention_raw: Tensor
    """(B, N, S) scores before the softmax; minus infinity where the mask is False."""
    attention: Tensor
    """(B, N, S) softmax over the tiles; 0 where the mask is False."""


class GatedAbmil(nn.Module):
    """Slide classifier that weighs each tile.

    ``h = ReLU(W x + b)``, ``s = w . (tanh(V h) * sigmoid(U h))``, ``a = softmax(s)`` over the
    tiles, ``logits = classifier(sum a h)``. With ``is_branched`` each label has its own scores
    and its own row of the classifier.

    References
    ----------
    Ilse et al., Attention-based Deep Multiple Instance Learning, ICML 2018, eq. 8 and 9 (gated
    attention); Lu et al., Nature Biomedical Engineering 5, 2021 (first layer of 512, gate of 384,
    CLAM's size "big"; branches). Dropout: 0.10 on the embeddings, 0.25 after each hidden layer.
    """

    def __init__(
        self,
        shape: AbmilShape,
        *,
        input_dropout: float = INPUT_DROPOUT,
        hidden_dropout: float = HIDDEN_DROPOUT,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.reduce = nn.Sequential(
            nn.Dropout(input_dropout),
            nn.Linear(shape.features, shape.width),
            nn.ReLU(),
            nn.Dropout(hidden_dropout),
        )
        self.content = nn.Sequential(
            nn.Linear(shape.width, shape.attention), nn.Tanh(), nn.Dropout(hidden_dropout)
        )
        self.gate = nn.Sequential(
            nn.Linear(shape.width, shape.attention), nn.Sigmoid(), nn.Dropout(hidden_dropout)
        )
        self.score = nn.Linear(shape.attention, shape.scores)
        self.classifier = nn.Linear(shape.width, shape.labels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> AbmilOutput:
        """Classify bags of tiles.

        Parameters
        ----------
        features
            (B, N, E) or, for one bag, (N, E) float32; N at least 1.
        mask
            (B, N) bool, False where a bag was filled up; None when every tile is real.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a bag holds no tile.
        """
        if features.ndim == 2:
            out = self(features.unsqueeze(0), None if mask is None else mask.unsqueeze(0))
            return AbmilOutput(out.logits[0], out.attention_raw[0], out.attention[0])
        if features.ndim != 3 or features.shape[2] != self.shape.features:
            raise ValueError(f"features {tuple(features.shape)}, not (B, N, {self.shape.features})")
        if mask is not None and mask.shape != features.shape[:2]:
            raise ValueError(f"mask {tuple(mask.shape)} for features {tuple(features.shape)}")
        if features.shape[1] == 0 or (mask is not None and not mask.any(dim=1).all()):
            raise ValueError("a bag holds no tile")
        hidden = self.reduce(features)
        raw: Tensor = self.score(self.content(hidden) * self.gate(hidden))
        if mask is not None:
            raw = raw.masked_fill(~mask.unsqueeze(2), -torch.inf)
        attention = raw.softmax(dim=1)
        slides = attention.transpose(1, 2) @ hidden  # (B, S, width)
        if self.shape.is_branched:
            weight, bias = self.classifier.weight, self.classifier.bias
            logits = (slides * weight).sum(dim=2) + bias
        else:
            logits = self.classifier(slides.squeeze(1))
        return AbmilOutput(logits, raw, attention)
