"""The manifest of the encoder: one embedding an image, read by the heads of several analyses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.manifest import InputSpec, Manifest
from models.shapes import EfficientNetLiteShape


@dataclass(frozen=True, kw_only=True)
class EncoderManifest(Manifest):
    """What travels with the weights of one version of the encoder."""

    input: InputSpec
    backbone: EfficientNetLiteShape
    """Which network."""
    dim: int
    """Width E of an embedding."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        return {"dim": lambda: self.dim > 0, "input": lambda: self.input.size % 32 == 0}
