"""The network of masked latent alignment (CAE v2): what pretraining trains an encoder with.

The encoder sees the visible patches only; a regressor guesses the latents of the masked ones; one
head turns both into predictions of a teacher's tokens. Parameter names are those of the published
pretraining files, so a trained network is read by whatever reads those. Choosing masks, teachers
and losses is left to training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.encoder import (
    LAYER_NORM_EPS,
    DropPath,
    Encoder,
    Mlp,
    sincos_positions,
)
from models.shapes import EncoderShape

REGRESSOR_HEADS = 12  # the default of CAE, which PanDerm left as it was: width 1020 for D = 1024


@dataclass(frozen=True, kw_only=True)
class RegressorShape:
    """The numbers that define the regressor."""

    depth: int = 4
    """Cross-attention blocks."""
    heads: int = REGRESSOR_HEADS
    """Attention heads; the attention is ``dim // heads * heads`` wide."""

    def __post_init__(self) -> None:
        """Refuse shapes that no regressor can have."""
        if min(self.depth, self.heads) < 1:
            raise ValueError("depth and heads of the regressor must be positive")


class _CrossAttention(nn.Module):
    """Attention from masked to all patches; queries and values have a bias, keys have none."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        width = dim // heads * heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.q = nn.Linear(dim, width, bias=False)
        self.k = nn.Linear(dim, width, bias=False)
        self.v = nn.Linear(dim, width, bias=False)
        self.proj = nn.Linear(width, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(
            self._split(self.q(query) + self.q_bias),
            self._split(self.k(key)),
            self._split(self.v(value) + self.v_bias),
        )
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, heads * d) to (B, heads, N, d)."""
        batch, count, width = tokens.shape
        return tokens.reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)


class _RegressorBlock(nn.Module):
    def __init__(
        self, shape: EncoderShape, heads: int, *, layer_scale: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.norm1_k = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.norm1_v = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.norm2_cross = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        self.cross_attn = _CrossAttention(shape.dim, heads)
        self.mlp_cross = Mlp(shape.dim, shape.mlp_ratio * shape.dim)
        self.gamma_1_cross = nn.Parameter(torch.full((shape.dim,), layer_scale))
        self.gamma_2_cross = nn.Parameter(torch.full((shape.dim,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, masked: Tensor, visible: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        """One round of guessing.

        Parameters
        ----------
        masked, visible
            (B, M, D) and (B, V, D) latents.
        positions
            Their rows of the position table, masked first.
        """
        both = torch.cat([visible, masked], dim=1)
        attended = self.cross_attn(
            self.norm1_q(masked + positions[0]),
            self.norm1_k(both + torch.cat([positions[1], positions[0]], dim=1)),
            self.norm1_v(both),
        )
        masked = masked + self.drop_path(self.gamma_1_cross * attended)
        # Here the norm replaces the stream, unlike in the encoder: the published files need it.
        masked = self.norm2_cross(masked)
        guessed: Tensor = self.drop_path(self.gamma_2_cross * self.mlp_cross(masked))
        return masked + guessed


class _Regressor(nn.Module):
    def __init__(
        self, shape: EncoderShape, regressor: RegressorShape, layer_scale: float, drop_path: float
    ) -> None:
        super().__init__()
        rates = [drop_path * i / max(1, regressor.depth - 1) for i in range(regressor.depth)]
        self.regressor_blocks = nn.ModuleList(
            _RegressorBlock(shape, regressor.heads, layer_scale=layer_scale, drop_path=rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)

    def forward(self, masked: Tensor, visible: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        for block in self.regressor_blocks:
            masked = block(masked, visible, positions)
        guessed: Tensor = self.norm(masked)
        return guessed


class _Head(nn.Module):
    """Layer norm and one linear layer: the whole of what the published files call decoder."""

    def __init__(self, dim: int, target_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(dim, target_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        predicted: Tensor = self.head(self.norm(tokens))
        return predicted


class CaeNetwork(nn.Module):
    """Encoder, latent regressor and prediction head.

    Parameters
    ----------
    shape
        The encoder.
    target_dim
        Width C of the teacher's tokens.
    regressor
        The regressor.
    layer_scale
        Start value of every layer scale.
    drop_path
        Stochastic depth of the last block of encoder and regressor, in [0, 1).

    Attributes
    ----------
    encoder
        What pretraining is for; its keys carry the prefix ``encoder.``.

    Raises
    ------
    ValueError
        If the regressor has more heads than the encoder is wide.

    References
    ----------
    Zhang et al., CAE v2: Context Autoencoder with CLIP Latent Alignment, TMLR 2023; Chen et al.,
    Context Autoencoder for Self-Supervised Representation Learning, IJCV 2024 (the regressor).
    """

    def __init__(
        self,
        shape: EncoderShape,
        *,
        target_dim: int,
        regressor: RegressorShape,
        layer_scale: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if regressor.heads > shape.dim:
            raise ValueError(f"{regressor.heads} heads do not fit a width of {shape.dim}")
        self.shape = shape
        self.encoder = Encoder(shape, layer_scale=layer_scale, drop_path=drop_path)
        self.rd_pos_embed = nn.Parameter(
            sincos_positions(shape.dim, shape.grid), requires_grad=False
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.regresser = _Regressor(shape, regressor, layer_scale, drop_path)
        self.decoder = _Head(shape.dim, target_dim)
        for part in (self.regresser, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        """Predict the teacher's tokens from the visible patches.

        Parameters
        ----------
        images
            (B, 3, S, S) normalised float, S the encoder's input size.
        masked
            (B, N) bool over the grid in row-major order, true where the encoder must not look;
            as many in each image, and at least one patch visible.

        Returns
        -------
        Tensor
            (B, 1 + N, C), the class token first, then the patches in row-major order.

        Raises
        ------
        ValueError
            If the masks do not fit the images or differ in their counts.
        """
        visible_count = _count_visible(masked, self.shape.grid**2)
        order = masked.to(torch.uint8).argsort(dim=1, stable=True)
        visible_at, masked_at = order[:, :visible_count], order[:, visible_count:]
        latents = self._encode(images, visible_at)
        cls, visible = latents[:, :1], latents[:, 1:]
        table = self.rd_pos_embed[:, 1:].expand(len(images), -1, -1)
        positions = _take(table, masked_at), _take(table, visible_at)
        start = self.mask_token.expand(len(images), masked_at.shape[1], -1)
        guessed = self.regresser(start, visible, positions)
        tokens = torch.cat([cls, visible.to(guessed.dtype), guessed], dim=1)
        predicted: Tensor = self.decoder(tokens)
        patches = _take(predicted[:, 1:], order.argsort(dim=1))
        return torch.cat([predicted[:, :1], patches], dim=1)

    def _encode(self, images: Tensor, visible_at: Tensor) -> Tensor:
        """Latents (B, 1 + V, D) of the class token and of the patches at ``visible_at`` (B, V)."""
        encoder = self.encoder
        patches = encoder.patch_embed(images).flatten(2).transpose(1, 2)
        patches = _take(patches + encoder.pos_embed[:, 1:], visible_at)
        cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([cls.to(patches.dtype), patches], dim=1)
        for block in encoder.blocks:
            tokens = block(tokens)
        latents: Tensor = encoder.norm(tokens)
        return latents


def _take(tokens: Tensor, at: Tensor) -> Tensor:
    """Tokens (B, N, D) at the places (B, M)."""
    return tokens.gather(1, at.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def _count_visible(masked: Tensor, num_patches: int) -> int:
    if masked.ndim != 2 or masked.shape[1] != num_patches or masked.dtype != torch.bool:
        raise ValueError(
            f"a mask must be (B, {num_patches}) bool, not {tuple(masked.shape)} {masked.dtype}"
        )
    counts = sorted(set(masked.sum(dim=1).tolist()))
    if len(counts) != 1:
        raise ValueError(f"the images of a batch have {counts} masked patches")
    if counts[0] == num_patches:
        raise ValueError("no patch is visible")
    return num_patches - int(counts[0])


def alignment_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Distance of each predicted token to the teacher's.

    Parameters
    ----------
    predictions, targets
        (B, T, C) in any float type; lengths of the vectors do not matter.

    Returns
    -------
    Tensor
        (B, T) float32, 1 - cosine, in [0, 2]; 1 where a vector is zero.

    References
    ----------
    Zhang et al., CAE v2, 2023, section 3.2: visible and masked alignment, of equal weight.
    """
    return 1 - functional.cosine_similarity(predictions.float(), targets.float(), dim=-1)
