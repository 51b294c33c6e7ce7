"""An encoder of a few numbers: mean colours of a coarse grid, and their squares."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.features.embedding import Embedder

DIM = 24


class _Grid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() * self.scale
        coarse = functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
        return torch.cat([coarse, coarse.square()], dim=1)


def tiny_embedder() -> Embedder:
    return Embedder(network=_Grid().eval(), digest="ab" * 32, dim=DIM)
