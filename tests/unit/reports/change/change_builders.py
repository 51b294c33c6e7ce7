"""Synthetic results of change detection; no patient, no file."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.change.pair import Growth
from models.change.result import (
    Alignment,
    ChangeResult,
    Comparison,
    Frames,
    LesionChange,
    NotAssessed,
    Reason,
    TimePoint,
)
from models.results import ModelIdentity
from reports.context import ReportContext, SourceImage
from tests.unit.reports.report_builders import (
    DERMOSCOPIC,
    MODEL,
    STUDY_UID,
    context,
    ellipse,
    header,
    photograph,
    region,
    source,
)

SHAPE = (96, 128)
LESION = "2.25.4711"
CHANGE_MODEL = ModelIdentity(
    name="change_detection",
    version="1.0.0",
    digest="fedcba9876543210" * 4,
    evidence_level="simulated",
    evidence="AUROC 0.73 on 237 simulated pairs, not real ones.",
    licence="CC BY-NC 4.0",
)
NO_PRIOR = NotAssessed(reason=Reason.NO_PRIOR, text="no earlier image of this lesion was found")
GOOD = Alignment(inliers=80, matches=100, residual_px=0.7, overlap=0.9, rotation_deg=4.0)


def uid(number: int) -> str:
    return f"{STUDY_UID}.1.{number}"


def point(number: int, days: int | None = 0, **changes: Any) -> TimePoint:
    """One image of a lesion; its mask is that of ``photograph``."""
    values: dict[str, Any] = {
        "sop_instance_uid": uid(number),
        "days": days,
        "linkage": "tracking_uid",
        "region": region(ellipse(SHAPE)),
        "malignancy_prob": 0.12,
        "is_suspicious": False,
    }
    return TimePoint(**(values | changes))


def frames() -> Frames:
    pixels, mask = photograph(SHAPE), ellipse(SHAPE)
    return Frames(before=pixels, after=pixels, before_mask=mask, after_mask=mask)


def comparison(before: TimePoint, after: TimePoint, **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "before": before,
        "after": after,
        "change_prob": 0.81,
        "is_changed": True,
        "growth": Growth(
            before_px=1000.0,
            after_px=1200.0,
            growth_px=200.0,
            relative=0.2,
            growth_mm2=0.5,
            gained_px=210.0,
            lost_px=10.0,
        ),
        "alignment": GOOD,
        "frames": frames(),
    }
    return Comparison(**(values | changes))


def assessed(number: int = 2, before: int = 1, **changes: Any) -> LesionChange:
    """A lesion of the study (odd study for the earlier image), compared."""
    points = (point(before), point(number, 92, linkage=None))
    return LesionChange(time_points=points, comparison=comparison(*points, **changes))


def not_assessed(number: int = 2, problem: NotAssessed = NO_PRIOR) -> LesionChange:
    return LesionChange(
        time_points=(point(number, linkage=None),), comparison=None, not_assessed=problem
    )


def failed(reason: Reason, text: str = "the images could not be brought together") -> LesionChange:
    """A lesion whose earlier image is there, and cannot be compared."""
    problem = NotAssessed(reason=reason, text=text)
    points = (point(1), point(2, 92, linkage=None))
    pair = Comparison(before=points[0], after=points[1], not_assessed=problem)
    return LesionChange(time_points=points, comparison=pair, not_assessed=problem)


def sequence() -> LesionChange:
    """Four images; the third is suspicious, the fourth changed."""
    points = (
        point(11),
        point(12, 90),
        point(1, 200, malignancy_prob=0.4, is_suspicious=True),
        point(2, 380, linkage=None),
    )
    steady = {"change_prob": 0.2, "is_changed": False, "frames": None}
    steps = (
        comparison(points[0], points[1], **steady),
        comparison(points[1], points[2], **steady),
        comparison(points[2], points[3], frames=None),
        comparison(points[0], points[3], **steady),
    )
    return LesionChange(
        time_points=points, comparison=comparison(points[2], points[3]), sequence=steps
    )


def result(*lesions: LesionChange, **changes: Any) -> ChangeResult:
    values: dict[str, Any] = {
        "model": CHANGE_MODEL,
        "segmentation": MODEL,
        "encoder": MODEL,
        "threshold": 0.52,
        "threshold_meaning": "sensitivity 0.80 for changed validation pairs",
        "operating_point": 0.16,
        "lesions": lesions,
    }
    return ChangeResult(**(values | changes))


def current(number: int = 2, **attributes: Any) -> SourceImage:
    """An image of the study."""
    values: dict[str, Any] = {
        "number": number,
        "shape": SHAPE,
        "sop_class_uid": DERMOSCOPIC,
        "TrackingUID": LESION,
        "TrackingID": "Lesion 7",
        "without": ("ImageLaterality",),
    }
    return source(header(**(values | attributes)))


def earlier(number: int = 1, **attributes: Any) -> SourceImage:
    """An image of an earlier study of the same patient."""
    study = f"{STUDY_UID}.77.{number}"
    values = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "StudyDate": "20241202"}
    return current(number, **(values | attributes))


def change_context(*sources: SourceImage, **changes: Any) -> ReportContext:
    found = sources or (current(), earlier())
    return context(*found, **({"analysis": "change_detection"} | changes))


def black() -> np.ndarray:
    return np.zeros((*SHAPE, 3), np.uint8)
