"""The manifest of the encoder: one embedding an image, read by the heads of several analyses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.manifest import InputSpec, Manifest
from models.shapes import EfficientNetLiteShape, PandermShape


@dataclass(frozen=True, kw_only=True)
class EncoderManifest(Manifest):
    """What travels with the weights of one version of the encoder."""

    input: InputSpec
    backbone: EfficientNetLiteShape | PandermShape
    """Which network."""
    dim: int
    """Width E of an embedding."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        return {"dim": self._is_width, "input": self._is_size}

    def _is_width(self) -> bool:
        if isinstance(self.backbone, PandermShape):
            return self.dim == self.backbone.encoder.dim
        return self.dim > 0

    def _is_size(self) -> bool:
        if isinstance(self.backbone, PandermShape):
            return self.input.size == self.backbone.encoder.image_size
        return self.input.size % 32 == 0
