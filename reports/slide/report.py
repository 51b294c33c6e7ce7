"""Measurement groups of slides: the call on the tissue's outline, then the top tiles.

A group is planar (TID 1410) with a polygon in the slide's own frame of reference: the only kind
that microscopy viewers draw. They print the finding's code value beside it, and list coded
evaluations and numbers but no text, so warnings are coded too. A slide whose header gives no place
on the glass gets its region in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.errors import SlideError
from models.results import ModelIdentity
from models.slide.attention import percentile_ranks
from models.slide.result import SlideResult
from models.slide.tiles import MAX_ENLARGEMENT, TILE_UM_PX, check_spacing
from models.slide.tissue import TissueFinding
from reports import coding
from reports.coding import Concept
from reports.content_items import (
    Relationship,
    code,
    container,
    image,
    number,
    polyline,
    text,
    uid_reference,
)
from reports.document import algorithm
from reports.slide import codes
from reports.slide.geometry import whole
from reports.slide.slides import Slide
from reports.slide.source import SlideSource
from reports.slide.wording import comments, details, full_name, ranked
from reports.tracking import Tracking

MAX_PARTS = 8
"""Parts of the tissue that get an outline of their own, largest first."""
MAX_VERTICES = 400
"""Graphic Data holds 5461 points of three FL (PS3.5 7.1.2); viewers redraw each on every move."""
_TOLERANCE_PX = 0.5


def subject(source: SlideSource) -> list[Dataset]:
    """The specimen as subject of the report (TID 1006 and 1009).

    A microscopy viewer passes over a report whose subject is the patient.
    """
    link = Relationship.OBS_CONTEXT
    return [
        code(codes.SUBJECT_CLASS, codes.SPECIMEN, link),
        uid_reference(codes.SPECIMEN_UID, source.specimen_uid, link),
        text(codes.SPECIMEN_IDENTIFIER, source.specimen_identifier, link),
        text(codes.SPECIMEN_CONTAINER_IDENTIFIER, source.container_identifier, link),
    ]


def slide_groups(slide: Slide, result: SlideResult) -> list[Dataset]:
    """All measurement groups of one slide."""
    return [
        _call_group(slide, result),
        *_part_groups(slide, result),
        *_tile_groups(slide, result),
    ]


def _call_group(slide: Slide, result: SlideResult) -> Dataset:
    """What is said of the slide, on its largest part of tissue or else on the whole slide."""
    assessment = slide.assessment
    outlines = tissue_outlines(slide)
    region = outlines[0] if outlines and assessment.is_assessed else _whole(slide)
    is_assessed = assessment.is_assessed
    return _group(
        slide,
        tracking=slide.tracking("slide", slide.name),
        category=codes.TISSUE,
        finding=_finding(slide, result.model),
        model=result.model,
        extra=[_encoder(result)],
        numbers=_numbers(slide, result) if is_assessed else _reason_count(slide),
        evaluations=[
            *(_evaluations(slide, result) if is_assessed else _not_assessed(slide)),
            *_caution(result.model),
        ],
        region=region,
        texts=[
            *[text(coding.COMMENT, line) for line in comments(assessment, result)],
            *[text(coding.COMMENT, line) for line in _place_remark(slide)],
            text(coding.ASSESSMENT_DETAILS, details(assessment, result)),
        ],
    )


def _place_remark(slide: Slide) -> list[str]:
    """What a reader must know of the positions where the header does not give them."""
    if slide.plane is None:
        return ["The slide does not state its place on the glass: positions are in pixels."]
    if slide.plane.is_placed:
        return []
    return [
        "The slide does not state its origin on the glass: positions are in pixels, and mask and "
        "map begin at the slide's own corner, taken for (0, 0)."
    ]


def _finding(slide: Slide, model: ModelIdentity) -> Concept:
    if not slide.assessment.is_assessed:
        return reason_concept(slide)
    if model.evidence_level == "real":
        return codes.POSITIVE if slide.assessment.is_positive else codes.NEGATIVE
    return codes.DEMO_POSITIVE if slide.assessment.is_positive else codes.DEMO_NEGATIVE


_BY_FINDING = {
    TissueFinding.BLANK: codes.BLANK,
    TissueFinding.INK_ONLY: codes.INK_ONLY,
    TissueFinding.DARK: codes.DARK,
}


def reason_concept(slide: Slide) -> Concept:
    """Why a slide was not assessed, from how far its assessment came; sentences say the rest."""
    assessment = slide.assessment
    geometry, tissue = assessment.geometry, assessment.tissue
    if geometry is None:
        return codes.NOT_READABLE if _has_usable_spacing(slide.source) else codes.NO_SPACING
    if tissue is None:
        return codes.NOT_READABLE
    if tissue.finding in _BY_FINDING:
        return _BY_FINDING[tissue.finding]
    is_coarse = geometry.um_px > TILE_UM_PX * MAX_ENLARGEMENT
    return codes.TOO_COARSE if assessment.grid is None and is_coarse else codes.TOO_FEW_TILES


def _has_usable_spacing(source: SlideSource) -> bool:
    if source.spacing_mm is None:
        return False
    try:
        check_spacing(*(1000 * value for value in source.spacing_mm))
    except SlideError:
        return False
    return True


def _numbers(slide: Slide, result: SlideResult) -> list[Dataset]:
    """The figure that decides first, then the classes, the threshold and the extent."""
    assessment = slide.assessment
    percent = coding.PERCENT
    items = []
    if len(result.positive_labels) != 1:  # one positive class: its own probability says the same
        items.append(
            number(codes.POSITIVE_PROBABILITY, 100 * (assessment.positive_prob or 0.0), percent)
        )
    lines = sorted(ranked(assessment), key=lambda line: line.label not in result.positive_labels)
    for line in lines:
        name = coding.probability_concept(line.label, full_name(result, line.label))
        items.append(number(name, 100 * min(max(line.probability, 0.0), 1.0), percent))
    items.append(number(codes.THRESHOLD, 100 * result.threshold, percent))
    if assessment.grid is not None:
        items.append(number(codes.TILES, len(assessment.grid), codes.TILES_UNIT))
    return items + _tissue_size(slide)


def _tissue_size(slide: Slide) -> list[Dataset]:
    tissue = slide.assessment.tissue
    if tissue is None:
        return []
    return [number(codes.TISSUE_SIZE, tissue.area_mm2, coding.SQUARE_MILLIMETRE)]


def _reason_count(slide: Slide) -> list[Dataset]:
    count = max(1, len(slide.assessment.reasons))
    return [
        number(coding.REASONS_AGAINST, count, coding.REASONS_UNIT),
        *_tissue_size(slide),
    ]


def _evaluations(slide: Slide, result: SlideResult) -> list[Dataset]:
    top = ranked(slide.assessment)[0].label
    return [
        code(coding.ASSESSMENT_STATUS, coding.ASSESSED),
        code(codes.MOST_LIKELY_CLASS, coding.diagnosis_concept(top, full_name(result, top))),
        code(codes.IS_POSITIVE, coding.YES if slide.assessment.is_positive else coding.NO),
    ]


def _not_assessed(slide: Slide) -> list[Dataset]:
    return [
        code(coding.ASSESSMENT_STATUS, coding.NOT_ASSESSED),
        code(coding.REASON_AGAINST, reason_concept(slide)),
        code(codes.IS_POSITIVE, coding.UNDETERMINED),
    ]


def _caution(model: ModelIdentity) -> list[Dataset]:
    """Evidence and intended use as codes, which the microscopy viewer lists."""
    return [
        code(codes.EVIDENCE_LEVEL, codes.EVIDENCE[model.evidence_level]),
        code(codes.INTENDED_USE, codes.RESEARCH_ONLY),
    ]


def _encoder(result: SlideResult) -> Dataset:
    encoder = result.encoder
    value = f"encoder: {encoder.name} {encoder.version}, weights SHA-256: {encoder.digest}"
    return text(coding.ALGORITHM_PARAMETERS, value, Relationship.CONCEPT_MOD)


def _part_groups(slide: Slide, result: SlideResult) -> list[Dataset]:
    """The other parts of the tissue, so that a reader sees what was looked at."""
    outlines = tissue_outlines(slide)
    if not slide.assessment.is_assessed or len(outlines) < 2:
        return []
    groups = []
    for part, outline in enumerate(outlines[1:MAX_PARTS], start=2):
        groups.append(
            _group(
                slide,
                tracking=slide.tracking(f"part/{part}", f"{slide.name}, tissue part {part}"),
                category=codes.TISSUE,
                finding=codes.TISSUE_PART,
                model=result.model,
                extra=[],
                numbers=[],
                evaluations=_caution(result.model),
                region=outline,
                texts=[],
            )
        )
    return groups


def _tile_groups(slide: Slide, result: SlideResult) -> list[Dataset]:
    """The top tiles as squares, each with its rank."""
    assessment = slide.assessment
    grid, attention = assessment.grid, assessment.attention
    if grid is None or attention is None:
        return []
    ranks = percentile_ranks(attention)
    groups = []
    for place, tile in enumerate(assessment.top, start=1):
        x, y = (int(value) for value in grid.coordinates[tile.number])
        corners = whole((grid.side, grid.side)) + np.array((x, y))
        name = f"{slide.name}, tile {place} by attention"
        groups.append(
            _group(
                slide,
                tracking=slide.tracking(f"tile/{x},{y}", name),
                category=codes.SPATIAL_CONCEPT,
                finding=codes.top_tile(place),
                model=result.model,
                extra=[],
                numbers=[number(codes.ATTENTION_RANK, 100 * ranks[tile.number], coding.PERCENT)],
                evaluations=[
                    code(codes.ATTENTION_SCOPE, codes.WITHIN_SLIDE),
                    *_caution(result.model),
                ],
                region=corners,
                texts=[],
            )
        )
    return groups


def _group(
    slide: Slide,
    *,
    tracking: Tracking,
    category: Concept,
    finding: Concept,
    model: ModelIdentity,
    extra: list[Dataset],
    numbers: list[Dataset],
    evaluations: list[Dataset],
    region: NDArray[np.float64],
    texts: list[Dataset],
) -> Dataset:
    """One measurement group (TID 1410)."""
    return container(
        coding.MEASUREMENT_GROUP,
        [
            text(coding.TRACKING_IDENTIFIER, tracking.identifier, Relationship.OBS_CONTEXT),
            uid_reference(
                coding.TRACKING_UNIQUE_IDENTIFIER, tracking.uid, Relationship.OBS_CONTEXT
            ),
            code(coding.FINDING_CATEGORY, category),
            code(coding.FINDING, finding),
            *algorithm(model),
            *extra,
            _region(slide, region),
            *numbers,
            *evaluations,
            *texts,
        ],
        template="1410",
    )


def _whole(slide: Slide) -> NDArray[np.float64]:
    """The whole slide; where nothing states its size the first pixel, which every slide has.

    A group without a region keeps OHIF from opening the study.
    """
    return whole(slide.size or (1, 1))


def tissue_outlines(slide: Slide) -> list[NDArray[np.float64]]:
    """Outlines of the parts, (N, 2) x and y in pixels of level 0, not closed, largest first."""
    tissue, size = slide.assessment.tissue, slide.size
    if tissue is None or size is None:
        return []
    scale = np.array(size) / tissue.outer.shape[::-1]
    return [_simplified(outline) * scale for outline in tissue.outlines[:MAX_PARTS]]


def _simplified(outline: NDArray[np.int32]) -> NDArray[np.float64]:
    """An outline through the centres of its pixels, with few vertices (Douglas-Peucker)."""
    ring = np.asarray(outline, np.float32).reshape(-1, 1, 2)
    tolerance, simple = _TOLERANCE_PX, ring
    while len(simple) == len(ring) or len(simple) > MAX_VERTICES - 1:
        simple = np.asarray(cv2.approxPolyDP(ring, tolerance, True), np.float32)
        if len(simple) <= MAX_VERTICES - 1:
            break
        tolerance *= 1.5
    points = simple.reshape(-1, 2).astype(np.float64) + 0.5
    if len(points) >= 3:
        return points
    low, high = points.min(axis=0) - 0.5, points.max(axis=0) + 0.5  # a line: its box has an area
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _region(slide: Slide, outline: NDArray[np.float64]) -> Dataset:
    """The outline on the glass, else on the total pixel matrix (TID 1410)."""
    closed = np.vstack([outline, outline[:1]])
    plane = slide.plane
    if plane is None or not plane.is_placed:
        return _matrix_region(slide, closed)
    size = slide.size or plane.size
    points = plane.to_mm(closed * (np.array(plane.size) / size))
    item = Dataset()
    item.RelationshipType = Relationship.CONTAINS.value
    item.ValueType = "SCOORD3D"
    item.ConceptNameCodeSequence = [codes.IMAGE_REGION.as_item()]
    item.GraphicType = "POLYGON"
    item.GraphicData = [float(value) for value in points.astype(np.float32).ravel()]
    item.ReferencedFrameOfReferenceUID = plane.frame_of_reference_uid
    return item


def _matrix_region(slide: Slide, closed: NDArray[np.float64]) -> Dataset:
    """The outline in pixels of the total pixel matrix (PS3.3 C.18.6.1.2)."""
    source = slide.source
    link = Relationship.SELECTED_FROM
    selected = image(source.sop_class_uid, source.sop_instance_uid, None, link)
    points = closed.astype(np.float32)
    item = polyline(codes.IMAGE_REGION, points, Relationship.CONTAINS, selected)
    item.PixelOriginInterpretation = "VOLUME"
    return item
