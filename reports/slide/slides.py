"""A slide result beside its sources, checked: what every object about a slide is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.slide.result import SlideAssessment, SlideResult
from reports.context import ReportContext
from reports.errors import ResultError
from reports.slide.geometry import SlidePlane
from reports.slide.source import SlideSource, select_slides
from reports.tracking import Tracking
from reports.uids import tracking_uid


@dataclass(frozen=True, kw_only=True)
class Slide:
    """One assessment with its sources."""

    number: int
    """Number in the result, 1-based."""
    total: int
    """Number of slides in the result."""
    assessment: SlideAssessment
    sources: tuple[SlideSource, ...]
    """Its instances, finest level first."""

    @property
    def source(self) -> SlideSource:
        """The finest instance: positions are on its total pixel matrix."""
        return self.sources[0]

    @property
    def plane(self) -> SlidePlane | None:
        """Level 0 on the glass; None where the header does not say."""
        return self.source.plane

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of level 0 in pixels, None where nothing says."""
        if self.assessment.geometry is not None:
            return self.assessment.geometry.sizes[0]
        return self.source.size

    @property
    def name(self) -> str:
        """Slide's name in words; the container's identifier stays in its coded place."""
        return f"Slide {self.number}" + (f" of {self.total}" if self.total > 1 else "")

    def tracking(self, part: str, identifier: str) -> Tracking:
        """Identity of the slide or of a part of it, stable over models and generations."""
        header = self.source.header
        uid = tracking_uid(
            str(header.get("IssuerOfPatientID") or ""),
            str(header.get("PatientID") or ""),
            self.source.study_instance_uid,
            f"{self.source.sop_instance_uid}/{part}",
        )
        return Tracking(identifier=identifier, uid=uid)


def read_slides(result: SlideResult, context: ReportContext) -> list[Slide]:
    """The slides of a result with their sources.

    Raises
    ------
    ResultError
        When the result has no slide, names an instance twice, or contradicts itself.
    SourceError
        When an instance of the result is not among the sources.
    """
    if not result.slides:
        raise ResultError("the result has no slide")
    uids = [uid for assessment in result.slides for uid in assessment.sop_instance_uids]
    if len(set(uids)) != len(uids):
        raise ResultError("the result names an instance twice")
    sources = iter(select_slides(context, uids))
    slides = []
    for number, assessment in enumerate(result.slides, start=1):
        if not assessment.sop_instance_uids:
            raise ResultError(f"slide {number} names no instance")
        _check(assessment, number)
        own = tuple(next(sources) for _ in assessment.sop_instance_uids)
        slide = Slide(number=number, total=len(result.slides), assessment=assessment, sources=own)
        slides.append(slide)
    return slides


def _check(assessment: SlideAssessment, number: int) -> None:
    """Refuse an assessment that contradicts itself."""
    values = [line.probability for line in assessment.probabilities]
    if assessment.is_assessed:
        if assessment.positive_prob is None or assessment.is_positive is None:
            raise ResultError(f"slide {number} has probabilities but no call")
        values.append(assessment.positive_prob)
    elif assessment.positive_prob is not None or assessment.is_positive is not None:
        raise ResultError(f"slide {number} was not assessed, but has a call")
    if not all(math.isfinite(value) and -1e-6 <= value <= 1 + 1e-6 for value in values):
        raise ResultError(f"slide {number} has a probability outside [0, 1]")
    _check_attention(assessment, number)


def _check_attention(assessment: SlideAssessment, number: int) -> None:
    attention, grid = assessment.attention, assessment.grid
    if attention is None:
        if assessment.top:
            raise ResultError(f"slide {number} has top tiles but no attention")
        return
    if grid is None or assessment.geometry is None or attention.shape != (len(grid),):
        raise ResultError(f"slide {number}: attention {attention.shape} does not fit its tiles")
    if not np.isfinite(attention).all():
        raise ResultError(f"slide {number} has attention that is not finite")
    numbers = [tile.number for tile in assessment.top]
    if len(set(numbers)) != len(numbers) or not all(0 <= n < len(grid) for n in numbers):
        raise ResultError(f"slide {number} has top tiles that are not in its grid")
