"""A network that only outlines: any backbone with the lesion decoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.architectures.diagnosis import LesionDecoder
from models.architectures.pyramid import build_pyramid
from models.shapes import BackboneShape


class SegmentationNetwork(nn.Module):
    """Lesion outline from one image.

    Parameters
    ----------
    backbone
        What turns an image into features.
    decoder_width
        Channels of the decoder.
    drop_path
        Stochastic depth of the backbone while training.
    """

    def __init__(
        self, backbone: BackboneShape, *, decoder_width: int = 64, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = build_pyramid(backbone, drop_path=drop_path)
        self.decoder = LesionDecoder(self.backbone.level_widths, decoder_width)

    def forward(self, images: Tensor) -> Tensor:
        """Lesion logits (B, 1, H, W) of (B, 3, H, W) normalised images."""
        lesion = self.decoder(self.backbone(images).levels)
        return functional.interpolate(lesion, size=images.shape[2:], mode="bilinear")
