"""What TBP screening says of a study: the patient's screening, and which tile shows what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.results import ModelIdentity
from models.tbp.lesions import FusionThresholds
from models.tbp.patient import LesionScreening, PatientScreening
from models.tbp.remarks import Remark

MAX_DRAWN = 240
"""Recommended lesions that are shown as pictures; the report lists all."""
MIN_DRAWN = 20
"""Lesions that are shown when none is recommended."""


@dataclass(frozen=True, kw_only=True)
class LesionTile:
    """Where one lesion is seen."""

    sop_instance_uid: str | None
    """The tile that shows it; None for a lesion of which only measurements came."""
    major_axis_mm: float | None
    """Longest diameter that the device measured, in mm; None when unknown."""


@dataclass(frozen=True, kw_only=True)
class TbpResult:
    """The result kind of TBP screening."""

    model: ModelIdentity
    """Heads and trees."""
    encoder: ModelIdentity
    """What turned the tiles into features."""
    thresholds: FusionThresholds
    thresholds_meaning: str
    """What the thresholds were chosen for."""
    screening: PatientScreening
    tiles: Mapping[str, LesionTile]
    """By lesion id, for every lesion of the screening."""
    not_assessed: int
    """Lesions that no module can judge; they are not in the screening."""
    remarks: tuple[Remark, ...]
    """What was not assessed or not used, those of the screening included."""

    @property
    def flagged(self) -> tuple[LesionScreening, ...]:
        """Lesions that at least one module recommends, the one to look at first in front."""
        return tuple(lesion for lesion in self.screening.lesions if lesion.is_flagged)

    @property
    def drawn(self) -> tuple[LesionScreening, ...]:
        """Lesions to show: those recommended, else the first assessed ones of the list."""
        if self.flagged:
            return self.flagged[:MAX_DRAWN]
        assessed = tuple(lesion for lesion in self.screening.lesions if not lesion.excluded)
        return (assessed or self.screening.lesions)[:MIN_DRAWN]
