"""The diagnosis network: encoder, classification head and lesion decoder in one forward pass.

``DiagnosisNetwork`` is what training optimises. ``ServedDiagnosis`` wraps it for serving: bytes
in, so that normalisation happens on the device, and the distance to the training data beside the
logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.encoder import LAYER_NORM_EPS, Encoder, EncoderShape


@dataclass(frozen=True, kw_only=True)
class DiagnosisShape:
    """The numbers that define a diagnosis network."""

    encoder: EncoderShape
    """The vision transformer."""
    num_labels: int
    """Number of labels C."""
    prior_width: int = 32
    """Channels of the spatial prior at 1/4 size; doubled at 1/8 and again at 1/16."""
    decoder_width: int = 64
    """Channels of the lesion decoder."""
    taps: tuple[int, ...] = field(default=())
    """Blocks, counted from 0, whose tokens the decoder reads beside the last."""

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        if min(self.num_labels, self.prior_width, self.decoder_width) < 1:
            raise ValueError("every number of a network's shape must be positive")
        if self.taps != tuple(sorted(set(self.taps))) or any(
            not 0 <= tap < self.encoder.depth for tap in self.taps
        ):
            raise ValueError("taps must be ascending block numbers within the encoder")

    @property
    def embedding_dim(self) -> int:
        """Width E of the embedding: class token, mean patch and mean lesion patch."""
        return 3 * self.encoder.dim


@dataclass(frozen=True)
class DiagnosisOutput:
    """What the network says of a batch."""

    logits: Tensor
    """(B, C) before any calibration."""
    embedding: Tensor
    """(B, E), the input of the linear classifier."""
    lesion_logit: Tensor
    """(B, 1, H, W) of the input size."""


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Basic residual block (He et al., CVPR 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
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
            _conv(3, width // 2 or 1, stride=2),
            _conv(width // 2 or 1, width, stride=2),
            _Residual(width),
        )
        self.eighth = nn.Sequential(_conv(width, 2 * width, stride=2), _Residual(2 * width))
        self.sixteenth = nn.Sequential(
            _conv(2 * width, 4 * width, stride=2), _Residual(4 * width), _Residual(4 * width)
        )
        self.to_tokens = nn.Conv2d(4 * width, dim, 1)
        nn.init.zeros_(self.to_tokens.weight)
        nn.init.zeros_(self.to_tokens.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/4 and 1/8 size, and the residual of the patch tokens at 1/16."""
        quarter = self.quarter(images)
        eighth = self.eighth(quarter)
        return quarter, eighth, self.to_tokens(self.sixteenth(eighth))


class LesionDecoder(nn.Module):
    """Feature pyramid from patch tokens and spatial prior to one lesion logit per pixel.

    References
    ----------
    Xiao et al., Unified Perceptual Parsing, ECCV 2018 (UPerNet: pooled context on the top level,
    top-down sums, fused levels), reduced to three levels.
    """

    POOL_SCALES = (1, 2, 3, 6)  # UPerNet's pyramid pooling module

    def __init__(self, shape: DiagnosisShape) -> None:
        super().__init__()
        width, dim = shape.decoder_width, shape.encoder.dim
        self.norms = nn.ModuleList(
            nn.LayerNorm(dim, eps=LAYER_NORM_EPS) for _ in range(len(shape.taps) + 1)
        )
        self.top = nn.Conv2d(dim * (len(shape.taps) + 1), width, 1)
        self.pools = nn.ModuleList(nn.Conv2d(width, width // 4 or 1, 1) for _ in self.POOL_SCALES)
        self.context = _conv(width + len(self.POOL_SCALES) * (width // 4 or 1), width)
        self.lateral_eighth = nn.Conv2d(2 * shape.prior_width, width, 1)
        self.lateral_quarter = nn.Conv2d(shape.prior_width, width, 1)
        self.fuse_eighth = _conv(width, width)
        self.fuse_quarter = _conv(width, width)
        self.predict = nn.Conv2d(width, 1, 1)

    def forward(
        self, levels: tuple[Tensor, ...], grid: tuple[int, int], quarter: Tensor, eighth: Tensor
    ) -> Tensor:
        """Lesion logits at 1/4 size, (B, 1, H / 4, W / 4)."""
        normed = [norm(level) for norm, level in zip(self.norms, levels, strict=True)]
        top = self.top(torch.cat(normed, dim=2).transpose(1, 2).reshape(len(quarter), -1, *grid))
        pooled = [top]
        for scale, project in zip(self.POOL_SCALES, self.pools, strict=True):
            context = project(functional.adaptive_avg_pool2d(top, scale))
            pooled.append(functional.interpolate(context, size=grid, mode="bilinear"))
        features = self.context(torch.cat(pooled, dim=1))
        for lateral, fuse in (
            (self.lateral_eighth(eighth), self.fuse_eighth),
            (self.lateral_quarter(quarter), self.fuse_quarter),
        ):
            raised = functional.interpolate(features, size=lateral.shape[2:], mode="bilinear")
            features = fuse(lateral + raised)
        logit: Tensor = self.predict(features)
        return logit


class DiagnosisNetwork(nn.Module):
    """Lesion diagnosis and outline from one image.

    The linear classifier reads the class token, the mean patch token and the mean patch token
    inside the predicted lesion, so the diagnosis looks at the lesion while the skin around it
    stays in view.
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
        self.encoder = Encoder(shape.encoder, drop_path=drop_path)
        self.prior = SpatialPrior(shape.prior_width, shape.encoder.dim)
        self.decoder = LesionDecoder(shape)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shape.embedding_dim, shape.num_labels)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> DiagnosisOutput:
        """Classify and outline.

        Parameters
        ----------
        images
            (B, 3, H, W) normalised float; H and W multiples of 16.

        Returns
        -------
        DiagnosisOutput
            Logits, embedding and lesion logits of the input size.
        """
        quarter, eighth, residual = self.prior(images)
        tokens = self.encoder(images, patch_residual=residual, taps=self.shape.taps)
        lesion = self.decoder((*tokens.taps, tokens.patches), tokens.grid, quarter, eighth)
        # The mask is a given for the diagnosis: its gradient comes from the outlines alone.
        weights = functional.adaptive_avg_pool2d(lesion.detach().sigmoid(), tokens.grid)
        weights = weights.flatten(2)
        inside = (weights @ tokens.patches).squeeze(1) / (weights.sum(dim=2) + 1.0)
        embedding = torch.cat([tokens.cls, tokens.patches.mean(dim=1), inside], dim=1)
        return DiagnosisOutput(
            logits=self.classifier(self.dropout(embedding)),
            embedding=embedding,
            lesion_logit=functional.interpolate(lesion, size=images.shape[2:], mode="bilinear"),
        )


@dataclass(frozen=True)
class ServedOutput:
    """What the served model answers for a batch."""

    logits: Tensor
    """(B, C) float32, uncalibrated."""
    embedding: Tensor
    """(B, E) float32."""
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
        width = shape.embedding_dim
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
        lesion = torch.stack(
            [out.lesion_logit.float().sigmoid().flip(view) for view, out in outputs]
        ).mean(0)
        return ServedOutput(
            logits=logits,
            embedding=embedding,
            ood_score=self.ood_score(embedding),
            lesion_prob=(lesion.squeeze(1) * 255).round().to(torch.uint8),
        )

    def ood_score(self, embedding: Tensor) -> Tensor:
        """Smallest whitened distance to a label's mean, (B, 1)."""
        # Differences first: whitened embeddings are large numbers that nearly cancel. And in
        # float32: half precision would drown the small directions that whitening enlarges.
        with torch.autocast(embedding.device.type, enabled=False):
            offsets = embedding.float().unsqueeze(1) - self.ood_means
            distances: Tensor = torch.linalg.vector_norm(offsets @ self.ood_whitening, dim=2)
            return distances.amin(dim=1, keepdim=True)
