"""Linear heads of TBP screening on a tile's embedding: risk, nevus and photodamage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEADS = {"risk": 1, "nevus": 1, "photodamage": 3}
"""Head -> outputs."""


class TbpHeads(nn.Module):
    """One linear layer a question; trained one by one, served together.

    Parameters
    ----------
    embedding_dim
        Features D of an embedding.

    References
    ----------
    PanDerm, Nature Medicine 2025, methods, "TBP screening" (encoder and one linear layer).
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.risk = nn.Linear(embedding_dim, HEADS["risk"])
        self.nevus = nn.Linear(embedding_dim, HEADS["nevus"])
        self.photodamage = nn.Linear(embedding_dim, HEADS["photodamage"])

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer the three questions.

        Parameters
        ----------
        embeddings
            (B, D).

        Returns
        -------
        tuple of Tensor
            Probability of a referral (B, 1), of a nevus (B, 1), and of each grade of photodamage
            (B, 3).
        """
        return (
            torch.sigmoid(self.risk(embeddings)),
            torch.sigmoid(self.nevus(embeddings)),
            torch.softmax(self.photodamage(embeddings), dim=1),
        )
