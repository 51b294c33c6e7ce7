"""Short-term change of one lesion: how much it grew, and how likely it changed.

The images are made comparable by ``models.change.preparation``; whether the lesion changed is for
the network that sees both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.change.preparation import PreparationSettings
from models.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a lesion's area changed."""

    before_px: float
    """Area before, in square pixels of the first image."""
    after_px: float
    """Area after, in square pixels of the first image."""
    growth_px: float
    """Difference."""
    relative: float | None
    """Difference over the area before; None when that is zero."""
    growth_mm2: float | None
    """Difference in mm²; None when the first image's spacing is unknown."""
    gained_px: float | None
    """Area that belongs to the lesion only after; None without a registration."""
    lost_px: float | None
    """Area that belonged to the lesion only before; None without a registration."""


def measure_growth(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    source_matrix: NDArray[np.float64] | None,
    *,
    spacing_mm: tuple[float | None, float | None] = (None, None),
) -> Growth | None:
    """Compare a lesion's area at two times.

    Parameters
    ----------
    before, after
        (H, W) bool masks of the two source images.
    source_matrix
        ``PreparedPair.source_matrix``; None when the images were not registered.
    spacing_mm
        Millimetres a pixel of each image.

    Returns
    -------
    Growth or None
        None when nothing gives the images' common scale: neither a registration nor both
        spacings.

    Notes
    -----
    The area after is the mask's own times the motion's scale, so that a lesion that leaves the
    first image's frame is not cut there; gained and lost areas are counted inside that frame.
    """
    first_mm, second_mm = spacing_mm
    gained = lost = None
    if first_mm is not None and second_mm is not None:
        area_ratio = (second_mm / first_mm) ** 2
    elif source_matrix is not None:
        area_ratio = abs(float(np.linalg.det(source_matrix[:, :2])))
    else:
        return None
    if source_matrix is not None:
        moved = cv2.warpAffine(
            after.astype(np.uint8),
            source_matrix,
            (before.shape[1], before.shape[0]),
            flags=cv2.INTER_NEAREST,
        )
        gained = float(np.count_nonzero((moved > 0) & ~before))
        lost = float(np.count_nonzero((moved == 0) & before))
    before_px = float(np.count_nonzero(before))
    after_px = float(np.count_nonzero(after)) * area_ratio
    growth = after_px - before_px
    return Growth(
        before_px=before_px,
        after_px=after_px,
        growth_px=growth,
        relative=growth / before_px if before_px else None,
        growth_mm2=None if first_mm is None else growth * first_mm**2,
        gained_px=gained,
        lost_px=lost,
    )


def change_probability(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Calibrated probability of change, (B,) in [0, 1], from the network's logits (B,).

    Examples
    --------
    >>> change_probability(np.array([0.0, 800.0, -800.0]), 1.5).tolist()
    [0.5, 1.0, 0.0]
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive")
    # Written with tanh: exp would overflow for large logits.
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(logits, np.float64) / (2 * temperature))))


@dataclass(frozen=True, kw_only=True)
class ChangeManifest(Manifest):
    """What travels with the weights of change detection."""

    embedding_dim: int
    """Features of an embedding."""
    hidden: int
    """Width of the fully connected layer."""
    projection: int
    """Features of the contrastive embedding."""
    encoder_digest: str
    """SHA-256 of the encoder whose embeddings the head was trained on."""
    temperature: float
    """Divides the logit, positive."""
    threshold: float
    """Probability in (0, 1) from which a lesion is called changed."""
    threshold_meaning: str
    """What the threshold was chosen for."""
    margin: float
    """Distance that the contrastive loss asked of changed pairs."""
    preparation: PreparationSettings
    """Steps that the pair must go through."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        return {
            "embedding_dim": lambda: self.embedding_dim > 0,
            "encoder_digest": lambda: (
                len(self.encoder_digest) == 64
                and set(self.encoder_digest) <= set("0123456789abcdef")
            ),
            "hidden": lambda: self.hidden > 0,
            "projection": lambda: self.projection > 0,
            "temperature": lambda: 0 < self.temperature < math.inf,
            "threshold": lambda: 0 < self.threshold < 1,
            "margin": lambda: 0 < self.margin < math.inf,
        }
