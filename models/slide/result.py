"""Result kind of ``slide_classification``: what is said of each slide of a study."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.results import LabelProbability, ModelIdentity
from models.slide.tiles import SlideGeometry, TileGrid
from models.slide.tissue import Tissue


@dataclass(frozen=True, kw_only=True)
class TopTile:
    """One of the tiles that the classification leans on most."""

    number: int
    """Number of the tile in the grid."""
    pixels: NDArray[np.uint8]
    """(tile_px, tile_px, 3) RGB as the encoder saw it."""


@dataclass(frozen=True, kw_only=True)
class SlideAssessment:
    """What is said of one slide, or why nothing is."""

    sop_instance_uids: tuple[str, ...]
    """The instances of its pyramid that were used, finest level first; at least one."""
    reasons: tuple[str, ...] = ()
    """Readable reasons against assessing the slide; empty when it was assessed."""
    warnings: tuple[str, ...] = ()
    """Readable remarks that do not stop the assessment."""
    geometry: SlideGeometry | None = None
    """Its pyramid; None when it could not be read."""
    overview: NDArray[np.uint8] | None = None
    """(h, w, 3) RGB of the whole slide, some 8 um a pixel; None when it could not be read."""
    tissue: Tissue | None = None
    """What is tissue on the overview; its finding says when there is none."""
    grid: TileGrid | None = None
    """The tiles; None when there are none."""
    probabilities: tuple[LabelProbability, ...] = ()
    """All labels, most probable first, summing to 1; empty when not assessed."""
    positive_prob: float | None = None
    """Summed probability of the positive labels; None when not assessed."""
    is_positive: bool | None = None
    """At or above the manifest's threshold; None when not assessed."""
    attention: NDArray[np.float32] | None = None
    """(N,) raw attention of the grid's tiles; None when not assessed."""
    top: tuple[TopTile, ...] = ()
    """Tiles of highest attention, highest first."""

    @property
    def is_assessed(self) -> bool:
        """True when the slide was classified."""
        return bool(self.probabilities)


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """Result kind of ``slide_classification``: one assessment for each slide of the study."""

    model: ModelIdentity
    encoder: ModelIdentity
    """What turned tiles into embeddings."""
    labels: dict[str, str]
    """Label -> full name."""
    positive_labels: tuple[str, ...]
    """The labels whose probability is compared with the threshold."""
    threshold: float
    """On ``positive_prob``, in (0, 1)."""
    threshold_meaning: str
    """What it was chosen for."""
    slides: tuple[SlideAssessment, ...] = field(default=())
