"""The slide model inside Triton: one bag of tile embeddings a request."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.architectures.abmil import GatedAbmil
from models.serving import PythonBackend
from models.slide.tiles import SlideManifest
from models.weights import fill, read_tensors


def load_abmil(weights: bytes, manifest: SlideManifest) -> GatedAbmil:
    """Rebuild the network of a manifest and fill it strictly; evaluation mode, float32, CPU.

    Raises
    ------
    ManifestError
        If the digest differs.
    WeightsError
        If the file cannot be read or does not fit.
    """
    network = GatedAbmil(manifest.architecture)
    fill(network, read_tensors(weights, manifest.digest))
    return network.eval()


class SlideBackend(PythonBackend):
    """Label logits of a slide, and the raw attention of its tiles."""

    INPUTS = ("FEATURES",)
    GATHERS = False

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the network; an exception keeps the model unavailable."""
        parsed = SlideManifest.from_json(manifest)
        self._width = parsed.architecture.features
        self._network = load_abmil(weights, parsed).to(self.device)

    def warm_up(self) -> None:
        """Answer one small bag."""
        self._run({"FEATURES": torch.zeros((2, self._width))})

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer one bag (N, E) float32."""
        output = self._network(inputs["FEATURES"])
        return {"LOGITS": output.logits, "ATTENTION_RAW": output.attention_raw}
