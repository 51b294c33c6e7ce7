"""``slide_classification``: whole-slide images, one assessment for each slide of a study. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models.slide.result import SlideAssessment, SlideResult
from models.slide.tiles import SlideManifest
from reports.context import SourceImage
from workers.analysis import Conclusion, Limits, Match, Tools
from workers.errors import NothingDecodable
from workers.slide.assessment import Assessed, assess_slide, not_assessed
from workers.slide.source import FoundSlides
from workers.study import Study

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (PS3.4 Table B.5-1)."""


class SlideClassification:
    """Classes of a slide and the tiles they rest on; see ``models.slide``."""

    name = "slide_classification"
    manifest_type = SlideManifest
    limits = Limits(
        time_s=4 * 3600, memory_bytes=2 * 2**30, concurrency=8, priority=3, is_long=True
    )

    def match(self, study: Study) -> Match:
        """Return the whole-slide instances of a study, labels and overviews included."""
        selected = tuple(
            each for each in study.instances if each.sop_class_uid == WHOLE_SLIDE_IMAGE
        )
        if not selected:
            return Match(instances=(), reason="no whole-slide image")
        return Match(instances=selected, reason=f"{len(selected)} whole-slide instances")

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Assess every slide, one after the other; what is wrong with one stays with it."""
        manifest: SlideManifest = tools.served.manifest
        tools.encoder.require(manifest.encoder_digest)
        found = tools.slides.find([each.path for each in self.match(study).instances])
        assessed = []
        for slide in found.slides:
            tools.checkpoint()
            assessed.append(assess_slide(slide, tools))
        return _conclude(_with_rest(assessed, found), tools)


ANALYSIS = SlideClassification()


def _with_rest(assessed: list[Assessed], found: FoundSlides) -> list[Assessed]:
    """Add what is to be said of instances that belong to no slide.

    Raises
    ------
    NothingDecodable
        Not even a header can be read.
    """
    if not assessed and found.others:
        assessed = [
            not_assessed(
                found.others,
                "no instance says that it belongs to a pyramid (Image Type VOLUME); labels and "
                "overview photographs are not looked at",
            )
        ]
    if not assessed:
        reasons = "; ".join(dict.fromkeys(found.unreadable))
        raise NothingDecodable(reasons or "the study holds no slide")
    if not found.unreadable:
        return assessed
    remark = f"{len(found.unreadable)} of the study's instances cannot be read: " + "; ".join(
        dict.fromkeys(found.unreadable)
    )
    first = assessed[0].assessment
    noted = replace(first, warnings=(*first.warnings, remark))
    return [replace(assessed[0], assessment=noted), *assessed[1:]]


def _conclude(assessed: Sequence[Assessed], tools: Tools) -> Conclusion:
    """Put the slides together; the headline is that of the slide most likely to be positive."""
    manifest: SlideManifest = tools.served.manifest
    slides = tuple(each.assessment for each in assessed)
    skipped = [slide for slide in slides if not slide.is_assessed]
    summary: dict[str, Any] = {"slides": len(slides), "not_assessed": len(skipped)}
    worst = max(
        (slide for slide in slides if slide.is_assessed),
        key=lambda slide: slide.positive_prob or 0.0,
        default=None,
    )
    if worst is not None:
        summary |= _headline(worst, manifest)
    return Conclusion(
        result=SlideResult(
            model=manifest.identity(),
            encoder=tools.encoder.identity,
            labels=manifest.labels,
            positive_labels=manifest.positive_labels,
            threshold=manifest.decision_threshold,
            threshold_meaning=manifest.decision_threshold_meaning,
            slides=slides,
        ),
        sources=tuple(
            SourceImage(header=header, pixels=None) for each in assessed for header in each.headers
        ),
        is_assessed=worst is not None,
        reason=_reason(slides, skipped),
        summary=summary,
    )


def _headline(slide: SlideAssessment, manifest: SlideManifest) -> dict[str, Any]:
    top = slide.probabilities[0]
    return {
        "label": top.label,
        "name": manifest.labels[top.label],
        "probability": round(top.probability, 4),
        "positive": round(slide.positive_prob or 0.0, 4),
        "is_positive": slide.is_positive,
    }


def _reason(slides: Sequence[SlideAssessment], skipped: Sequence[SlideAssessment]) -> str:
    if not skipped:
        return ""
    reasons = dict.fromkeys(reason for slide in skipped for reason in slide.reasons)
    is_all = len(skipped) == len(slides)
    share = "not assessed" if is_all else f"{len(skipped)} of {len(slides)} not assessed"
    return f"{share}: {'; '.join(reasons)}"
