"""``SlideResult`` as DICOM: one measurement report, and for each slide a mask, a map, a picture."""

from __future__ import annotations

from pydicom import Dataset

from models.slide.result import SlideResult
from reports import coding
from reports.coding import Concept
from reports.context import ReportContext, ReportObject
from reports.document import measurement_document
from reports.provenance import series_description
from reports.secondary_capture import secondary_capture
from reports.slide.attention_map import attention_parametric_map, rank_matrix
from reports.slide.report import slide_groups, subject
from reports.slide.sheet import draw_sheet
from reports.slide.slides import Slide, read_slides
from reports.slide.tissue_mask import tissue_matrix, tissue_segmentation


def encode_slides(result: SlideResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a slide result: ``sr``, then ``seg-N``, ``map-N`` and ``qc-N`` by slide.

    Raises
    ------
    ResultError
        When the result has no slide, names an instance twice, or holds a value out of range.
    SourceError
        When an instance of the result is not among the sources.

    Notes
    -----
    Mask and map need the slide's place on the glass, and are left out where its header does not
    give it; report and picture are always there.
    """
    slides = read_slides(result, context)
    objects = [ReportObject(role="sr", dataset=slide_report(slides, result, context))]
    for slide in slides:
        mask, ranks = slide_mask(slide, result, context), slide_map(slide, result, context)
        if mask is not None:
            objects.append(ReportObject(role=f"seg-{slide.number}", dataset=mask))
        if ranks is not None:
            objects.append(ReportObject(role=f"map-{slide.number}", dataset=ranks))
        picture = _picture(slide, result, context)
        objects.append(ReportObject(role=f"qc-{slide.number}", dataset=picture))
    return objects


def slide_report(slides: list[Slide], result: SlideResult, context: ReportContext) -> Dataset:
    """The one measurement report of a study's slides, about the first one's specimen."""
    about = slides[0].source
    return measurement_document(
        [group for slide in slides for group in slide_groups(slide, result, about)],
        sources=[source for slide in slides for source in slide.sources],
        summary=_summary(slides),
        model=result.model,
        context=context,
        content="slide report",
        subject=subject(about),
    )


def slide_mask(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset | None:
    """The tissue as a Segmentation; None without tissue or without a place on the glass."""
    tissue, plane = slide.assessment.tissue, slide.plane
    if tissue is None or plane is None or not tissue.mask.any():
        return None
    matrix, factor = tissue_matrix(tissue, plane.size)
    return tissue_segmentation(
        matrix,
        factor,
        source=slide.source,
        plane=plane,
        tracking=slide.tracking("tissue", f"{slide.name}, tissue"),
        index=slide.number,
        model=result.model,
        context=context,
    )


def slide_map(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset | None:
    """The attention as a Parametric Map; None without attention or a place on the glass."""
    assessment, plane = slide.assessment, slide.plane
    grid, geometry, attention = assessment.grid, assessment.geometry, assessment.attention
    if plane is None or grid is None or geometry is None or attention is None or not len(grid):
        return None
    matrix, step = rank_matrix(grid, geometry, attention)
    return attention_parametric_map(
        matrix,
        step * plane.size[0] / grid.slide_size[0],
        source=slide.source,
        plane=plane,
        index=slide.number,
        model=result.model,
        context=context,
    )


def _picture(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset:
    dataset = secondary_capture(
        draw_sheet(slide, result),
        source=slide.source,
        index=slide.number,
        model=result.model,
        context=context,
    )
    dataset.SeriesDescription = series_description("slide quality sheet", context)
    dataset.DerivationDescription = "Slide overview, tissue, attention and result of an AI model"
    return dataset


def _summary(slides: list[Slide]) -> Concept:
    """CAD Processing and Findings Summary (CID 6047); a finding is a positive slide."""
    assessed = sum(slide.assessment.is_assessed for slide in slides)
    has_findings = any(slide.assessment.is_positive for slide in slides)
    if assessed == 0:
        return coding.NONE_SUCCEEDED
    if assessed == len(slides):
        return (
            coding.ALL_SUCCEEDED_WITH_FINDINGS
            if has_findings
            else coding.ALL_SUCCEEDED_WITHOUT_FINDINGS
        )
    return (
        coding.NOT_ALL_SUCCEEDED_WITH_FINDINGS
        if has_findings
        else coding.NOT_ALL_SUCCEEDED_WITHOUT_FINDINGS
    )
