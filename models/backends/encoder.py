"""The encoder inside Triton."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from models.serving import PythonBackend


class EncoderBackend(PythonBackend):
    """Embeddings of images."""

    INPUTS = ("IMAGE",)

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the network; an exception keeps the model unavailable."""
        parsed = EncoderManifest.from_json(manifest)
        self._size = parsed.input.size
        served = load_served_encoder(weights, parsed).to(self.device)
        self._encoder = served.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def warm_up(self) -> None:
        """Answer the smallest and, on a GPU, the largest batch."""
        for count in (1, 1, self.max_batch_size if self.device.type == "cuda" else 2):
            images = torch.zeros((count, self._size, self._size, 3), dtype=torch.uint8)
            self._run({"IMAGE": images})

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer a batch of (B, S, S, 3) uint8 images."""
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            return {"EMBEDDING": self._encoder(inputs["IMAGE"])}
