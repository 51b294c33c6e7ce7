"""The encoder as it is served: bytes in, embeddings out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import PandermEncoder
from models.embedding import EncoderManifest
from models.shapes import EfficientNetLiteShape, PandermShape
from models.weights import fill, read_tensors


def build_encoder(shape: EfficientNetLiteShape | PandermShape) -> nn.Module:
    """Return an encoder of a shape with random weights: (B, 3, S, S) float32 to (B, E)."""
    if isinstance(shape, PandermShape):
        return PandermEncoder(shape.encoder, is_fine_tuned=shape.is_fine_tuned)
    return EfficientNetLite(shape)


class ServedEncoder(nn.Module):
    """An encoder behind the normalisation of its manifest.

    Parameters
    ----------
    manifest
        Shape of the network, and the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, manifest: EncoderManifest) -> None:
        super().__init__()
        self.encoder = build_encoder(manifest.backbone)
        spec = manifest.input
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, E) float32 of (B, H, W, 3) uint8 RGB images."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        embedding: Tensor = self.encoder(pixels.contiguous(memory_format=torch.channels_last))
        return embedding.float()


def load_served_encoder(weights: bytes, manifest: EncoderManifest) -> ServedEncoder:
    """Rebuild the encoder of a manifest and fill it strictly; evaluation mode, float32, CPU.

    Raises
    ------
    ManifestError
        If the digest differs.
    WeightsError
        If the file cannot be read or does not fit.
    """
    served = ServedEncoder(manifest)
    fill(served, read_tensors(weights, manifest.digest))
    return served.eval()
