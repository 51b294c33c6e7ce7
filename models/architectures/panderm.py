"""PanDerm's encoders: our own implementation, filled from the file that a site brings.

Neither code nor weights of PanDerm are shipped (both CC BY-NC-ND 4.0). Two pooling conventions
exist and the file decides: a pretrained file gives the class token after the norm, a fine-tuned
one (key ``fc_norm.weight``) ``fc_norm`` of the mean patch token, with a relative position bias in
every block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.checkpoint import copy_float32, name_some, read_checkpoint
from models.architectures.encoder import LAYER_NORM_EPS, Encoder
from models.errors import ImageError, WeightsError
from models.shapes import EncoderShape

HEAD_WIDTH = 64
"""Width of an attention head in every published size."""
HEAD_INIT_SCALE = 0.001
"""Factor on the first weights of a new classifier (BEiT's fine-tuning recipe)."""

_BIAS_TABLE = "relative_position_bias_table"
_INDEX = "relative_position_index"
_INDEX_KEY = re.compile(r"blocks\.\d+\.attn\.relative_position_index")
_RELATIVE = re.compile(r"\.attn\.relative_position_(bias_table|index)$")
_FINE_TUNED_KEY = "fc_norm.weight"
_CLASSIFIER = ("head.weight", "head.bias")


def relative_position_index(grid: int) -> Tensor:
    """Row of the bias table for each pair of tokens.

    Parameters
    ----------
    grid
        Patches along one side, G.

    Returns
    -------
    Tensor
        (1 + G * G, 1 + G * G) int64. Patch to patch: (row distance + G - 1) * (2G - 1) + column
        distance + G - 1, distances being query minus key. The last three rows of the table belong
        to class to patch, patch to class, and class to class.

    References
    ----------
    Bao et al., BEiT, ICLR 2022, appendix (relative position bias with a class token).
    """
    side = torch.arange(grid)
    rows, columns = (axis.reshape(-1) for axis in torch.meshgrid(side, side, indexing="ij"))
    down = rows[:, None] - rows[None, :] + grid - 1
    right = columns[:, None] - columns[None, :] + grid - 1
    patches = down * (2 * grid - 1) + right
    count = (2 * grid - 1) ** 2
    index = torch.empty((1 + grid * grid, 1 + grid * grid), dtype=torch.int64)
    index[1:, 1:] = patches
    index[0, :] = count
    index[:, 0] = count + 1
    index[0, 0] = count + 2
    return index


class RelativeAttention(nn.Module):
    """Self-attention with a learnt bias for each relative position, as in fine-tuned files."""

    relative_position_index: Tensor

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_bias = nn.Parameter(torch.zeros(shape.dim))
        self.v_bias = nn.Parameter(torch.zeros(shape.dim))
        rows = (2 * shape.grid - 1) ** 2 + 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, shape.heads))
        self.register_buffer(_INDEX, relative_position_index(shape.grid))
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim, bias=False)
        self.proj = nn.Linear(shape.dim, shape.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (B, N, D)."""
        batch, count, dim = tokens.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        # The layer is called, not its weight read: an adapter (LoRA) may stand in its place.
        qkv = self.qkv(tokens) + bias
        qkv = qkv.reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        table = self.relative_position_bias_table[self.relative_position_index]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=table.permute(2, 0, 1).unsqueeze(0).to(query.dtype)
        )
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))
        return projected


class PandermEncoder(nn.Module):
    """A PanDerm encoder with the pooling of its file.

    Parameters
    ----------
    shape
        Width, depth, heads and input size.
    is_fine_tuned
        Relative position bias and ``fc_norm`` of the mean patch, instead of the class token.
    num_labels
        Labels of the classifier; 0 for none. Only a fine-tuned encoder has one.
    drop_path
        Stochastic depth of the last block in [0, 1), training only.

    Attributes
    ----------
    dim
        Width D of the embedding.
    digest
        SHA-256 of the file that filled it; empty for an encoder that no file filled.

    References
    ----------
    Yan et al., A multimodal vision foundation model for clinical dermatology, Nature Medicine
    2025; Peng et al., BEiT v2, 2022 (fine-tuning).
    """

    def __init__(
        self,
        shape: EncoderShape,
        *,
        is_fine_tuned: bool = False,
        num_labels: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if num_labels and not is_fine_tuned:
            raise ValueError("only a fine-tuned encoder has a classifier")
        self.shape = shape
        self.dim = shape.dim
        self.is_fine_tuned = is_fine_tuned
        self.num_labels = num_labels
        self.digest = ""
        self.encoder = Encoder(shape, drop_path=drop_path)
        self.fc_norm: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        if is_fine_tuned:
            self.encoder.norm = nn.Identity()  # type: ignore[assignment]
            for block in self.encoder.blocks:
                block.attn = RelativeAttention(shape)
                for linear in (block.attn.qkv, block.attn.proj):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(block.attn.proj.bias)
            self.fc_norm = nn.LayerNorm(shape.dim, eps=LAYER_NORM_EPS)
        if num_labels:
            self.head = nn.Linear(shape.dim, num_labels)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
            with torch.no_grad():
                self.head.weight.mul_(HEAD_INIT_SCALE)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Parameters
        ----------
        images
            (B, 3, S, S) float32, normalised by ``models.preprocessing.normalise_pixels``; S is
            224 for every published file.

        Returns
        -------
        Tensor
            (B, D).

        Raises
        ------
        ImageError
            If shape or type differ.
        """
        side = self.shape.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ImageError(f"the encoder takes (B, 3, {side}, {side}), not {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ImageError(f"the encoder takes normalised float32, not {images.dtype}")
        tokens = self.encoder(images)
        if not self.is_fine_tuned:
            cls: Tensor = tokens.cls
            return cls
        pooled: Tensor = self.fc_norm(tokens.patches.mean(dim=1))
        return pooled

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits (B, C) from embeddings (B, D).

        Raises
        ------
        WeightsError
            If the file has no classifier, as no pretrained one has.
        """
        if not self.num_labels:
            raise WeightsError("these weights have no classifier: they are not fine-tuned")
        logits: Tensor = self.head(embedding)
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C) of a fine-tuned file; parameters and errors as for the call.

        Raises
        ------
        WeightsError
            If the file has no classifier, as no pretrained one has.
        """
        if not self.num_labels:
            raise WeightsError("these weights have no classifier: they are not fine-tuned")
        return self.classify(self(images))

    def published_state(self) -> dict[str, Tensor]:
        """Weights under the published keys, without copies."""
        return {key.removeprefix("encoder."): value for key, value in self.state_dict().items()}


def load_encoder(path: Path | str, *, heads: int | None = None) -> PandermEncoder:
    """Load a PanDerm encoder from a file, strictly.

    Parameters
    ----------
    path
        Checkpoint in any known layout (``models.architectures.checkpoint``).
    heads
        Attention heads; None for 64 numbers a head, or what the bias tables say.

    Returns
    -------
    PandermEncoder
        In evaluation mode, float32, on the CPU, frozen (no parameter requires a gradient).

    Raises
    ------
    WeightsError
        If the file cannot be read, or a key is missing, unexpected, of the wrong shape or type,
        or not finite. The message names it.

    Notes
    -----
    ``pos_embed`` and, where stored, ``relative_position_index`` are those of the file. A
    classifier in a pretrained file (PanDerm's linear-probe class keeps one) is left out.
    """
    path = Path(path)
    tensors, digest = read_checkpoint(path)
    is_fine_tuned = _FINE_TUNED_KEY in tensors
    if not is_fine_tuned:
        for key in _CLASSIFIER:
            tensors.pop(key, None)
    shape = _shape_of(tensors, heads, path.name)
    num_labels = 0
    if any(key in tensors for key in _CLASSIFIER):
        num_labels = _sizes(tensors, "head.weight", 2, path.name)[0]
    with torch.device("meta"):  # no memory until the weights come
        encoder = PandermEncoder(shape, is_fine_tuned=is_fine_tuned, num_labels=num_labels)
    _fill(encoder, tensors, path.name)
    encoder.digest = digest
    return encoder.eval().requires_grad_(False)


def _sizes(tensors: Mapping[str, Tensor], key: str, ndim: int, name: str) -> tuple[int, ...]:
    """Shape of a tensor that tells the network's size."""
    if key not in tensors:
        raise WeightsError(f"{name}: missing {key}")
    sizes = tuple(tensors[key].shape)
    if len(sizes) != ndim or 0 in sizes:
        raise WeightsError(f"{name}: {key} has shape {sizes}, not {ndim} dimensions")
    return sizes


def _shape_of(tensors: Mapping[str, Tensor], heads: int | None, name: str) -> EncoderShape:
    """Read the encoder's size off the shapes of its tensors."""
    dim = _sizes(tensors, "cls_token", 3, name)[-1]
    tokens = _sizes(tensors, "pos_embed", 3, name)[1]
    patch_size = _sizes(tensors, "patch_embed.proj.weight", 4, name)[-1]
    hidden = _sizes(tensors, "blocks.0.mlp.fc1.weight", 2, name)[0]
    grid = math.isqrt(tokens - 1)
    if grid < 1 or grid * grid != tokens - 1:
        raise WeightsError(f"{name}: pos_embed has {tokens} tokens, not 1 and a square")
    if hidden % dim:
        raise WeightsError(f"{name}: blocks.0.mlp.fc1.weight has {hidden} rows for width {dim}")
    numbers = {int(key.split(".")[1]) for key in tensors if re.match(r"blocks\.\d{1,4}\.", key)}
    if heads is None and f"blocks.0.attn.{_BIAS_TABLE}" in tensors:
        heads = _sizes(tensors, f"blocks.0.attn.{_BIAS_TABLE}", 2, name)[1]
    if heads is None:
        if dim > HEAD_WIDTH and dim % HEAD_WIDTH:
            raise WeightsError(f"{name}: width {dim} is no multiple of {HEAD_WIDTH}; give `heads`")
        heads = max(1, dim // HEAD_WIDTH)
    try:
        return EncoderShape(
            dim=dim,
            depth=max(numbers) + 1,
            heads=heads,
            mlp_ratio=hidden // dim,
            patch_size=patch_size,
            image_size=grid * patch_size,
        )
    except ValueError as exc:
        raise WeightsError(f"{name}: {exc}") from exc


def _fill(encoder: PandermEncoder, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy each tensor to its place, after comparing keys and shapes."""
    expected = encoder.published_state()
    missing, unexpected = set(expected) - set(tensors), set(tensors) - set(expected)
    indices = {key for key in expected if _INDEX_KEY.fullmatch(key)}
    if indices <= missing:  # a buffer that follows from the grid; some tools leave it out
        missing -= indices
    if missing:
        raise WeightsError(f"{name}: missing {name_some(missing)}")
    if unexpected:
        raise WeightsError(f"{name}: unexpected {name_some(unexpected)}")
    wrong = [key for key, value in tensors.items() if value.shape != expected[key].shape]
    if wrong:
        key = min(wrong)
        raise WeightsError(
            f"{name}: {key} has shape {tuple(tensors[key].shape)}, not "
            f"{tuple(expected[key].shape)} ({len(wrong)} keys differ)"
        )
    index = relative_position_index(encoder.shape.grid)
    rows = int(index.max()) + 1
    filled: dict[str, Tensor] = {}
    for key in expected:
        own = key if key.startswith(("fc_norm.", "head.")) else f"encoder.{key}"
        if key not in indices:
            filled[own] = copy_float32(tensors[key], key, name)
        elif key in tensors:
            filled[own] = _copy_index(tensors[key], rows, key, name)
        else:
            filled[own] = index
    encoder.load_state_dict(filled, strict=True, assign=True)


def _copy_index(tensor: Tensor, rows: int, key: str, name: str) -> Tensor:
    """Copy of a stored index, refused where it points outside the table."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise WeightsError(f"{name}: {key} has type {tensor.dtype}, not whole numbers")
    copied = tensor.to(torch.int64, copy=True)
    if copied.min() < 0 or copied.max() >= rows:
        raise WeightsError(f"{name}: {key} points outside the table of {rows} rows")
    return copied


def fine_tuning_model(
    encoder: PandermEncoder, num_labels: int, *, drop_path: float = 0.0
) -> PandermEncoder:
    """Model to be fine-tuned from an encoder: relative bias of zero, ``fc_norm``, new classifier.

    Parameters
    ----------
    encoder
        Pretrained, or fine-tuned already: its bias tables and ``fc_norm`` are then kept, its
        classifier is not.
    num_labels
        Labels C, at least 1.
    drop_path
        Stochastic depth of the last block in [0, 1).

    Returns
    -------
    PandermEncoder
        Its own copy of the weights, all trainable apart from ``pos_embed``. The classifier's
        start values come from torch's generator.

    Notes
    -----
    ``fc_norm`` starts as the pretrained ``norm``. Without a relative bias and before training it
    embeds like the pretrained encoder, but for the pooling.
    """
    model = PandermEncoder(
        encoder.shape, is_fine_tuned=True, num_labels=num_labels, drop_path=drop_path
    )
    start = {
        key.replace("encoder.norm.", "fc_norm."): value
        for key, value in encoder.state_dict().items()
        if not key.startswith("head.")
    }
    # Everything that a pretrained encoder lacks begins anew, and nothing else.
    new = {
        key: value
        for key, value in model.state_dict().items()
        if key not in start and (_RELATIVE.search(key) or key in _CLASSIFIER)
    }
    model.load_state_dict(start | new, strict=True)
    model.encoder.pos_embed.requires_grad_(False)
    return model
