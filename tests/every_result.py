"""Every kind of result, assessed and not, as objects: what the tests of all kinds go through.

A new result kind is one function and one line in ``CASES``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from models.diagnosis import state_lesions
from models.quality import Remark
from models.results import DiagnosisResult, LabelSet
from models.tbp.result import TbpResult
from reports.encode import PredecessorReport, ReportContext, ReportObject, SourceImage, encode
from tests.unit.reports import report_builders as builders
from tests.unit.reports.prognosis import prognosis_builders
from tests.unit.reports.slide import slide_builders
from tests.unit.workers.change import change_fakes
from tests.unit.workers.tbp import tbp_world

PREDECESSOR = PredecessorReport(
    study_instance_uid="",  # replaced by the study's own
    series_instance_uid="2.25.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
    sop_instance_uid="2.25.2",
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """The objects of one result, with what they were made of."""

    objects: tuple[ReportObject, ...]
    result: object
    context: ReportContext
    is_assessed: bool


def _made(
    result: object, sources: tuple[SourceImage, ...], analysis: str, *, is_assessed: bool
) -> Made:
    """Encode as the second generation, which supersedes a report of the first."""
    study = str(sources[0].header.StudyInstanceUID)
    context = ReportContext(
        sources=sources,
        generation=2,
        analysis=analysis,
        created_at=builders.CREATED_AT,
        software_version="0.4.0",
        device_serial="installation-1",
        predecessors=(replace(PREDECESSOR, study_instance_uid=study),),
    )
    return Made(
        objects=tuple(encode(result, context)),
        result=result,
        context=context,
        is_assessed=is_assessed,
    )


def diagnosis() -> Made:
    """A clinical and a dermoscopic image of one lesion, and one that cannot be assessed."""
    tracked = {"TrackingID": "Back 3", "TrackingUID": "1.2.3.4"}
    headers = [
        builders.header(number=1, **tracked),
        builders.header(
            number=2, sop_class_uid=builders.DERMOSCOPIC, spacing=[0.02, 0.02], **tracked
        ),
        builders.header(number=3),
    ]
    images = (
        replace(
            builders.assessment(warnings=(Remark.NOT_DERMOSCOPIC,)),
            is_dermoscopic=False,
            lesion="1.2.3.4",
            label_set=LabelSet(labels=("MEL", "BCC", "NV", "BKL"), coverage=0.9, largest=3),
        ),
        replace(
            builders.assessment(number=2),
            lesion="1.2.3.4",
            label_set=LabelSet(labels=("MEL", "NV"), coverage=0.9, largest=3),
        ),
        builders.not_assessed(number=3),
    )
    result = builders.result(*images, lesions=state_lesions(images))
    sources = tuple(builders.source(header) for header in headers)
    return _made(result, sources, "diagnosis", is_assessed=True)


def diagnosis_not_assessed() -> Made:
    """One image that cannot be assessed, of a model without sets."""
    result: DiagnosisResult = builders.result(builders.not_assessed())
    sources = (builders.source(builders.header()),)
    return _made(result, sources, "diagnosis", is_assessed=False)


def tbp() -> Made:
    """Twenty-four tiles with measurements, two of them flagged."""
    numbers = range(1, 25)
    rows = [{"TrackingID": f"L{n}", **tbp_world.measured()} for n in numbers]
    headers = [tbp_world.tile_header(n) for n in numbers]
    found = tbp_world.screen(headers, tbp_world.table(rows))
    assert isinstance(found.result, TbpResult)
    return _made(found.result, found.sources, "tbp_screening", is_assessed=found.is_assessed)


def change() -> Made:
    """One lesion, changed since an earlier study."""
    before = {2: (change_fakes.earlier(1),)}
    pictures = {1: change_fakes.lesion(), 2: change_fakes.moved(change_fakes.lesion())}
    found = change_fakes.run(pictures, change_fakes.row(2), before=before)
    return _made(found.result, found.sources, "change_detection", is_assessed=found.is_assessed)


def change_not_assessed() -> Made:
    """A lesion without an earlier image."""
    found = change_fakes.run({2: change_fakes.lesion()}, change_fakes.row(2))
    return _made(found.result, found.sources, "change_detection", is_assessed=found.is_assessed)


def slide() -> Made:
    """A classified slide."""
    result = slide_builders.result(slide_builders.assessed())
    sources = slide_builders.context(*slide_builders.headers()).sources
    return _made(result, sources, "slide_classification", is_assessed=True)


def slide_not_assessed() -> Made:
    """A slide without tissue."""
    result = slide_builders.result(slide_builders.not_assessed())
    sources = slide_builders.context(*slide_builders.headers()).sources
    return _made(result, sources, "slide_classification", is_assessed=False)


def prognosis() -> Made:
    """A melanoma with all its covariates."""
    sources = (SourceImage(header=builders.header(), pixels=None),)
    return _made(prognosis_builders.assessed(), sources, "prognosis", is_assessed=True)


def prognosis_not_assessed() -> Made:
    """A melanoma of unknown stage."""
    sources = (SourceImage(header=builders.header(), pixels=None),)
    return _made(prognosis_builders.not_assessed(), sources, "prognosis", is_assessed=False)


CASES: dict[str, Callable[[], Made]] = {
    "diagnosis": diagnosis,
    "diagnosis, not assessed": diagnosis_not_assessed,
    "tbp_screening": tbp,
    "change_detection": change,
    "change_detection, not assessed": change_not_assessed,
    "slide_classification": slide,
    "slide_classification, not assessed": slide_not_assessed,
    "prognosis": prognosis,
    "prognosis, not assessed": prognosis_not_assessed,
}


@functools.cache
def made(case: str) -> Made:
    """The objects of a case, made once."""
    return CASES[case]()
