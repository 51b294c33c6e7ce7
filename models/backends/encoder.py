"""The encoder inside Triton."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from models.serving import ImageBackend


class EncoderBackend(ImageBackend):
    """Embeddings of images."""

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the network; an exception keeps the model unavailable."""
        parsed = EncoderManifest.from_json(manifest)
        self.image_size = parsed.input.size
        served = load_served_encoder(weights, parsed).to(self.device)
        self._encoder = served.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer a batch of (B, S, S, 3) uint8 images."""
        with self.autocast():
            return {"EMBEDDING": self._encoder(inputs["IMAGE"])}
