"""Settings of the recipe of change detection."""

from __future__ import annotations

from dataclasses import dataclass

from models.change.preparation import PreparationSettings
from training.simulate.change import ChangeSimulation


@dataclass(frozen=True, kw_only=True)
class ChangeSettings:
    """Everything that decides the weights, apart from data and code."""

    seed: int
    """Seed of weights, split, order and dropout."""
    train_fraction: float
    """Share of the groups for training, where the table has no split."""
    validation_fraction: float
    """Share for choosing epoch, temperature and threshold; the rest is the test split."""
    sensitivity: float
    """Share of the changed validation pairs that the threshold must find."""
    replicates: int
    """Bootstrap samples behind an interval."""
    hidden: int
    """Width of the fully connected layer."""
    projection: int
    """Features of the contrastive embedding."""
    dropout: float
    """Share of the features dropped in training, in [0, 1)."""
    margin: float
    """Distance that the contrastive loss asks of changed pairs."""
    contrastive_weight: float
    """Weight of the contrastive loss beside the cross-entropy."""
    epochs: int
    """Passes over the training pairs."""
    batch_size: int
    """Pairs of a step."""
    learning_rate: float
    """Peak learning rate."""
    min_learning_rate: float
    """Learning rate of the last step."""
    warmup_epochs: float
    """Epochs of linear warm-up."""
    weight_decay: float
    """Decoupled weight decay of matrices."""
    preparation: PreparationSettings
    simulation: ChangeSimulation

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        checks = {
            "fractions": 0
            < self.train_fraction
            < self.train_fraction + self.validation_fraction
            < 1,
            "sensitivity": 0 < self.sensitivity <= 1,
            "replicates": self.replicates >= 1,
            "sizes": min(self.hidden, self.projection, self.epochs) >= 1 and self.batch_size > 1,
            "dropout": 0 <= self.dropout < 1,
            "margin": self.margin > 0 and self.contrastive_weight >= 0,
            "learning_rate": 0 <= self.min_learning_rate <= self.learning_rate
            and self.learning_rate > 0,
            "preparation.masks": not self.preparation.masks,  # serving has no masks to promise
        }
        wrong = [name for name, is_right in checks.items() if not is_right]
        if wrong:
            raise ValueError(f"impossible values: {', '.join(wrong)}")
