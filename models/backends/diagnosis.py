"""The diagnosis model inside Triton."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.diagnosis import DiagnosisManifest
from models.serving import ImageBackend
from models.weights import load_served_diagnosis


class DiagnosisBackend(ImageBackend):
    """Label logits, embedding, distance to the training data and lesion map of images."""

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the network; an exception keeps the model unavailable."""
        parsed = DiagnosisManifest.from_json(manifest)
        self.image_size = parsed.input.size
        network = load_served_diagnosis(weights, parsed).to(self.device)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer a batch of (B, S, S, 3) uint8 images."""
        with self.autocast():
            output = self._network(inputs["IMAGE"])
        return {
            "LOGITS": output.logits,
            "EMBEDDING": output.embedding,
            "OOD_SCORE": output.ood_score,
            "LESION_PROB": output.lesion_prob,
        }
