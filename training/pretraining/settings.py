"""Configuration of a pretraining run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.architectures.cae import RegressorShape
from models.shapes import EncoderShape


@dataclass(frozen=True, kw_only=True)
class MaskingSettings:
    """How patches are hidden from the encoder."""

    mode: Literal["block", "random"]
    """Rectangles, or patches one by one."""
    count: int
    """Masked patches of an image, exactly; at least 1 and fewer than all."""
    min_block: int
    """Patches of the smallest rectangle; 16 in the papers, for 14 x 14 patches."""


@dataclass(frozen=True, kw_only=True)
class ClipTeacherSettings:
    """A frozen CLIP vision tower; its folder is given on the command line."""

    kind: Literal["clip"]


@dataclass(frozen=True, kw_only=True)
class EmaTeacherSettings:
    """The encoder's own moving average, where no CLIP weights are at hand."""

    kind: Literal["ema"]
    momentum: float
    """Share of the average that a step keeps, at the start; in [0, 1)."""
    final_momentum: float
    """The same at the end; it rises along half a cosine. In [momentum, 1]."""
    blocks: int
    """Last blocks whose patch tokens are averaged (data2vec's top K), from 1 to the depth."""
    centre_momentum: float
    """Share of the running mean and deviation of targets that a step keeps, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW with linear warm-up and cosine decay."""

    batch_size: int
    """Images of a step over all processes together; a multiple of their number."""
    epochs: int
    """Passes over the images."""
    learning_rate: float
    """Peak learning rate."""
    min_learning_rate: float
    """Learning rate of the last step."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    weight_decay: float
    """Decoupled weight decay of matrices; none on vectors, biases and tokens."""
    betas: tuple[float, ...]
    """Both decays of AdamW."""
    clip_norm: float
    """Largest norm of the gradient."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What is done to an image before it is masked."""

    min_crop: float
    """Smallest share of the image's area that a crop keeps, in (0, 1]."""
    flip_prob: float
    """Probability of a horizontal flip."""
    vertical_flip_prob: float
    """Probability of a vertical flip; 0 in the papers, 0.5 suits dermoscopy."""
    jitter: float
    """Largest relative change of brightness, contrast and saturation, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Everything that decides the weights, apart from data, teacher weights and code."""

    seed: int
    """Seed of weights, order, crops and masks."""
    precision: Literal["bf16", "float32"]
    """``bf16`` is autocast; weights and optimiser stay float32."""
    layer_scale: float
    """Start value of every layer scale."""
    drop_path: float
    """Stochastic depth of the last block, in [0, 1)."""
    encoder: EncoderShape
    regressor: RegressorShape
    masking: MaskingSettings
    teacher: ClipTeacherSettings | EmaTeacherSettings
    optimiser: OptimiserSettings
    augment: AugmentSettings

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        optimiser, augment = self.optimiser, self.augment
        checks = {
            "seed": self.seed >= 0,
            "layer_scale": self.layer_scale > 0,
            "drop_path": 0 <= self.drop_path < 1,
            "regressor.heads": self.regressor.heads <= self.encoder.dim,
            "masking.count": 1 <= self.masking.count < self.encoder.grid**2,
            "masking.min_block": self.masking.min_block >= 1,
            "optimiser.batch_size": optimiser.batch_size >= 1,
            "optimiser.epochs": optimiser.epochs >= 1,
            "optimiser.learning_rate": optimiser.learning_rate > 0,
            "optimiser.min_learning_rate": 0
            <= optimiser.min_learning_rate
            <= optimiser.learning_rate,
            "optimiser.warmup_epochs": 0 <= optimiser.warmup_epochs <= optimiser.epochs,
            "optimiser.weight_decay": optimiser.weight_decay >= 0,
            "optimiser.betas": len(optimiser.betas) == 2
            and all(0 <= beta < 1 for beta in optimiser.betas),
            "optimiser.clip_norm": optimiser.clip_norm > 0,
            "augment.min_crop": 0 < augment.min_crop <= 1,
            "augment.flip_prob": 0 <= augment.flip_prob <= 1,
            "augment.vertical_flip_prob": 0 <= augment.vertical_flip_prob <= 1,
            "augment.jitter": 0 <= augment.jitter < 1,
        } | self._teacher_checks()
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {', '.join(wrong)}")

    def _teacher_checks(self) -> dict[str, bool]:
        teacher = self.teacher
        if isinstance(teacher, ClipTeacherSettings):
            return {}
        return {
            "teacher.momentum": 0 <= teacher.momentum < 1,
            "teacher.final_momentum": teacher.momentum <= teacher.final_momentum <= 1,
            "teacher.blocks": 1 <= teacher.blocks <= self.encoder.depth,
            "teacher.centre_momentum": 0 <= teacher.centre_momentum < 1,
        }
