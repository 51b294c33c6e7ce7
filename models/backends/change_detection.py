"""Change detection inside Triton: two embeddings of one lesion, compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.architectures.siamese import SiameseHead, SiameseShape
from models.change.pair import ChangeManifest
from models.serving import PythonBackend
from models.weights import fill, read_tensors


def load_siamese(weights: bytes, manifest: ChangeManifest) -> SiameseHead:
    """Rebuild the head of a manifest, strictly; in evaluation mode on the CPU.

    Raises
    ------
    ManifestError
        If the digest differs.
    WeightsError
        If the file cannot be read or does not fit.
    """
    head = SiameseHead(
        SiameseShape(
            embedding_dim=manifest.embedding_dim,
            hidden=manifest.hidden,
            projection=manifest.projection,
        )
    )
    fill(head, read_tensors(weights, manifest.digest))
    return head.eval()


class ChangeDetectionBackend(PythonBackend):
    """Logit of change and distance of pairs prepared by ``models.change.pair``."""

    INPUTS = ("EMBEDDING_BEFORE", "EMBEDDING_AFTER")

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the head; an exception keeps the model unavailable."""
        parsed = ChangeManifest.from_json(manifest)
        self._head = load_siamese(weights, parsed).to(self.device)

    def warm_up(self) -> None:
        """Answer one pair."""
        pair = torch.zeros(1, self._head.shape.embedding_dim)
        self._run(dict.fromkeys(self.INPUTS, pair))

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer pairs of (B, D) embeddings."""
        before, after = (inputs[name].float() for name in self.INPUTS)
        logit, distance = self._head(before, after)
        return {"CHANGE_LOGIT": logit[:, None], "DISTANCE": distance[:, None]}
