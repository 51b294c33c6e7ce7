"""Typed configuration of the fine-tuning recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.finetuning.networks import Mode
from training.labelled import LabelledSettings


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW with linear warm-up and cosine decay, set at every step."""

    learning_rate: float
    """Peak learning rate of the head."""
    min_learning_rate: float
    """Learning rate of the head at the last step."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    weight_decay: float
    """Decoupled weight decay of matrices."""
    layer_decay: float
    """Factor on the learning rate per layer below the head, in (0, 1]."""
    clip_norm: float
    """Largest norm of the gradient; 0 for no limit."""


@dataclass(frozen=True, kw_only=True)
class RegularisationSettings:
    """What keeps a large network from learning a small cohort by heart."""

    drop_path: float
    """Stochastic depth of the last block, in [0, 1)."""
    mixup: float
    """Beta parameter of mixup; 0 for none."""
    cutmix: float
    """Beta parameter of CutMix; 0 for none."""
    switch: float
    """Probability of CutMix where both are on."""
    smoothing: float
    """Mass of a label spread over all, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Size of the adapters, used in mode ``lora``."""

    rank: int
    """Rank r."""
    alpha: float
    """Scale; the update is (alpha / r) B A."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Everything that decides the weights, apart from encoder and data."""

    recipe: Literal["finetune"]
    seed: int
    """Seed of start values, order, views and mixing."""
    mode: Mode
    """``full``, ``lora`` or ``head``."""
    framing: Literal["reference", "whole"]
    """Framing of validation and test images."""
    epochs: int
    batch_size: int
    """Images of a step."""
    select: Literal["auto", "auroc", "accuracy", "recall"]
    """Validation figure of the epoch that is kept; auto: auroc of two labels, else accuracy."""
    test_views: int
    """Random views averaged for the second answer to the test split; 0 for none."""
    replicates: int
    """Samples of the bootstrap of each figure."""
    optimiser: OptimiserSettings
    regularisation: RegularisationSettings
    lora: LoraSettings
    data: LabelledSettings

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        regular, optimiser = self.regularisation, self.optimiser
        checks = {
            "epochs, batch_size, replicates": min(self.epochs, self.batch_size, self.replicates)
            >= 1,
            "test_views": self.test_views >= 0,
            "learning rates": 0 <= optimiser.min_learning_rate <= optimiser.learning_rate,
            "optimiser.layer_decay": 0 < optimiser.layer_decay <= 1,
            "optimiser.clip_norm": optimiser.clip_norm >= 0,
            "drop_path, smoothing": max(regular.drop_path, regular.smoothing) < 1
            and min(regular.drop_path, regular.smoothing) >= 0,
            "mixup, cutmix": min(regular.mixup, regular.cutmix) >= 0,
            "switch": 0 <= regular.switch <= 1,
            "lora": self.lora.rank >= 1 and self.lora.alpha > 0,
        }
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {'; '.join(wrong)}")
