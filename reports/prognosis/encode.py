"""``PrognosisResult`` as DICOM objects: ``sr``, then the page as ``page-1`` and ``overview-1``.

Three carriers, since no viewer shows all: OHIF draws the report's lines on a photograph and shows
the PDF, every viewer of images shows the picture. A report on no image has no region, and another
title, so that viewers print it as text.
"""

from __future__ import annotations

import math

from pydicom import Dataset

from models.prognosis.result import PrognosisResult
from reports import coding
from reports.content_items import (
    Relationship,
    code,
    container,
    number,
    polyline,
    text,
    uid_reference,
)
from reports.context import ReportContext, ReportObject
from reports.document import (
    algorithm,
    image_item,
    measurement_document,
    processing_summary,
)
from reports.encapsulated_pdf import encapsulated_pdf
from reports.errors import ResultError
from reports.outline import margin_mark
from reports.page_pdf import page_pdf
from reports.page_picture import page_picture
from reports.prognosis import codes
from reports.prognosis.sheet import TITLE, prognosis_page
from reports.prognosis.wording import comments, details, meaning
from reports.provenance import series_description
from reports.secondary_capture import secondary_capture
from reports.source import Source, select_sources
from reports.tracking import assign_tracking

_PX_PER_PT = 2.0


def encode_prognosis(result: PrognosisResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a prognosis.

    Raises
    ------
    ResultError
        When the result says nothing and names no reason, or holds an impossible probability.
    SourceError
        When the instance of the result is not among the sources.
    """
    _check(result)
    (source,) = select_sources(context, [result.sop_instance_uid])
    is_image, is_assessed = source.is_image, result.prognosis is not None
    report = measurement_document(
        [_group(result, source, has_region=is_image)],
        sources=[source],
        summary=processing_summary(is_assessed, 1, has_findings=is_assessed),
        model=result.model,
        context=context,
        content="prognosis",
        title=coding.IMAGING_MEASUREMENT_REPORT if is_image else coding.ONCOLOGY_MEASUREMENT_REPORT,
    )
    page = prognosis_page(result)
    pdf = encapsulated_pdf(
        page_pdf(page),
        source=source,
        role="page-1",
        number=1,
        title=TITLE.removeprefix("AI "),
        model=result.model,
        context=context,
    )
    picture = secondary_capture(
        page_picture(page, px_per_pt=_PX_PER_PT),
        source=source,
        index=1,
        model=result.model,
        context=context,
    )
    return [
        ReportObject(role="sr", dataset=report),
        ReportObject(role="page-1", dataset=pdf),
        ReportObject(role="overview-1", dataset=_as_page(picture, context, is_image=is_image)),
    ]


def _check(result: PrognosisResult) -> None:
    if result.prognosis is None:
        if not result.reasons:
            raise ResultError("the result says nothing and gives no reason")
        return
    if result.reasons:
        raise ResultError("the result gives a prognosis and reasons against one")
    for each in result.prognosis.survival:
        if not 0 <= each.low <= each.probability + 1e-6 <= each.high + 2e-6 <= 1 + 3e-6:
            raise ResultError("a probability lies outside its interval")
    if not math.isfinite(result.prognosis.risk_score):
        raise ResultError("the risk score is not finite")


def _as_page(picture: Dataset, context: ReportContext, *, is_image: bool) -> Dataset:
    """A page shows no pixel of its source: it inherits no loss, and has no side."""
    picture.SeriesDescription = series_description("prognosis page", context)
    picture.DerivationDescription = "Page of an AI prognosis, from covariates"
    picture.Laterality = ""
    picture.LossyImageCompression = "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in picture:
            delattr(picture, keyword)
    if not is_image:
        del picture.SourceImageSequence
    return picture


def _group(result: PrognosisResult, source: Source, *, has_region: bool) -> Dataset:
    """One measurement group (TID 1501); its first number carries the region."""
    (tracking,) = assign_tracking([source])
    region = []
    if has_region:
        selected = image_item(source, Relationship.SELECTED_FROM)
        outline = margin_mark(source.shape)
        region = [polyline(coding.AREA_OUTLINE, outline, Relationship.INFERRED_FROM, selected)]
    first, *others = _numbers(result)
    link = Relationship.OBS_CONTEXT
    children = [
        text(coding.TRACKING_IDENTIFIER, tracking.identifier, link),
        uid_reference(coding.TRACKING_UNIQUE_IDENTIFIER, tracking.uid, link),
        *algorithm(result.model),
        number(*first, region or None),
        *[number(*each) for each in others],
        *_evaluations(result),
        *[text(coding.COMMENT, comment) for comment in comments(result)],
        text(codes.ENDPOINT, meaning(result)),
        *_covariates(result),
        *[text(codes.REMARK, remark) for remark in result.remarks],
        text(coding.ASSESSMENT_DETAILS, details(result)),
    ]
    return container(coding.MEASUREMENT_GROUP, children, template="1501")


def _numbers(
    result: PrognosisResult,
) -> list[tuple[coding.Concept, float, coding.Concept]]:
    """Probabilities in percent, then the score, then the intervals; viewers show the first few."""
    prognosis = result.prognosis
    if prognosis is None:
        return [(coding.REASONS_AGAINST, len(result.reasons), coding.REASONS_UNIT)]
    percent = coding.PERCENT
    free_of = result.manifest.free_of
    points = [
        (codes.free_of_concept(free_of, each.years), 100 * each.probability, percent)
        for each in prognosis.survival
    ]
    limits = [
        (codes.limit_concept(each.years, is_upper=is_upper), 100 * value, percent)
        for each in prognosis.survival
        for is_upper, value in ((False, each.low), (True, each.high))
    ]
    return [*points, (codes.RISK_SCORE, prognosis.risk_score, coding.NO_UNITS), *limits]


def _evaluations(result: PrognosisResult) -> list[Dataset]:
    prognosis = result.prognosis
    if prognosis is None:
        kinds = dict.fromkeys(each.kind for each in result.reasons)
        return [
            code(coding.ASSESSMENT_STATUS, coding.NOT_ASSESSED),
            *[code(coding.REASON_AGAINST, codes.REASONS[kind]) for kind in kinds],
        ]
    is_high = prognosis.risk_group == "high risk"
    return [
        code(coding.ASSESSMENT_STATUS, coding.ASSESSED),
        code(codes.RISK_GROUP, coding.HIGH_RISK if is_high else coding.LOW_RISK),
    ]


def _covariates(result: PrognosisResult) -> list[Dataset]:
    lines = [
        f"{line.meaning}: {line.value} (from the {line.source})"
        if line.value
        else f"{line.meaning}: missing"
        for line in result.covariates
    ]
    stage = f"{result.stage} (from the {result.stage_source})" if result.stage else "not stated"
    return [
        *[text(codes.COVARIATE_USED, line) for line in lines],
        text(codes.STAGE, stage),
    ]
