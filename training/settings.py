"""Typed configuration of a training run, read from one TOML file.

Every value that changes the weights is here, so the file together with the commit and the data
reproduces them. Paths are not: they are given on the command line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.architectures.diagnosis import DiagnosisShape
from models.architectures.encoder import EncoderShape
from training.errors import SettingsError


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

    dim: int
    """Token width."""
    depth: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    prior_width: int
    """Channels of the spatial prior at 1/4 size."""
    decoder_width: int
    """Channels of the lesion decoder."""
    taps: tuple[int, ...]
    """Blocks read by the decoder beside the last."""
    drop_path: float
    """Stochastic depth of the last block, in [0, 1)."""
    dropout: float
    """Dropout before the classifier, in [0, 1)."""

    def shape(self, num_labels: int) -> DiagnosisShape:
        """Return the network's shape for ``num_labels`` labels."""
        return DiagnosisShape(
            encoder=EncoderShape(dim=self.dim, depth=self.depth, heads=self.heads),
            num_labels=num_labels,
            prior_width=self.prior_width,
            decoder_width=self.decoder_width,
            taps=self.taps,
        )


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """A number of epochs at one image size (progressive resizing)."""

    epochs: int
    """Epochs of the stage."""
    size: int
    """Side of the training images in pixels, a multiple of 16."""


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW with linear warm-up and cosine decay over the whole run."""

    batch_size: int
    """Images of a step."""
    learning_rate: float
    """Peak learning rate."""
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
            and all(s.epochs > 0 and s.size > 0 and s.size % 16 == 0 for s in self.stages),
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
            raise SettingsError(f"impossible values: {', '.join(wrong)}")

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
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_settings(path: Path) -> TrainingSettings:
    """Read and check a configuration file.

    Raises
    ------
    SettingsError
        If the file cannot be read, or has unknown, missing or mistyped values.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    return settings_from_dict(content)


def settings_from_dict(content: dict[str, Any]) -> TrainingSettings:
    """Build settings from nested plain values; the inverse of ``dataclasses.asdict``.

    Raises
    ------
    SettingsError
        If a value is unknown, missing or of the wrong type.
    """
    built = _build(TrainingSettings, content, "settings")
    if not isinstance(built, TrainingSettings):
        raise SettingsError("settings must be a table")
    try:
        built.network.shape(len(built.labels))
    except ValueError as exc:
        raise SettingsError(f"network: {exc}") from exc
    return built


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn plain TOML values into ``kind``, strictly."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{where} must be a list")
        return tuple(_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{where} must be a table")
        return {str(k): _build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{where} must be {kind.__name__}")
    return value


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be a table")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    unknown, missing = sorted(set(value) - set(names)), sorted(set(names) - set(value))
    if unknown or missing:
        raise SettingsError(f"{where}: unknown {unknown}, missing {missing}")
    return kind(**{n: _build(hints[n], value[n], f"{where}.{n}") for n in names})
