"""What TBP screening says of a study: the patient's screening, and which tile shows what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.results import ModelIdentity
from models.tbp.lesions import FusionThresholds
from models.tbp.patient import LesionScreening, PatientScreening
from models.tbp.remarks import Remark


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
    remarks: tuple[Remark, ...]
    """What was not assessed or not used, those of the screening included."""

    @property
    def flagged(self) -> tuple[LesionScreening, ...]:
        """Lesions that at least one module recommends, the one to look at first in front."""
        return tuple(lesion for lesion in self.screening.lesions if lesion.is_flagged)
