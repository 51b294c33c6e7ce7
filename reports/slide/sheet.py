"""The quality sheet of a slide: what was looked at, where attention lay, what the model says.

Every viewer shows it, whatever it makes of SR, Segmentation and map. It holds no patient's or
container's attribute. The upper left corner has no text, since viewers write there.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.slide.attention import attention_map, colour_map, overlay, percentile_ranks
from models.slide.result import SlideAssessment, SlideResult
from reports.panel import (
    AMBER,
    BLUE,
    CASING,
    IMAGES_WIDTH,
    MUTED,
    ORANGE,
    SHARE_HEIGHT,
    TEXT,
    WIDTH,
    Colour,
    Panel,
    as_large_as,
    blank_canvas,
    put_into,
)
from reports.slide.slides import Slide
from reports.slide.wording import (
    capitalised,
    count,
    full_name,
    headline,
    positive_name,
    ranked,
    reasons,
)
from reports.typography import drawable, fitted, width, wrapped
from reports.wording import percent

SHOWN_TILES = 8
"""Tiles in the row of top tiles."""

_TISSUE: Colour = (0, 229, 255)
_HOLE: Colour = (255, 214, 10)
_INK: Colour = (255, 0, 200)
_MARGIN = 16
_PICTURES_TOP, _PICTURES_BOTTOM = 80, 860
_LEGEND_Y = 884
_TILES_TOP, _TILE_SIDE = 960, 144
_Picture = NDArray[np.uint8]


def draw_sheet(slide: Slide, result: SlideResult) -> _Picture:
    """The picture.

    Returns
    -------
        (1200, 1920, 3) RGB, uint8; the same input gives the same bytes on one installation.
    """
    canvas = blank_canvas()
    assessment = slide.assessment
    ranks = None if assessment.attention is None else percentile_ranks(assessment.attention)
    _place_pictures(canvas, assessment, ranks)
    _place_tiles(canvas, assessment)
    panel = Panel(canvas)
    panel.banner(result.model)
    _label_pictures(panel, assessment, ranks)
    part = slide.name if slide.total > 1 else ""
    panel.head(part, headline(assessment), _colour(assessment))
    bottom = panel.foot(result.model, result.encoder)
    if assessment.is_assessed:
        _draw_call(panel, slide, result, bottom)
    else:
        _draw_reasons(panel, slide, bottom)
    return panel.pixels()


# --- Pictures ---------------------------------------------------------------------------------


def _place_pictures(
    canvas: _Picture, assessment: SlideAssessment, ranks: NDArray[np.float64] | None
) -> None:
    """The overview with its tissue and, where there is attention, the same with its map."""
    overview, grid = assessment.overview, assessment.grid
    if overview is None:
        return
    has_map = grid is not None and ranks is not None and len(ranks) > 0
    boxes = _boxes(overview, 1 + has_map)
    plain = as_large_as(overview, boxes[0][2:])  # all of one size
    views = [plain.copy()]
    _draw_tissue(views[0], assessment)
    if grid is not None and ranks is not None and has_map:
        views.append(overlay(plain, attention_map(grid, ranks, max_side_px=max(plain.shape[:2]))))
        _draw_squares(views[1], assessment)
    for view, box in zip(views, boxes, strict=True):
        put_into(canvas, view, box[:2], box[2:])


def _boxes(overview: _Picture, count: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) for each picture: beside or below each other, the larger way."""
    height, wide = _PICTURES_BOTTOM - _PICTURES_TOP, IMAGES_WIDTH - 2 * _MARGIN
    if count == 1:
        return [(_PICTURES_TOP, _MARGIN, height, wide)]
    rows, columns = overview.shape[:2]
    half_wide, half_high = (wide - _MARGIN) // 2, (height - _MARGIN) // 2
    beside = min(height / rows, half_wide / columns)
    below = min(half_high / rows, wide / columns)
    if beside >= below:
        second = _MARGIN + half_wide + _MARGIN
        return [(_PICTURES_TOP, x, height, half_wide) for x in (_MARGIN, second)]
    second = _PICTURES_TOP + half_high + _MARGIN
    return [(y, _MARGIN, half_high, wide) for y in (_PICTURES_TOP, second)]


def _draw_tissue(view: _Picture, assessment: SlideAssessment) -> None:
    """Outline of tissue, holes and ink, each in a dark casing so that it is seen on any stain."""
    tissue = assessment.tissue
    if tissue is None:
        return
    for mask, colour in ((tissue.ink, _INK), (tissue.outer, _TISSUE), (tissue.holes, _HOLE)):
        is_smaller = view.shape[0] < mask.shape[0]
        how = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        grey = cv2.resize(mask.astype(np.uint8) * 255, view.shape[1::-1], interpolation=how)
        edges, _ = cv2.findContours(
            (grey > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        for line, thickness in ((CASING, 5), (colour, 2)):
            cv2.drawContours(view, edges, -1, line, thickness, cv2.LINE_AA)


def _draw_squares(view: _Picture, assessment: SlideAssessment) -> None:
    """Where the top tiles lie."""
    grid = assessment.grid
    if grid is None:
        return
    scale = np.array(view.shape[1::-1]) / grid.slide_size
    for tile in assessment.top[:SHOWN_TILES]:
        corner = grid.coordinates[tile.number]
        low = np.floor(corner * scale).astype(int)
        high = np.maximum(np.ceil((corner + grid.side) * scale).astype(int), low + 6)
        for line, thickness in ((CASING, 4), ((255, 255, 255), 2)):
            cv2.rectangle(view, low.tolist(), high.tolist(), line, thickness)


def _place_tiles(canvas: _Picture, assessment: SlideAssessment) -> None:
    for place, tile in enumerate(assessment.top[:SHOWN_TILES]):
        shown = cv2.resize(tile.pixels, (_TILE_SIDE, _TILE_SIDE), interpolation=cv2.INTER_AREA)
        left = _tile_left(place)
        canvas[_TILES_TOP : _TILES_TOP + _TILE_SIDE, left : left + _TILE_SIDE] = shown


def _tile_left(place: int) -> int:
    return _MARGIN + place * (_TILE_SIDE + 13)


def _label_pictures(
    panel: Panel, assessment: SlideAssessment, ranks: NDArray[np.float64] | None
) -> None:
    """Legends below the pictures, ranks below the tiles."""
    if assessment.overview is None:
        panel.centred("The slide could not be read", IMAGES_WIDTH // 2, 470, 48, TEXT)
        return
    x = _MARGIN
    for colour, name in ((_TISSUE, "tissue"), (_HOLE, "hole"), (_INK, "ink")):
        x = panel.key(x, _LEGEND_Y, colour, name)
    if not assessment.is_assessed:
        _shout(panel, assessment)
    if ranks is None or not len(ranks) or not assessment.is_assessed:
        return
    _draw_scale(panel)
    panel.at("Tiles of highest attention and their rank within this slide", _MARGIN, 924, 22, MUTED)
    for place, tile in enumerate(assessment.top[:SHOWN_TILES]):
        share = f"{place + 1}: {100 * ranks[tile.number]:.1f} %"
        middle = _tile_left(place) + _TILE_SIDE // 2
        panel.centred(share, middle, _TILES_TOP + _TILE_SIDE + 18, 22, TEXT)
    note = "Ranks hold within this slide only; a negative slide has high ranks too."
    panel.at(note, _MARGIN, _TILES_TOP + _TILE_SIDE + 40, 22, AMBER)


def _draw_scale(panel: Panel) -> None:
    """The colours of the map, low rank to high, and the frame of a top tile."""
    right = IMAGES_WIDTH - _MARGIN
    label = "high"
    panel.at(label, right - width(label, 22), _LEGEND_Y - 4, 22, MUTED)
    end = right - width(label, 22) - 10
    start = end - 240
    colours = colour_map(np.linspace(0, 1, 240, dtype=np.float32)[None])[0]
    for offset, colour in enumerate(colours):
        x = start + offset
        panel.draw.line((x, _LEGEND_Y, x, _LEGEND_Y + 18), tuple(int(part) for part in colour))
    panel.at(
        "Attention rank: low",
        start - width("Attention rank: low", 22) - 10,
        _LEGEND_Y - 4,
        22,
        MUTED,
    )


def _shout(panel: Panel, assessment: SlideAssessment) -> None:
    """What a slide without attention shows, in letters that nobody overlooks."""
    panel.centred(headline(assessment), IMAGES_WIDTH // 2, 1010, 84, AMBER)
    panel.centred("No result for this slide", IMAGES_WIDTH // 2, 1100, 36, TEXT)


# --- Text ---------------------------------------------------------------------------------------


def _colour(assessment: SlideAssessment) -> Colour:
    if not assessment.is_assessed:
        return AMBER
    return ORANGE if assessment.is_positive else BLUE


def _draw_call(panel: Panel, slide: Slide, result: SlideResult, bottom: int) -> None:
    """Positive probability against the threshold, the classes, the extent, the remarks."""
    assessment = slide.assessment
    panel.call(
        positive_name(result),
        assessment.positive_prob or 0.0,
        _colour(assessment),
        result.threshold,
        f"Positive from {percent(result.threshold)}: {result.threshold_meaning}",
    )
    facts = _facts(assessment)
    remarks = wrapped(
        drawable(" ".join(capitalised(text) for text in assessment.warnings)), 22, WIDTH, 5
    )
    below = 26 + 38 * len(facts) + 32 * len(remarks)
    _draw_classes(panel, assessment, result, bottom - below)
    _draw_facts(panel, facts)
    for line in remarks:
        panel.text(line, 22, AMBER)
        panel.y += 32


def _draw_classes(
    panel: Panel, assessment: SlideAssessment, result: SlideResult, bottom: int
) -> None:
    """As many classes as there is room for, the rest in one line."""
    lines = ranked(assessment)
    room = max(1, (bottom - panel.y - 40) // SHARE_HEIGHT)
    shown = lines if len(lines) <= room else lines[: max(1, room - 1)]
    for line in shown:
        colour = ORANGE if line.label in result.positive_labels else BLUE
        panel.share(full_name(result, line.label), line.probability, colour)
    rest = lines[len(shown) :]
    if rest:
        together = percent(sum(line.probability for line in rest))
        panel.text(f"{len(rest)} other classes, together {together}", 22, MUTED)
        panel.y += 38
    panel.y += 10


def _draw_facts(panel: Panel, facts: list[tuple[str, str]]) -> None:
    panel.rule()
    for name, value in facts:
        panel.text(name, 24, MUTED)
        panel.text(fitted(value, 24, WIDTH - 120), 24, right=True)
        panel.y += 38


def _facts(assessment: SlideAssessment) -> list[tuple[str, str]]:
    """What was looked at, in figures."""
    facts = []
    geometry, tissue, grid = assessment.geometry, assessment.tissue, assessment.grid
    if geometry is not None:
        wide, high = geometry.sizes[0]
        sides = " x ".join(f"{side * geometry.um_px / 1000:.3g}" for side in (wide, high))
        facts.append(("Slide", f"{sides} mm, {geometry.um_px:.4g} um/px"))
    if tissue is not None and tissue.outlines:
        parts = count(len(tissue.outlines), "part")
        facts.append(("Tissue", f"{tissue.area_mm2:.1f} square mm in {parts}"))
    if grid is not None:
        facts.append(("Tiles", f"{len(grid):,} of {grid.tile_px} px, {grid.plan.um_px:.4g} um/px"))
    return facts


def _draw_reasons(panel: Panel, slide: Slide, bottom: int) -> None:
    assessment = slide.assessment
    panel.rule()
    given = assessment.reasons or (reasons(assessment),)
    facts = _facts(assessment)
    bottom -= 60 + 38 * len(facts) + 120
    for position, reason in enumerate(given):
        lines = wrapped(drawable(reason), 30, WIDTH, 5)
        if position and panel.y + 42 * len(lines) > bottom:
            panel.paragraph(f"and {len(given) - position} more", 30, TEXT, 1)
            break
        panel.paragraph(capitalised(reason), 30, TEXT, 5)
        panel.y += 14
    panel.paragraph("No probability is given for this slide.", 26, MUTED, 2)
    for text in assessment.warnings[:3]:
        panel.paragraph(capitalised(text), 22, AMBER, 2)
    panel.y += 14
    _draw_facts(panel, facts)
