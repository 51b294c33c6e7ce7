"""EfficientNet-Lite: the compact convolutional encoder that ships.

Depthwise convolutions, no squeeze-and-excitation, ReLU6: made for processors without a GPU.
Images come in normalised as for every other backbone (``models.preprocessing``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.architectures.encoder import DropPath
from models.preprocessing import MEAN, STD
from models.shapes import EFFICIENTNET_LITE_SCALES, EfficientNetLiteShape

BATCH_NORM_EPS = 1e-3  # EfficientNet's constants, kept so that published weights fit
BATCH_NORM_MOMENTUM = 0.01

_STEM_WIDTH = 32
_HEAD_WIDTH = 1280
# kernel, stride, expansion, outputs, blocks of the baseline (Tan and Le 2019, table 1)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def _round_width(width: float) -> int:
    """Multiple of 8 nearest to the width, never more than a tenth below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2 if stride == 1 else 0,
        groups=groups,
        bias=False,
    )
    if stride == 1:
        return convolution
    # The published weights pad an even image by one pixel less at the top and left ("same").
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


class _InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al., CVPR 2018, MobileNetV2)."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int, drop: float
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [_conv(inputs, hidden, 1), _norm(hidden), nn.ReLU6(inplace=True)]
        layers += [
            _conv(hidden, hidden, kernel, stride=stride, groups=hidden),
            _norm(hidden),
            nn.ReLU6(inplace=True),
            _conv(hidden, outputs, 1),
            _norm(outputs),
        ]
        self.branch = nn.Sequential(*layers)
        self.drop = DropPath(drop)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        branch: Tensor = self.branch(features)
        return features + self.drop(branch) if self.is_residual else branch


class EfficientNetLite(nn.Module):
    """Encoder with features at five sizes.

    Parameters
    ----------
    shape
        Which of the published sizes.
    drop_path
        Probability of leaving out the last residual branch; it grows linearly from 0.

    References
    ----------
    Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML
    2019; the Lite variants drop squeeze-and-excitation, use ReLU6, and keep stem and head at their
    width.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, shape: EfficientNetLiteShape, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        width, depth = EFFICIENTNET_LITE_SCALES[shape.variant]
        self.stem = nn.Sequential(
            _conv(3, _STEM_WIDTH, 3, stride=2), _norm(_STEM_WIDTH), nn.ReLU6(inplace=True)
        )
        counts = [
            # First and last stage keep their depth in the Lite variants.
            blocks if index in (0, len(_STAGES) - 1) else -int(-(blocks * depth) // 1)
            for index, (*_, blocks) in enumerate(_STAGES)
        ]
        total, done, inputs = sum(counts), 0, _STEM_WIDTH
        stages = []
        for (kernel, stride, expansion, outputs, _), count in zip(_STAGES, counts, strict=True):
            blocks = []
            for index in range(count):
                blocks.append(
                    _InvertedResidual(
                        inputs,
                        _round_width(outputs * width),
                        kernel=kernel,
                        stride=stride if index == 0 else 1,
                        expansion=expansion,
                        drop=drop_path * done / total,
                    )
                )
                inputs, done = _round_width(outputs * width), done + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(
            _conv(inputs, _HEAD_WIDTH, 1), _norm(_HEAD_WIDTH), nn.ReLU6(inplace=True)
        )
        self.dim = _HEAD_WIDTH
        self.level_widths = tuple(_round_width(_STAGES[i][3] * width) for i in (0, 1, 2, 4, 6))
        # The published weights were trained on values in [-1, 1]: undo our normalisation first.
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer("input_scale", 2 * std, persistent=False)
        self.register_buffer("input_shift", 2 * mean - 1, persistent=False)

    def levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input size.

        Parameters
        ----------
        images
            (B, 3, H, W) normalised float; H and W multiples of 32.

        Returns
        -------
        tuple of Tensor
            (B, ``level_widths[i]``, H / 2 ** (i + 1), W / 2 ** (i + 1)).
        """
        features = self.stem(images * self.input_scale + self.input_shift)
        found = []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index in (0, 1, 2, 4, 6):
                found.append(features)
        return tuple(found)

    def expand(self, coarsest: Tensor) -> Tensor:
        """Final features, (B, 1280, h, w), from the coarsest level."""
        features: Tensor = self.head(coarsest)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Embedding of a batch, (B, 1280): the mean of the final features."""
        return self.expand(self.levels(images)[-1]).mean(dim=(2, 3))
