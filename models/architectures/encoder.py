"""The vision transformer that every image model here is built on.

One class serves PanDerm Large, PanDerm Base and our compact encoder: only the numbers in
``EncoderShape`` differ. Parameter names are those of the published PanDerm encoders, so that a
file of theirs loads strictly. Reading files is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shapes import EncoderShape as EncoderShape

LAYER_NORM_EPS = 1e-6  # PanDerm encoders; 1e-5 moves Large features by 4e-5
POSITION_TEMPERATURE = 10_000.0  # sine-cosine table of Vaswani et al. 2017, 2-D as in MAE (2022)


@dataclass(frozen=True)
class EncoderTokens:
    """What the encoder says of a batch of images."""

    cls: Tensor
    """(B, D) class token after the final norm."""
    patches: Tensor
    """(B, N, D) patch tokens after the final norm, row-major over the grid."""
    taps: tuple[Tensor, ...]
    """(B, N, D) patch tokens after each tapped block, before any norm."""
    grid: tuple[int, int]
    """Rows and columns of the patch grid; N is their product."""


def sincos_positions(dim: int, grid: int) -> Tensor:
    """Fixed position table of a square patch grid.

    Parameters
    ----------
    dim
        Width D, a multiple of 4.
    grid
        Patches along one side.

    Returns
    -------
    Tensor
        (1, 1 + grid * grid, D) float32: a zero row for the class token, then for each patch in
        row-major order D/4 each of sin(row), cos(row), sin(column), cos(column).

    References
    ----------
    He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (2-D sine-cosine).
    """
    quarter = dim // 4
    frequencies = POSITION_TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    steps = torch.arange(grid, dtype=torch.float64)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    parts = []
    for axis in (rows, columns):
        angles = axis.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    table = torch.cat(parts, dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table]).float().unsqueeze(0)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole samples while training.

    Huang et al., Deep Networks with Stochastic Depth, ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Branch (B, ...), scaled up for the samples that keep it."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        return branch * branch.new_empty(shape).bernoulli_(keep).div_(keep)


class _PatchEmbed(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.dim, kernel_size=shape.patch_size, stride=shape.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images)
        return patches


class _Attention(nn.Module):
    """Self-attention whose keys have no bias, as in BEiT and PanDerm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = functional.linear(tokens, self.qkv.weight, bias)
        qkv = qkv.reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))
        return projected


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, as in every block of the encoders."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) in and out."""
        projected: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return projected


class _Block(nn.Module):
    def __init__(self, shape: EncoderShape, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.attn = _Attention(shape.dim, shape.heads)
        self.norm2 = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(shape.dim, shape.mlp_ratio * shape.dim)
        self.gamma_1 = nn.Parameter(torch.full((shape.dim,), layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((shape.dim,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.gamma_1 * self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.gamma_2 * self.mlp(self.norm2(tokens)))
        return tokens


class Encoder(nn.Module):
    """Pre-norm vision transformer with layer scale and a fixed position table.

    Parameters
    ----------
    shape
        Width, depth, heads and input size.
    layer_scale
        Start value of ``gamma_1`` and ``gamma_2``; overwritten when weights are loaded.
    drop_path
        Stochastic depth of the last block in [0, 1), rising linearly from 0; training only.

    Notes
    -----
    ``pos_embed`` is part of the state and is taken from the file when weights are loaded, never
    computed anew.

    References
    ----------
    Yan et al., A multimodal vision foundation model for clinical dermatology, Nature Medicine
    2025 (the layout); Touvron et al., Going deeper with Image Transformers, ICCV 2021 (eq. 4,
    layer scale).
    """

    def __init__(
        self, shape: EncoderShape, *, layer_scale: float = 0.1, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.pos_embed = nn.Parameter(sincos_positions(shape.dim, shape.grid), requires_grad=False)
        self.patch_embed = _PatchEmbed(shape)
        rates = [drop_path * i / max(1, shape.depth - 1) for i in range(shape.depth)]
        self.blocks = nn.ModuleList(_Block(shape, layer_scale, rate) for rate in rates)
        self.norm = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position rows of the patches, (1, N, D), stretched over ``grid`` where it differs."""
        table = self.pos_embed[:, 1:]
        side = self.shape.grid
        if grid == (side, side):
            return table
        table = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        table = functional.interpolate(table, size=grid, mode="bilinear", align_corners=True)
        return table.flatten(2).transpose(1, 2)

    def forward(
        self, images: Tensor, *, patch_residual: Tensor | None = None, taps: tuple[int, ...] = ()
    ) -> EncoderTokens:
        """Encode a batch.

        Parameters
        ----------
        images
            (B, 3, H, W) normalised float, H and W multiples of the patch size.
        patch_residual
            (B, D, H / patch, W / patch) added to the patch tokens before the first block, or None.
        taps
            Block numbers, counted from 0 and ascending, whose patch tokens are returned too.

        Returns
        -------
        EncoderTokens
            Class token, patch tokens and tapped tokens.
        """
        patches = self.patch_embed(images)
        if patch_residual is not None:
            patches = patches + patch_residual
        grid = (patches.shape[2], patches.shape[3])
        patches = patches.flatten(2).transpose(1, 2) + self._positions(grid)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        tokens = torch.cat([cls.to(patches.dtype), patches], dim=1)
        tapped = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in taps:
                tapped.append(tokens[:, 1:])
        tokens = self.norm(tokens)
        return EncoderTokens(tokens[:, 0], tokens[:, 1:], tuple(tapped), grid)


def _initialise(module: nn.Module) -> None:
    """Truncated normal weights of 0.02 and zero biases, as BEiT and PanDerm start."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
