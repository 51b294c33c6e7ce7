"""``SlideResult`` as DICOM: for each slide a measurement report, a mask, a map and a picture."""

from __future__ import annotations

from pydicom import Dataset

from models.slide.result import SlideResult
from reports.coding import Concept
from reports.context import ReportContext, ReportObject
from reports.document import measurement_document, processing_summary
from reports.provenance import series_description
from reports.secondary_capture import secondary_capture
from reports.slide.attention_map import attention_parametric_map, rank_matrix
from reports.slide.geometry import SlidePlane
from reports.slide.report import slide_groups, subject
from reports.slide.sheet import draw_sheet
from reports.slide.slides import Slide, read_slides
from reports.slide.tiled import Origin
from reports.slide.tissue_mask import tissue_matrix, tissue_segmentation


def encode_slides(result: SlideResult, context: ReportContext) -> list[ReportObject]:
    """All objects of a slide result: for slide N a report, ``seg-N``, ``map-N`` and ``qc-N``.

    The first slide's report has the role ``sr``, which later generations supersede, the others
    ``sr-N``.

    Raises
    ------
    ResultError
        When the result has no slide, names an instance twice, or holds a value out of range.
    SourceError
        When an instance of the result is not among the sources.

    Notes
    -----
    One report a slide, not one for all: OHIF 3.13 lays every region of a report over the slide of
    its first region, so the regions of one slide would be drawn on another. Mask and map need the
    slide's place on the glass, and are left out where its header does not give it.
    """
    slides = read_slides(result, context)
    reports = [
        ReportObject(role=_report_role(slide), dataset=slide_report(slide, result, context))
        for slide in slides
    ]
    return reports + [item for slide in slides for item in _pixels(slide, result, context)]


def _report_role(slide: Slide) -> str:
    return "sr" if slide.number == 1 else f"sr-{slide.number}"


def _pixels(slide: Slide, result: SlideResult, context: ReportContext) -> list[ReportObject]:
    """Mask and map where there are any, and the picture."""
    made = {
        "seg": slide_mask(slide, result, context),
        "map": slide_map(slide, result, context),
        "qc": _picture(slide, result, context),
    }
    return [
        ReportObject(role=f"{kind}-{slide.number}", dataset=dataset)
        for kind, dataset in made.items()
        if dataset is not None
    ]


def slide_report(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset:
    """The measurement report of one slide, about its specimen."""
    return measurement_document(
        slide_groups(slide, result),
        sources=slide.sources,
        summary=_summary(slide),
        model=result.model,
        context=context,
        role=_report_role(slide),
        number=slide.number,
        content="slide report" + (f" {slide.number}" if slide.total > 1 else ""),
        subject=subject(slide.source),
    )


def slide_mask(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset | None:
    """The tissue as a Segmentation; None without tissue or without a place on the glass."""
    tissue, plane = slide.assessment.tissue, slide.plane
    if tissue is None or plane is None or not tissue.mask.any():
        return None
    matrix, factor = tissue_matrix(tissue, plane.size)
    tracking = slide.tracking("tissue", f"{slide.name}, tissue")
    return tissue_segmentation(matrix, factor, tracking, _origin(slide, plane, result, context))


def slide_map(slide: Slide, result: SlideResult, context: ReportContext) -> Dataset | None:
    """The attention as a Parametric Map; None without attention or a place on the glass."""
    assessment, plane = slide.assessment, slide.plane
    grid, geometry, attention = assessment.grid, assessment.geometry, assessment.attention
    if plane is None or grid is None or geometry is None or attention is None or not len(grid):
        return None
    matrix, step = rank_matrix(grid, geometry, attention)
    step_px = step * plane.size[0] / grid.slide_size[0]
    return attention_parametric_map(matrix, step_px, _origin(slide, plane, result, context))


def _origin(slide: Slide, plane: SlidePlane, result: SlideResult, context: ReportContext) -> Origin:
    return Origin(
        source=slide.source, plane=plane, index=slide.number, model=result.model, context=context
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


def _summary(slide: Slide) -> Concept:
    """CAD Processing and Findings Summary (CID 6047); a finding is a positive slide."""
    has_findings = bool(slide.assessment.is_positive)
    return processing_summary(slide.assessment.is_assessed, 1, has_findings=has_findings)
