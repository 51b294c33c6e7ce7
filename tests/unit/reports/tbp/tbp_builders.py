"""Screenings drawn for the report tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import report_builders as builders
from pydicom import Dataset

from models.results import ModelIdentity
from models.tbp.lesions import FusionThresholds, Photodamage, Reason
from models.tbp.patient import LesionScreening, PatientScreening
from models.tbp.remarks import Remark
from models.tbp.result import LesionTile, TbpResult
from reports.context import ReportContext, ReportObject, SourceImage
from reports.encode import encode

MODEL = ModelIdentity(
    name="tbp_screening",
    version="1.2.3",
    digest="ab" * 32,
    evidence_level="simulated",
    evidence="Sensitivity 0.76 on 555 lesions of 28 simulated patients.",
    licence="CC BY-NC 4.0",
)
ENCODER = ModelIdentity(
    name="encoder",
    version="1.0.0",
    digest="cd" * 32,
    evidence_level="none",
    evidence="features only",
    licence="Apache-2.0",
)
GRADED = Photodamage(grade="moderate", probabilities=(0.2, 0.7, 0.1), tiles=4)


def lesion(rank: int, *reasons: Reason, **changes: Any) -> LesionScreening:
    values: dict[str, Any] = {
        "lesion_id": f"L{rank:03d}",
        "rank": rank,
        "location": "Left Arm",
        "reasons": reasons,
        "risk_prob": 0.71,
        "trees_prob": 0.42,
        "distance": 9.0,
        "nevus_prob": 0.83,
        "missing": (),
        "excluded": (),
    }
    return LesionScreening(**(values | changes))


def result(*lesions: LesionScreening, **changes: Any) -> TbpResult:
    assessed = [each for each in lesions if not each.excluded]
    screening: dict[str, Any] = {
        "lesions": lesions,
        "assessed": len(assessed),
        "flagged": sum(each.is_flagged for each in lesions),
        "flagged_by": {"risk": 1, "ugly duckling": 1},
        "excluded_by": {"nevi_confidence": 1} if len(assessed) < len(lesions) else {},
        "nevus_count": {"Torso Back": 5, "Left Arm": 2, "Unknown": 1},
        "photodamage": GRADED,
        "ugly_duckling_cutoff": 8.0,
        "remarks": (),
    }
    screening |= {key: changes.pop(key) for key in tuple(changes) if key in screening}
    values: dict[str, Any] = {
        "model": MODEL,
        "encoder": ENCODER,
        "thresholds": FusionThresholds(risk=0.65, trees=0.47),
        "thresholds_meaning": "sensitivity 0.90 of the three modules together",
        "screening": PatientScreening(**screening),
        "tiles": {
            each.lesion_id: LesionTile(
                sop_instance_uid=None if each.risk_prob is None else uid(each.rank),
                major_axis_mm=3.25,
            )
            for each in lesions
        },
        "not_assessed": 0,
        "remarks": (Remark(code="UNMEASURED", text="3 lesions without measurements"),),
    }
    return TbpResult(**(values | changes))


def uid(rank: int) -> str:
    return f"{builders.STUDY_UID}.1.{rank}"


def header(rank: int, **changes: Any) -> Dataset:
    values: dict[str, Any] = {"TrackingID": f"L{rank:03d}", "TrackingUID": f"2.25.{rank}"}
    return builders.header(number=rank, shape=(100, 120), **(values | changes))


def sources(count: int, **changes: Any) -> tuple[SourceImage, ...]:
    pixels = np.full((100, 120, 3), 150, np.uint8)
    pixels[30:70, 40:80] = (90, 60, 40)
    return tuple(
        SourceImage(header=header(rank, **changes), pixels=pixels) for rank in range(1, count + 1)
    )


def encoded(
    given: TbpResult, images: tuple[SourceImage, ...] | None = None, **context: Any
) -> list[ReportObject]:
    images = images or sources(len(given.screening.lesions))
    values: dict[str, Any] = {"analysis": "tbp_screening"}
    made: ReportContext = builders.context(*images, **(values | context))
    return encode(given, made)


def by_role(objects: list[ReportObject]) -> dict[str, Dataset]:
    return {each.role: each.dataset for each in objects}
