"""The picture of a diagnosis: the image with the lesion's outline, and what the model says of it.

Every viewer shows it, whatever it makes of SR and SEG. It holds no patient's attribute. The image
lies at the left without any text, since viewers write into the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.results import DiagnosisResult, ImageAssessment
from reports.diagnosis.wording import (
    full_name,
    lesion_of,
    lesion_sentence,
    possible,
    ranked,
    verdict,
)
from reports.outline import Size
from reports.panel import (
    AMBER,
    BLUE,
    CASING,
    IMAGES_WIDTH,
    LEFT,
    MUTED,
    ORANGE,
    PICTURE_SIZE,
    SHARE_HEIGHT,
    TEXT,
    WIDTH,
    Colour,
    Panel,
    as_large_as,
    blank_canvas,
    put_into,
)
from reports.segmentation import LESION_COLOUR_RGB
from reports.typography import drawable, fitted, wrapped
from reports.wording import percent

IMAGE_BOX = (PICTURE_SIZE[0], IMAGES_WIDTH)
"""Height and width of the image's part of the picture, in pixels."""

_GREY: Colour = (120, 130, 142)
_LEGEND_HEIGHT = 42
_SIZE_HEIGHT = 26 + 44
_REMARK_HEIGHT = 32
_REST_HEIGHT = 38
_FEWEST = 3  # diagnoses that are always shown
_MANY_REMARKS = 4  # lines from which on the evidence gives way


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What one picture shows."""

    pixels: NDArray[np.uint8] | None
    """(H, W, 3) RGB of the source; None if it could not be decoded."""
    assessment: ImageAssessment
    result: DiagnosisResult
    sizes: tuple[Size, ...]
    """The lesion's sizes; empty without a lesion."""
    number: int
    """Number of the image in the result, 1-based."""


def draw_overview(overview: Overview) -> NDArray[np.uint8]:
    """The picture.

    Returns
    -------
        (1200, 1920, 3) RGB, uint8; the same input gives the same bytes on one installation.
    """
    canvas = blank_canvas()
    if overview.pixels is not None:
        view = outlined(overview.pixels, overview.assessment, IMAGE_BOX)
        put_into(canvas, view, (0, 0), IMAGE_BOX)
    panel = Panel(canvas)
    if overview.pixels is None:
        middle = IMAGE_BOX[1] // 2, IMAGE_BOX[0] // 2
        panel.centred("The image could not be decoded", *middle, 34, MUTED)
    panel.banner(overview.result.model)
    _draw_head(panel, overview)
    crowded = len(_remarks(overview.assessment, overview.result)) > _MANY_REMARKS
    bottom = panel.foot(overview.result.model, max_lines=3 if crowded else 5)
    if overview.assessment.differential:
        _draw_assessment(panel, overview, bottom)
    else:
        _draw_reasons(panel, overview.assessment, bottom)
    return panel.pixels()


def outlined(
    pixels: NDArray[np.uint8], assessment: ImageAssessment, box: tuple[int, int]
) -> NDArray[np.uint8]:
    """The image with its lesion's outline, as large as a box of (height, width) holds it."""
    view = as_large_as(pixels, box)
    if assessment.region is not None:
        scale = view.shape[0] / pixels.shape[0], view.shape[1] / pixels.shape[1]
        _draw_outline(view, assessment.region.outline, scale)
    return view


def _draw_outline(
    view: NDArray[np.uint8], outline: NDArray[np.float64], scale: tuple[float, float]
) -> None:
    """The outline in a dark casing, so that it is seen on any skin and any lesion."""
    fraction_bits = 4
    points = (np.asarray(outline) + 0.5) * scale - 0.5
    ring = np.round(points[:, ::-1] * (1 << fraction_bits)).astype(np.int32)
    for colour, thickness in ((CASING, 6), (LESION_COLOUR_RGB, 3)):
        cv2.polylines(
            view, [ring], True, colour, thickness, lineType=cv2.LINE_AA, shift=fraction_bits
        )


def _draw_head(panel: Panel, overview: Overview) -> None:
    total = len(overview.result.images)
    part = f"Image {overview.number} of {total}" if total > 1 else ""
    panel.head(part, *_headline(overview.assessment))


def _headline(assessment: ImageAssessment) -> tuple[str, Colour]:
    if not assessment.differential:
        return verdict(assessment).upper(), _GREY
    colour = ORANGE if assessment.is_suspicious else BLUE
    return verdict(assessment).capitalize(), colour


def _draw_assessment(panel: Panel, overview: Overview, bottom: int) -> None:
    """Malignancy, differential, size and image quality, down to ``bottom``."""
    assessment, result = overview.assessment, overview.result
    panel.call(
        "Malignancy",
        assessment.malignancy_prob or 0.0,
        ORANGE if assessment.is_suspicious else BLUE,
        result.operating_point,
        f"Suspicious from {percent(result.operating_point)}: {result.operating_point_meaning}",
    )
    remarks = _remarks(assessment, result)
    below = _SIZE_HEIGHT + _REMARK_HEIGHT * len(remarks)
    _draw_differential(panel, overview, bottom - below)
    panel.rule()
    _draw_size(panel, overview.sizes)
    for line, colour in remarks:
        panel.text(line, 22, colour)
        panel.y += _REMARK_HEIGHT


def _draw_differential(panel: Panel, overview: Overview, bottom: int) -> None:
    """As many diagnoses as there is room for above ``bottom``, the rest in one line."""
    result, lines = overview.result, ranked(overview.assessment)
    room = bottom - panel.y - _LEGEND_HEIGHT
    fits_all = len(lines) * SHARE_HEIGHT <= room
    shown = lines if fits_all else lines[: max(_FEWEST, (room - _REST_HEIGHT) // SHARE_HEIGHT)]
    for line in shown:
        colour = ORANGE if line.label in result.malignant_labels else BLUE
        panel.share(_name(result, line.label), line.probability, colour)
    rest = lines[len(shown) :]
    if rest:
        noun = "other diagnosis" if len(rest) == 1 else "other diagnoses, together"
        share = percent(sum(line.probability for line in rest))
        panel.text(f"{len(rest)} {noun} {share}", 22, MUTED)
        panel.y += _REST_HEIGHT
    panel.draw.ellipse((LEFT, panel.y + 6, LEFT + 14, panel.y + 20), ORANGE)
    panel.text("counts as malignant", 20, MUTED, x=LEFT + 24)
    panel.draw.ellipse((LEFT + 250, panel.y + 6, LEFT + 264, panel.y + 20), BLUE)
    panel.text("benign", 20, MUTED, x=LEFT + 274)
    panel.y += 42


def _name(result: DiagnosisResult, label: str) -> str:
    """The full name, or the label where the font lacks the name's letters."""
    name = drawable(full_name(result, label))
    return drawable(label) if "?" in name else name


def _draw_size(panel: Panel, sizes: tuple[Size, ...]) -> None:
    if not sizes:
        panel.text("No lesion was outlined.", 24, MUTED)
    else:
        major, minor, area = sizes[0], sizes[1], sizes[2]
        if major.unit.value == "mm":
            text = f"{major.value:.1f} x {minor.value:.1f} mm, area {area.value:.1f} square mm"
        else:
            text = f"{major.value:.0f} x {minor.value:.0f} pixels, not calibrated"
        panel.text("Lesion", 24, MUTED)
        panel.text(fitted(text, 24, WIDTH - 100), 24, right=True)
    panel.y += 44


def _remarks(assessment: ImageAssessment, result: DiagnosisResult) -> list[tuple[str, Colour]]:
    """The possible diagnoses, the lesion's other images and the image quality, in lines."""
    lines: list[tuple[str, Colour]] = []
    found = assessment.label_set
    if found is not None:
        colour = AMBER if found.is_referred else TEXT
        lines += [(line, colour) for line in _lines(possible(found, result))]
    lesion = lesion_of(assessment, result)
    if lesion is not None:
        sentence = lesion_sentence(assessment, lesion, result)
        lines += [(line, TEXT) for line in _lines(sentence)]
    if assessment.quality.warnings:
        text = "Image quality: " + "; ".join(assessment.quality.warnings)
        lines += [(line, AMBER) for line in _lines(text)]
    return lines


def _lines(text: str) -> list[str]:
    return wrapped(drawable(text), 22, WIDTH, 2)


def _draw_reasons(panel: Panel, assessment: ImageAssessment, bottom: int) -> None:
    panel.rule()
    reasons = assessment.quality.reasons or ("No reason was given.",)
    for position, reason in enumerate(reasons):
        lines = wrapped(drawable(reason), 30, WIDTH, 4)
        if panel.y + 42 * len(lines) > bottom - 120:
            panel.paragraph(f"and {len(reasons) - position} more", 30, TEXT, 1)
            break
        panel.paragraph(reason, 30, TEXT, 4)
        panel.y += 14
    panel.paragraph("No probability is given for this image.", 26, MUTED, 2)
