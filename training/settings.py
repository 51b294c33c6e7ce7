"""Typed configuration of a training run, read from one TOML file.

Every value that changes the weights is here, so the file together with the commit and the data
reproduces them. Paths are not: they are given on the command line.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from models.shapes import BackboneShape, DiagnosisShape, EfficientNetLiteShape
from models.strict import StrictError, build
from training.errors import SettingsError
from training.runs import settings_digest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which table, and how it is split."""

    image_column: str
    """Column with the image's file name without suffix."""
    label_column: str
    """Column with the diagnosis."""
    group_column: str
    """Column that keeps images of one lesion (or patient) together."""
    label_map: dict[str, str]
    """Value of the label column -> label of the model."""
    train_fraction: float
    """Share of the groups for training, in (0, 1)."""
    validation_fraction: float
    """Share of the groups for validation, in (0, 1); the rest is the test split."""
    split_seed: int
    """Seed of the split."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Size and regularisation of the network."""

    backbone: BackboneShape
    """What turns an image into features."""
    start: Literal["random", "imagenet"]
    """Start weights of the backbone; ``imagenet`` exists for EfficientNet-Lite."""
    frozen_stages: int
    """Stages of the backbone, from the input on, that keep their start weights."""
    decoder_width: int
    """Channels of the lesion decoder."""
    drop_path: float
    """Stochastic depth of the last block, in [0, 1)."""
    dropout: float
    """Dropout before the classifier, in [0, 1)."""

    def __post_init__(self) -> None:
        """Refuse start weights that do not exist."""
        if self.start == "imagenet" and not isinstance(self.backbone, EfficientNetLiteShape):
            raise ValueError("there are ImageNet start weights for EfficientNet-Lite only")
        if self.start == "random" and self.frozen_stages:
            raise ValueError("stages with random weights cannot be frozen")

    def shape(self, num_labels: int) -> DiagnosisShape:
        """Return the network's shape for ``num_labels`` labels."""
        return DiagnosisShape(
            backbone=self.backbone, num_labels=num_labels, decoder_width=self.decoder_width
        )


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """A number of epochs at one image size (progressive resizing)."""

    epochs: int
    """Epochs of the stage."""
    size: int
    """Side of the training images in pixels, a multiple of 32."""


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW with linear warm-up and cosine decay over the whole run."""

    batch_size: int
    """Images of a step."""
    learning_rate: float
    """Peak learning rate of the heads."""
    backbone_rate: float
    """Learning rate of the backbone over that of the heads, in (0, 1]."""
    min_learning_rate: float
    """Learning rate of the last step."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    weight_decay: float
    """Decoupled weight decay of matrices; none on vectors, biases and tokens."""
    clip_norm: float
    """Largest norm of the gradient."""
    ema_decay: float
    """Decay of the exponential moving average of the weights, per step."""
    label_smoothing: float
    """Mass spread over all labels, in [0, 1)."""
    balance: float
    """Sampling weight of a label is its count ** -balance: 0 natural, 1 balanced."""
    lesion_weight: float
    """Weight of the lesion loss beside the classification loss."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Strength of the augmentation; each is a half-range or a probability."""

    rotation: float
    """Largest rotation in degrees."""
    scale: float
    """Largest factor of zoom, in or out, at least 1."""
    aspect: float
    """Largest factor of stretch, at least 1."""
    shift: float
    """Largest shift as a fraction of the side."""
    brightness: float
    """Largest relative change of brightness."""
    contrast: float
    """Largest relative change of contrast."""
    saturation: float
    """Largest relative change of saturation."""
    tint: float
    """Largest relative gain of one colour channel."""
    gamma: float
    """Largest factor of gamma, at least 1."""
    hair_prob: float
    """Probability of drawn hair-like lines."""
    vignette_prob: float
    """Probability of dark corners, as a dermatoscope's tube makes them."""
    blur_prob: float
    """Probability of a Gaussian blur."""
    erase_prob: float
    """Probability of one erased rectangle."""
    mixup_prob: float
    """Probability that a batch is mixed (Zhang et al., ICLR 2018)."""
    mixup_alpha: float
    """Both parameters of the Beta distribution of the mixing share."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides the weights, apart from data and code."""

    recipe: str
    """Name of the recipe, ``diagnosis``."""
    seed: int
    """Seed of weights, order and augmentation."""
    data: DataSettings
    network: NetworkSettings
    stages: tuple[StageSettings, ...]
    optimiser: OptimiserSettings
    augment: AugmentSettings

    def __post_init__(self) -> None:
        """Refuse values no run can use."""
        checks = {
            "data fractions": self.data.train_fraction > 0
            and self.data.validation_fraction > 0
            and self.data.train_fraction + self.data.validation_fraction < 1,
            "data.label_map": bool(self.data.label_map),
            "stages": bool(self.stages)
            and all(s.epochs > 0 and s.size > 0 and s.size % 32 == 0 for s in self.stages),
            "optimiser.batch_size": self.optimiser.batch_size > 1,
            "optimiser.learning_rate": self.optimiser.learning_rate > 0,
            "optimiser.ema_decay": 0 <= self.optimiser.ema_decay < 1,
            "optimiser.label_smoothing": 0 <= self.optimiser.label_smoothing < 1,
            "network.drop_path": 0 <= self.network.drop_path < 1,
            "network.dropout": 0 <= self.network.dropout < 1,
            "augment factors": min(self.augment.scale, self.augment.aspect, self.augment.gamma)
            >= 1,
        }
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {', '.join(wrong)}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the logits: first appearance in the label map."""
        return tuple(dict.fromkeys(self.data.label_map.values()))

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def digest(self) -> str:
        """Return the SHA-256 of the settings: a run resumes only under the same one."""
        return settings_digest(self)


def read_toml(path: Path, kind: type[T]) -> T:
    """Read a configuration file strictly as ``kind``.

    Raises
    ------
    SettingsError
        If the file cannot be read, or has unknown, missing, mistyped or impossible values.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    try:
        return build(kind, content, "settings")
    except StrictError as exc:
        raise SettingsError(f"{path}: {exc}") from exc


def read_settings(path: Path) -> TrainingSettings:
    """Read and check a configuration file of the diagnosis recipe.

    Raises
    ------
    SettingsError
        If the file cannot be read, or has unknown, missing or mistyped values.
    """
    return read_toml(path, TrainingSettings)


def settings_from_dict(content: dict[str, Any]) -> TrainingSettings:
    """Build settings from nested plain values; the inverse of ``dataclasses.asdict``.

    Raises
    ------
    SettingsError
        If a value is unknown, missing or of the wrong type.
    """
    try:
        return build(TrainingSettings, content, "settings")
    except StrictError as exc:
        raise SettingsError(str(exc)) from exc
