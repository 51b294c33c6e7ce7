"""The diagnosis network: backbone, classification head and lesion decoder in one forward pass.

``DiagnosisNetwork`` is what training optimises. ``ServedDiagnosis`` wraps it for serving: bytes
in, so that normalisation happens on the device, and the distance to the training data beside the
logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.pyramid import build_pyramid, conv_unit
from models.shapes import DiagnosisShape


@dataclass(frozen=True)
class DiagnosisOutput:
    """What the network says of a batch."""

    logits: Tensor
    """(B, C) before any calibration."""
    embedding: Tensor
    """(B, E), the input of the linear classifier."""
    context: Tensor
    """(B, K), the coarsest level pooled over the image and over the lesion."""
    lesion_logit: Tensor
    """(B, 1, H, W) of the input size."""


class LesionDecoder(nn.Module):
    """Feature pyramid to one lesion logit per pixel of the finest level.

    Parameters
    ----------
    widths
        Channels of the levels, finest first; at least one.
    width
        Channels of the decoder.

    References
    ----------
    Xiao et al., Unified Perceptual Parsing, ECCV 2018 (UPerNet: pooled context on the top level,
    top-down sums, fused levels).
    """

    POOL_SCALES = (1, 2, 3, 6)  # UPerNet's pyramid pooling module

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        part = max(1, width // 4)
        self.top = nn.Conv2d(widths[-1], width, 1)
        self.pools = nn.ModuleList(nn.Conv2d(width, part, 1) for _ in self.POOL_SCALES)
        self.context = conv_unit(width + len(self.POOL_SCALES) * part, width)
        finer = widths[-2::-1]
        self.laterals = nn.ModuleList(nn.Conv2d(level, width, 1) for level in finer)
        self.fuses = nn.ModuleList(conv_unit(width, width) for _ in finer)
        self.predict = nn.Conv2d(width, 1, 1)

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Lesion logits at the size of the finest level, (B, 1, h, w)."""
        top = self.top(levels[-1])
        pooled = [top]
        for scale, project in zip(self.POOL_SCALES, self.pools, strict=True):
            context = project(functional.adaptive_avg_pool2d(top, scale))
            pooled.append(functional.interpolate(context, size=top.shape[2:], mode="bilinear"))
        features = self.context(torch.cat(pooled, dim=1))
        for level, lateral, fuse in zip(levels[-2::-1], self.laterals, self.fuses, strict=True):
            raised = functional.interpolate(features, size=level.shape[2:], mode="bilinear")
            features = fuse(lateral(level) + raised)
        logit: Tensor = self.predict(features)
        return logit


def _pool_inside(features: Tensor, lesion_prob: Tensor) -> Tensor:
    """Mean of (B, C, h, w) features weighted by the (B, 1, H, W) lesion probability, (B, C)."""
    weights = functional.adaptive_avg_pool2d(lesion_prob, (features.shape[2], features.shape[3]))
    # One cell of weight more: an image without a lesion gives small features, not noise.
    return (features * weights).sum(dim=(2, 3)) / (weights.sum(dim=(2, 3)) + 1.0)


class DiagnosisNetwork(nn.Module):
    """Lesion diagnosis and outline from one image.

    The linear classifier reads the features pooled over the image (and the class token, where the
    backbone has one) beside those pooled over the predicted lesion, so the diagnosis looks at the
    lesion while the skin around it stays in view.
    """

    def __init__(
        self,
        shape: DiagnosisShape,
        *,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.backbone = build_pyramid(shape.backbone, drop_path=drop_path)
        self.decoder = LesionDecoder(self.backbone.level_widths, shape.decoder_width)
        self.dropout = nn.Dropout(dropout)
        self.embedding_dim = self.backbone.embedding_dim
        self.context_dim = 2 * self.backbone.level_widths[-1]
        self.classifier = nn.Linear(self.embedding_dim, shape.num_labels)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> DiagnosisOutput:
        """Classify and outline.

        Parameters
        ----------
        images
            (B, 3, H, W) normalised float; H and W multiples of ``backbone.multiple``.

        Returns
        -------
        DiagnosisOutput
            Logits, embedding, context and lesion logits of the input size.
        """
        features = self.backbone(images)
        lesion = self.decoder(features.levels)
        # The mask is a given for the diagnosis: its gradient comes from the outlines alone.
        prob = lesion.detach().sigmoid()
        inside = _pool_inside(features.final, prob)
        parts = [features.final.mean(dim=(2, 3)), inside]
        if features.cls is not None:
            parts.insert(0, features.cls)
        embedding = torch.cat(parts, dim=1)
        coarsest = features.levels[-1].detach()
        context = torch.cat([coarsest.mean(dim=(2, 3)), _pool_inside(coarsest, prob)], dim=1)
        return DiagnosisOutput(
            logits=self.classifier(self.dropout(embedding)),
            embedding=embedding,
            context=context,
            lesion_logit=functional.interpolate(lesion, size=images.shape[2:], mode="bilinear"),
        )


@dataclass(frozen=True)
class ServedOutput:
    """What the served model answers for a batch."""

    logits: Tensor
    """(B, C) float32, uncalibrated."""
    embedding: Tensor
    """(B, E) float32."""
    context: Tensor
    """(B, K) float32, what the distance to the training data is measured on."""
    ood_score: Tensor
    """(B, 1) float32, Mahalanobis distance to the nearest label's training images."""
    lesion_prob: Tensor
    """(B, H, W) uint8, lesion probability times 255."""


class ServedDiagnosis(nn.Module):
    """Network as it is served: bytes in, and the distance to the training data out.

    Parameters
    ----------
    shape
        Shape of the network.
    mean, std
        Normalisation of the training, per channel on values in [0, 1].
    flips
        Average over the four mirror images: a lesion has no upper or left side.

    Notes
    -----
    The class means and the whitening matrix are buffers: they are stored with the weights.

    References
    ----------
    Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS
    2018, eq. 2 (Mahalanobis distance with one covariance for all classes).
    """

    mean: Tensor
    std: Tensor
    ood_means: Tensor
    ood_whitening: Tensor

    def __init__(
        self,
        shape: DiagnosisShape,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        flips: bool,
    ) -> None:
        super().__init__()
        self.network = DiagnosisNetwork(shape)
        self.flips = flips
        width = self.network.context_dim
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("ood_means", torch.zeros(shape.num_labels, width))
        self.register_buffer("ood_whitening", torch.eye(width))

    def forward(self, images: Tensor) -> ServedOutput:
        """Answer a batch.

        Parameters
        ----------
        images
            (B, H, W, 3) uint8 RGB.
        """
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        views: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3)) if self.flips else ((),)
        outputs = [(view, self.network(pixels.flip(view))) for view in views]
        logits = torch.stack([out.logits.float() for _, out in outputs]).mean(0)
        embedding = torch.stack([out.embedding.float() for _, out in outputs]).mean(0)
        context = torch.stack([out.context.float() for _, out in outputs]).mean(0)
        lesion = torch.stack(
            [out.lesion_logit.float().sigmoid().flip(view) for view, out in outputs]
        ).mean(0)
        return ServedOutput(
            logits=logits,
            embedding=embedding,
            context=context,
            ood_score=self.ood_score(context),
            lesion_prob=(lesion.squeeze(1) * 255).round().to(torch.uint8),
        )

    def ood_score(self, context: Tensor) -> Tensor:
        """Smallest whitened distance to a label's mean, (B, 1)."""
        # Differences first: whitened features are large numbers that nearly cancel. And in
        # float32: half precision would drown the small directions that whitening enlarges.
        with torch.autocast(context.device.type, enabled=False):
            offsets = context.float().unsqueeze(1) - self.ood_means
            distances: Tensor = torch.linalg.vector_norm(offsets @ self.ood_whitening, dim=2)
            return distances.amin(dim=1, keepdim=True)
