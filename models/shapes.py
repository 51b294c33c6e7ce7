"""The numbers that rebuild a network: plain values without torch, stored in manifests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

EFFICIENTNET_LITE_SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors of width and depth of the published sizes."""


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The numbers that tell one vision transformer from another."""

    dim: int
    """Width D of a token; a multiple of 4 and of ``heads``."""
    depth: int
    """Number of transformer blocks."""
    heads: int
    """Attention heads; the width of a head is ``dim / heads``."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over ``dim``."""
    patch_size: int = 16
    """Side of a square patch in pixels."""
    image_size: int = 224
    """Side of the square input in pixels for which ``pos_embed`` is stored."""

    def __post_init__(self) -> None:
        """Refuse shapes that no encoder can have."""
        if min(self.dim, self.depth, self.heads, self.mlp_ratio, self.patch_size) < 1:
            raise ValueError("every number of an encoder's shape must be positive")
        if self.dim % 4 or self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of 4 and of heads {self.heads}")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of the patch size")

    @property
    def grid(self) -> int:
        """Patches along one side of the stored position table."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteShape:
    """Which of the published sizes of EfficientNet-Lite."""

    kind: Literal["efficientnet_lite"] = "efficientnet_lite"
    """Tells the backbones apart."""
    variant: str = "lite0"
    """``lite0``, ``lite1`` or ``lite2``."""

    def __post_init__(self) -> None:
        """Refuse a size that does not exist."""
        if self.variant not in EFFICIENTNET_LITE_SCALES:
            raise ValueError(f"no {self.variant!r} among {sorted(EFFICIENTNET_LITE_SCALES)}")


@dataclass(frozen=True, kw_only=True)
class VitPyramidShape:
    """A vision transformer with a convolutional pyramid beside it."""

    kind: Literal["vit_pyramid"] = "vit_pyramid"
    """Tells the backbones apart."""
    encoder: EncoderShape
    """The vision transformer."""
    prior_width: int = 32
    """Channels of the spatial prior at 1/4 size; doubled at 1/8 and again at 1/16."""
    taps: tuple[int, ...] = field(default=())
    """Blocks, counted from 0, whose tokens join the coarsest level beside the last."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        if self.prior_width < 2:
            raise ValueError("prior_width must be at least 2")
        if self.taps != tuple(sorted(set(self.taps))) or any(
            not 0 <= tap < self.encoder.depth for tap in self.taps
        ):
            raise ValueError("taps must be ascending block numbers within the encoder")


@dataclass(frozen=True, kw_only=True)
class PandermShape:
    """A PanDerm encoder, as its file tells."""

    kind: Literal["panderm"] = "panderm"
    """Tells the backbones apart."""
    encoder: EncoderShape
    """The vision transformer."""
    is_fine_tuned: bool = False
    """Pooling of the file: mean patch token, in place of the class token."""


BackboneShape = EfficientNetLiteShape | VitPyramidShape


@dataclass(frozen=True, kw_only=True)
class DiagnosisShape:
    """The numbers that define a diagnosis network."""

    backbone: BackboneShape
    """What turns an image into features."""
    num_labels: int
    """Number of labels C."""
    decoder_width: int = 64
    """Channels of the lesion decoder."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        if min(self.num_labels, self.decoder_width) < 1:
            raise ValueError("every number of a network's shape must be positive")
