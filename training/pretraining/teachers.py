"""Teachers of masked latent alignment: what the student's tokens are to point to.

Both see the whole, unmasked image and answer with one vector for the class token and one for each
patch of the student's grid. Weights are read from a local folder; nothing is ever downloaded.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.encoder import Encoder
from training.augment import normalise
from training.errors import PretrainedError
from training.pretraining.processes import World
from training.pretraining.settings import EmaTeacherSettings

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # Radford et al., CLIP, ICML 2021 (published code)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MIN_DEVIATION = 1e-4  # of a target's channel: one that does not vary must not become noise

# What transformers lets through on damaged folders.
_UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    pickle.UnpicklingError,
)


class Teacher(Protocol):
    """What the recipe asks of a teacher."""

    dim: int
    """Width C of a target."""
    digest: str
    """SHA-256 of weights that came from outside, or empty."""
    description: str
    """One sentence for the page."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Targets (B, 1 + N, C), class token first, of whole images (B, 3, S, S) in [0, 1]."""

    def follow(self, student: Encoder, progress: float) -> None:
        """Learn from the student after a step; ``progress`` is the share of the run, in [0, 1]."""

    def checkpoint(self) -> dict[str, Tensor]:
        """What a run has to keep to go on."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``checkpoint`` gave."""


class ClipTeacher(nn.Module):
    """A frozen CLIP vision tower whose every token is projected, not only the class token.

    Parameters
    ----------
    folder
        Folder as ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel`` of
        transformers save it (``config.json`` and the weights). A plain ``CLIPVisionModel`` has no
        projection; its tokens after ``post_layernorm`` are then the targets.
    grid
        Patches along one side of the student. The tower sees images of ``grid`` times its own
        patch size, e.g. 196 px for CLIP-L/14 and 14 patches, so that tokens correspond.

    Attributes
    ----------
    dim
        Width C of a target.
    is_projected
        Whether the folder has a projection.
    digest
        SHA-256 over all weights.

    Raises
    ------
    PretrainedError
        If the folder is missing, is not a CLIP vision model, or lacks weights.

    References
    ----------
    Zhang et al., CAE v2, 2023, section 3.2; Radford et al., CLIP, ICML 2021.
    """

    def __init__(self, folder: Path, *, grid: int) -> None:
        super().__init__()
        model, self.is_projected = _load_clip(folder)
        self.digest = _digest(model)
        self.vision: Any = model.vision_model
        self.projection: nn.Module = model.visual_projection if self.is_projected else nn.Identity()
        config = model.config
        self.dim: int = config.projection_dim if self.is_projected else config.hidden_size
        self.side = grid * config.patch_size
        _resize_positions(self.vision.embeddings, config, grid)
        kind = "with" if self.is_projected else "without"
        self.description = f"Teacher: CLIP {kind} projection, weights {self.digest[:12]}."
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ClipTeacher:
        """Stay in evaluation mode, whatever happens around it."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Targets of whole images.

        Parameters
        ----------
        pixels
            (B, 3, S, S) float in [0, 1]; resized (bicubic, antialiased) to the tower's size.

        Returns
        -------
        Tensor
            (B, 1 + N, C) of length 1 each, class token first.
        """
        if pixels.shape[-1] != self.side:
            pixels = functional.interpolate(
                pixels, (self.side, self.side), mode="bicubic", antialias=True
            ).clamp(0, 1)
        mean = pixels.new_tensor(CLIP_MEAN).view(1, 3, 1, 1)
        std = pixels.new_tensor(CLIP_STD).view(1, 3, 1, 1)
        hidden = self.vision(pixel_values=(pixels - mean) / std).last_hidden_state
        # transformers applies the last norm to the pooled token alone; here every token needs it.
        tokens = self.projection(self.vision.post_layernorm(hidden))
        return functional.normalize(tokens.float(), dim=-1)

    def follow(self, student: Encoder, progress: float) -> None:
        """Stay as it is: this teacher is frozen."""

    def checkpoint(self) -> dict[str, Tensor]:
        """Nothing: the weights lie in the folder, and the digest tells whether they still do."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take back."""


def _load_clip(folder: Path) -> tuple[Any, bool]:
    """Load the vision tower, and tell whether it comes with its projection."""
    if not (folder / "config.json").is_file():
        raise PretrainedError(f"{folder}: no folder of a CLIP model (config.json is missing)")
    # Only here: the import takes seconds, and runs without CLIP need none of it.
    from transformers import CLIPVisionModelWithProjection

    load: Any = CLIPVisionModelWithProjection.from_pretrained
    try:
        model, found = load(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except _UNREADABLE as exc:
        reason = str(exc).strip().partition("\n")[0]
        raise PretrainedError(f"{folder}: no readable CLIP vision model ({reason})") from exc
    missing = set(found["missing_keys"])
    is_projected = "visual_projection.weight" not in missing
    missing -= {"visual_projection.weight"}
    wrong = sorted(missing) or sorted(str(key) for key in found["mismatched_keys"])
    if wrong:
        raise PretrainedError(f"{folder}: {len(wrong)} CLIP weights missing, first {wrong[0]}")
    for name, value in model.named_parameters():
        is_unused = name.startswith("visual_projection.") and not is_projected
        if not is_unused and not torch.isfinite(value).all():
            raise PretrainedError(f"{folder}: {name} holds values that are not finite")
    return model, is_projected


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resize_positions(embeddings: Any, config: Any, grid: int) -> None:
    """Stretch the position table to ``grid`` by ``grid`` patches, bilinearly as CAE v2 does.

    transformers' own stretching is bicubic and would shift every target.
    """
    table = embeddings.position_embedding.weight.detach()
    own = config.image_size // config.patch_size
    if own != grid:
        patches = table[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
        patches = functional.interpolate(
            patches, (grid, grid), mode="bilinear", align_corners=False
        )
        table = torch.cat([table[:1], patches.flatten(2).squeeze(0).T])
    count = len(table)
    embeddings.position_embedding = nn.Embedding(
        len(table), table.shape[1], _weight=table.contiguous()
    )
    embeddings.register_buffer("position_ids", torch.arange(count).unsqueeze(0), persistent=False)
    embeddings.num_patches, embeddings.num_positions = count - 1, count
    embeddings.image_size = grid * config.patch_size


class EmaTeacher(nn.Module):
    """The student's own moving average: targets where no CLIP weights are at hand.

    A target is the mean of the last blocks' tokens, each layer-normalised, made relative to a
    running mean and deviation of every channel over images. Without that last step the cheapest
    answer is one constant vector for all images; a constant has no direction left once the mean
    is taken away. It is a hindrance to collapse, no proof against it: watch ``feature_std``.

    Parameters
    ----------
    student
        Copied at once; later moved towards by ``follow``.
    settings
        Momentum, blocks and the memory of the running mean.
    world
        The processes whose images share one mean and deviation.

    Attributes
    ----------
    dim
        Width C of a target: the encoder's.

    References
    ----------
    Baevski et al., data2vec, ICML 2022, section 3.3 (top K blocks, normalised); Caron et al.,
    DINO, ICCV 2021, section 3.1 (centring); Grill et al., BYOL, NeurIPS 2020 (the schedule).
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, student: Encoder, settings: EmaTeacherSettings, world: World) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student)
        self.settings = settings
        self.world = world
        self.digest = ""
        self.description = "Teacher: the encoder's own moving average (no CLIP weights)."
        self.dim = student.shape.dim
        tokens = 1 + student.shape.grid**2
        self.register_buffer("mean", torch.zeros(tokens, self.dim))
        self.register_buffer("variance", torch.zeros(tokens, self.dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> EmaTeacher:
        """Stay in evaluation mode: a teacher drops no path."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Targets of whole images; moves the running mean and deviation.

        Parameters
        ----------
        pixels
            (B, 3, S, S) float in [0, 1].

        Returns
        -------
        Tensor
            (B, 1 + N, D) of length 1 each, class token first.
        """
        tokens = self._tokens(pixels)
        self._count_in(tokens)
        relative = (tokens - self.mean) / self.variance.sqrt().clamp_min(MIN_DEVIATION)
        return functional.normalize(relative, dim=-1)

    def _count_in(self, tokens: Tensor) -> None:
        """Move the running mean and variance over images towards those of this step."""
        mean = self.world.mean(tokens.mean(0))
        variance = self.world.mean((tokens - mean).square().mean(0))
        # An average over all steps until the momentum's memory is filled.
        keep = min(self.settings.centre_momentum, int(self.steps) / (int(self.steps) + 1))
        between = keep * (1 - keep) * (mean - self.mean).square()
        self.variance.lerp_(variance, 1 - keep).add_(between)
        self.mean.lerp_(mean, 1 - keep)
        self.steps += 1

    def _tokens(self, pixels: Tensor) -> Tensor:
        depth = self.encoder.shape.depth
        taps = tuple(range(depth - self.settings.blocks, depth))
        found = self.encoder(normalise(pixels), taps=taps)
        width = (self.dim,)
        layers = [functional.layer_norm(tap.float(), width) for tap in found.taps]
        patches = torch.stack(layers).mean(0)
        cls = functional.layer_norm(found.cls.float(), width)
        return torch.cat([cls.unsqueeze(1), patches], dim=1)

    @torch.no_grad()
    def follow(self, student: Encoder, progress: float) -> None:
        """Move each weight towards the student's; the momentum is the share that stays."""
        momentum = momentum_at(
            progress, start=self.settings.momentum, end=self.settings.final_momentum
        )
        for mine, theirs in zip(self.encoder.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - momentum)

    def checkpoint(self) -> dict[str, Tensor]:
        """Averaged weights, running mean and variance."""
        return self.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``checkpoint`` gave."""
        self.load_state_dict(state)


def momentum_at(progress: float, *, start: float, end: float) -> float:
    """Momentum after a share ``progress`` of the run, in [0, 1]: half a cosine from start to end.

    Grill et al., BYOL, NeurIPS 2020, section 3.2.
    """
    return end - (end - start) * (math.cos(math.pi * min(progress, 1.0)) + 1) / 2
