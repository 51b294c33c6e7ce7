"""Settings of the recipe of TBP screening."""

from __future__ import annotations

from dataclasses import dataclass

from models.tbp.lesions import TileFilters, UglyDucklingSettings
from training.simulate.tbp import TbpSimulation
from training.tbp.cohort import TbpColumns
from training.tbp.thresholds import TreeSettings


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How the linear heads are fitted."""

    penalty: float
    """Weight of half the squared norm, on standardised features."""
    balance: float
    """Class weights are counts to the power ``-balance``: 0 natural, 1 balanced."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.penalty <= 0 or not 0 <= self.balance <= 1:
            raise ValueError("penalty must be positive, balance in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class TbpSettings:
    """Everything that decides the weights, apart from data and code."""

    seed: int
    """Seed of the split and the trees."""
    train_fraction: float
    """Share of the patients for training, where the table has no split."""
    validation_fraction: float
    """Share for choosing thresholds; the rest is the test split."""
    sensitivity: float
    """Share of the malignant validation lesions that at least one module must find."""
    replicates: int
    """Bootstrap samples behind an interval."""
    columns: TbpColumns
    filters: TileFilters
    ugly_duckling: UglyDucklingSettings
    heads: HeadSettings
    trees: TreeSettings
    simulation: TbpSimulation

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not 0 < self.train_fraction < self.train_fraction + self.validation_fraction < 1:
            raise ValueError("train_fraction and validation_fraction must leave a test split")
        if not 0 < self.sensitivity <= 1 or self.replicates < 1:
            raise ValueError("sensitivity must lie in (0, 1], replicates be positive")
