"""Backbones as the diagnosis network sees them: one call, features at several sizes.

``EfficientNetPyramid`` is the compact backbone that ships. ``VitPyramid`` puts a small
convolutional pyramid beside a plain vision transformer, so that a site's own PanDerm encoder can
be fine-tuned with the same heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.encoder import LAYER_NORM_EPS, Encoder
from models.shapes import BackboneShape, EfficientNetLiteShape, VitPyramidShape


@dataclass(frozen=True)
class PyramidFeatures:
    """What a backbone says of a batch of images."""

    levels: tuple[Tensor, ...]
    """(B, C_i, H_i, W_i), finest first."""
    final: Tensor
    """(B, D, h, w), the features that are pooled for the diagnosis."""
    cls: Tensor | None
    """(B, D) class token, or None where the backbone has none."""


def conv_unit(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Basic residual block (He et al., CVPR 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv_unit(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.norm(self.second(self.first(features))))


class SpatialPrior(nn.Module):
    """Convolutional pyramid beside a plain vision transformer.

    It gives the transformer the local detail that 16 px patches lose, and the decoder the edges
    it needs. Its contribution to the tokens starts at zero, so a pretrained encoder is not
    disturbed.

    References
    ----------
    Chen et al., Vision Transformer Adapter for Dense Predictions, ICLR 2023, section 3.3 (spatial
    prior module; here added to the patch tokens rather than attended to).
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.quarter = nn.Sequential(
            conv_unit(3, width // 2, stride=2), conv_unit(width // 2, width, stride=2)
        )
        self.quarter.append(_Residual(width))
        self.eighth = nn.Sequential(conv_unit(width, 2 * width, stride=2), _Residual(2 * width))
        self.sixteenth = nn.Sequential(
            conv_unit(2 * width, 4 * width, stride=2), _Residual(4 * width), _Residual(4 * width)
        )
        self.to_tokens = nn.Conv2d(4 * width, dim, 1)
        nn.init.zeros_(self.to_tokens.weight)
        nn.init.zeros_(self.to_tokens.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/4 and 1/8 size, and the residual of the patch tokens at 1/16."""
        quarter = self.quarter(images)
        eighth = self.eighth(quarter)
        return quarter, eighth, self.to_tokens(self.sixteenth(eighth))


class _Freezable(nn.Module):
    """Backbone whose first parts can be kept as they are, their batch statistics too."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: tuple[nn.Module, ...] = ()

    def _freeze(self, parts: list[nn.Module]) -> None:
        self._frozen = tuple(parts)
        for part in parts:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> _Freezable:
        """Switch between training and evaluation; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


class EfficientNetPyramid(_Freezable):
    """EfficientNet-Lite with its features at 1/4 to 1/32 of the input.

    Parameters
    ----------
    shape
        Which of the published sizes.
    drop_path
        Probability of leaving out the last residual branch while training.
    """

    def __init__(self, shape: EfficientNetLiteShape, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = EfficientNetLite(shape, drop_path=drop_path)
        self.level_widths = self.encoder.level_widths[1:]
        self.embedding_dim = 2 * self.encoder.dim
        self.multiple = 32

    def forward(self, images: Tensor) -> PyramidFeatures:
        """Encode (B, 3, H, W) normalised images; H and W multiples of ``multiple``."""
        levels = self.encoder.levels(images)
        return PyramidFeatures(levels[1:], self.encoder.expand(levels[-1]), None)

    def freeze(self, stages: int) -> None:
        """Stop learning in the stem and the first ``stages`` stages."""
        self._freeze([self.encoder.stem, *self.encoder.stages[:stages]] if stages else [])


class VitPyramid(_Freezable):
    """Vision transformer with a spatial prior: features at 1/4, 1/8 and the patch size.

    Parameters
    ----------
    shape
        Sizes of the transformer and of the prior.
    drop_path
        Stochastic depth of the last block while training.
    """

    def __init__(self, shape: VitPyramidShape, *, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = shape.encoder.dim
        self.shape = shape
        self.encoder = Encoder(shape.encoder, drop_path=drop_path)
        self.prior = SpatialPrior(shape.prior_width, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=LAYER_NORM_EPS) for _ in shape.taps)
        self.level_widths = (
            shape.prior_width,
            2 * shape.prior_width,
            dim * (len(shape.taps) + 1),
        )
        self.embedding_dim = 3 * dim
        self.multiple = shape.encoder.patch_size

    def forward(self, images: Tensor) -> PyramidFeatures:
        """Encode (B, 3, H, W) normalised images; H and W multiples of ``multiple``."""
        quarter, eighth, residual = self.prior(images)
        tokens = self.encoder(images, patch_residual=residual, taps=self.shape.taps)

        def grid(patches: Tensor) -> Tensor:
            return patches.transpose(1, 2).reshape(len(images), -1, *tokens.grid)

        final = grid(tokens.patches)
        tapped = [grid(norm(tap)) for norm, tap in zip(self.norms, tokens.taps, strict=True)]
        return PyramidFeatures(
            (quarter, eighth, torch.cat([*tapped, final], dim=1)), final, tokens.cls
        )

    def freeze(self, stages: int) -> None:
        """Stop learning in the patch embedding and the first ``stages`` blocks."""
        self._freeze([self.encoder.patch_embed, *self.encoder.blocks[:stages]] if stages else [])


Pyramid = EfficientNetPyramid | VitPyramid


def build_pyramid(shape: BackboneShape, *, drop_path: float = 0.0) -> Pyramid:
    """Build the backbone of a shape."""
    if isinstance(shape, VitPyramidShape):
        return VitPyramid(shape, drop_path=drop_path)
    return EfficientNetPyramid(shape, drop_path=drop_path)
