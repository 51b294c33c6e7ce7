"""The picture of a diagnosis: the image with the lesion's outline, and what the model says of it.

Every viewer shows it, whatever it makes of SR and SEG. It holds no patient's attribute. The image
lies at the left without any text, since viewers write into the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
from reports.segmentation import LESION_COLOUR_RGB
from reports.typography import drawable, fitted, font, width, wrapped
from reports.wording import demonstration, percent, short_digest

IMAGE_BOX = (1200, 1280)
"""Height and width of the image's part of the picture, in pixels."""
PICTURE_SIZE = (1200, 1920)
"""Height and width of the whole picture, in pixels."""

_Colour = tuple[int, int, int]
_BACKGROUND: _Colour = (13, 16, 20)
_PANEL: _Colour = (22, 27, 34)
_RULE: _Colour = (48, 56, 66)
_TEXT: _Colour = (236, 240, 244)
_MUTED: _Colour = (156, 166, 178)
_TRACK: _Colour = (41, 48, 58)
_BENIGN: _Colour = (92, 160, 214)  # blue and orange: told apart in all common colour blindness
_MALIGNANT: _Colour = (240, 140, 60)
_AMBER: _Colour = (250, 196, 80)
_BANNER_HEIGHT = 64
_GREY: _Colour = (120, 130, 142)
_CASING: _Colour = (10, 12, 14)

_LEFT = IMAGE_BOX[1] + 48
_RIGHT = PICTURE_SIZE[1] - 48
_WIDTH = _RIGHT - _LEFT
_FOOTER_Y = PICTURE_SIZE[0] - 66
_BAR_HEIGHT = 60
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
    canvas = np.empty((*PICTURE_SIZE, 3), np.uint8)
    canvas[:] = _BACKGROUND
    canvas[:, IMAGE_BOX[1] :] = _PANEL
    if overview.pixels is not None:
        _place_image(canvas, overview.pixels, overview.assessment)
    banner = demonstration(overview.result.model)
    if banner:
        canvas[:_BANNER_HEIGHT, : IMAGE_BOX[1]] = _AMBER
    picture = Image.fromarray(canvas)
    panel = _Panel(ImageDraw.Draw(picture))
    if overview.pixels is None:
        panel.centred("The image could not be decoded", IMAGE_BOX[1] // 2, IMAGE_BOX[0] // 2)
    if banner:
        panel.centred(banner, IMAGE_BOX[1] // 2, _BANNER_HEIGHT // 2, _BACKGROUND)
    _draw_head(panel, overview)
    crowded = len(_remarks(overview.assessment, overview.result)) > _MANY_REMARKS
    bottom = _draw_foot(panel, overview.result, evidence_lines=3 if crowded else 5)
    if overview.assessment.differential:
        _draw_assessment(panel, overview, bottom)
    else:
        _draw_reasons(panel, overview.assessment, bottom)
    return np.asarray(picture)


def _place_image(
    canvas: NDArray[np.uint8], pixels: NDArray[np.uint8], assessment: ImageAssessment
) -> None:
    view = outlined(pixels, assessment, IMAGE_BOX)
    height, width_px = view.shape[:2]
    top, left = (IMAGE_BOX[0] - height) // 2, (IMAGE_BOX[1] - width_px) // 2
    canvas[top : top + height, left : left + width_px] = view


def outlined(
    pixels: NDArray[np.uint8], assessment: ImageAssessment, box: tuple[int, int]
) -> NDArray[np.uint8]:
    """The image with its lesion's outline, as large as a box of (height, width) holds it."""
    rows, columns = pixels.shape[:2]
    scale = min(box[0] / rows, box[1] / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, size, interpolation=interpolation)
    view = np.ascontiguousarray(resized, dtype=np.uint8)
    if assessment.region is not None:
        _draw_outline(view, assessment.region.outline, (size[1] / rows, size[0] / columns))
    return view


def _draw_outline(
    view: NDArray[np.uint8], outline: NDArray[np.float64], scale: tuple[float, float]
) -> None:
    """The outline in a dark casing, so that it is seen on any skin and any lesion."""
    fraction_bits = 4
    points = (np.asarray(outline) + 0.5) * scale - 0.5
    ring = np.round(points[:, ::-1] * (1 << fraction_bits)).astype(np.int32)
    for colour, thickness in ((_CASING, 6), (LESION_COLOUR_RGB, 3)):
        cv2.polylines(
            view, [ring], True, colour, thickness, lineType=cv2.LINE_AA, shift=fraction_bits
        )


class _Panel:
    """The text column: a pen that moves down."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw
        self.y = 52

    def text(
        self,
        text: str,
        size: int,
        colour: _Colour = _TEXT,
        *,
        x: int = _LEFT,
        right: bool = False,
        weight: float = 0,
    ) -> None:
        """Write at the pen without moving it; ``right`` ends the text at ``x``."""
        written = drawable(text)
        start = x - width(written, size) if right else x
        self.draw.text(
            (start, self.y), written, colour, font(size), stroke_width=weight, anchor="la"
        )

    def paragraph(self, text: str, size: int, colour: _Colour, max_lines: int) -> None:
        """Write wrapped lines and move below them."""
        for line in wrapped(drawable(text), size, _WIDTH, max_lines):
            self.text(line, size, colour)
            self.y += round(size * 1.4)

    def centred(self, text: str, x: int, y: int, colour: _Colour = _MUTED) -> None:
        """Write around a point."""
        self.draw.text((x, y), drawable(text), colour, font(34), anchor="mm")

    def bar(self, share: float, colour: _Colour, height: int, tick: float | None = None) -> None:
        """Draw a horizontal bar over the whole width; ``share`` and ``tick`` are in [0, 1]."""
        radius = height // 2
        bottom = self.y + height
        self.draw.rounded_rectangle((_LEFT, self.y, _RIGHT, bottom), radius, _TRACK)
        end = _LEFT + max(height, round(_WIDTH * share))
        self.draw.rounded_rectangle((_LEFT, self.y, end, bottom), radius, colour)
        if tick is not None:
            at = _LEFT + round(_WIDTH * tick)
            self.draw.rectangle((at - 4, self.y - 8, at + 3, bottom + 8), _PANEL)
            self.draw.rectangle((at - 2, self.y - 8, at + 1, bottom + 8), _TEXT)

    def rule(self) -> None:
        """Draw a separating line and move below it."""
        self.draw.line((_LEFT, self.y, _RIGHT, self.y), _RULE, 2)
        self.y += 26


def _draw_head(panel: _Panel, overview: Overview) -> None:
    total = len(overview.result.images)
    panel.text("AI RESULT", 28, _AMBER, weight=0.5)
    panel.text("RESEARCH USE ONLY", 28, _AMBER, x=_RIGHT, right=True, weight=0.5)
    panel.y += 48
    if total > 1:
        panel.text(f"Image {overview.number} of {total}", 26, _MUTED)
        panel.y += 40
    headline, colour = _headline(overview.assessment)
    panel.text(headline, 60, colour, weight=1)
    panel.y += 88


def _headline(assessment: ImageAssessment) -> tuple[str, _Colour]:
    if not assessment.differential:
        return verdict(assessment).upper(), _GREY
    colour = _MALIGNANT if assessment.is_suspicious else _BENIGN
    return verdict(assessment).capitalize(), colour


def _draw_assessment(panel: _Panel, overview: Overview, bottom: int) -> None:
    """Malignancy, differential, size and image quality, down to ``bottom``."""
    assessment, result = overview.assessment, overview.result
    malignancy = assessment.malignancy_prob or 0.0
    panel.text("Malignancy", 32)
    panel.text(percent(malignancy), 32, x=_RIGHT, right=True, weight=0.5)
    panel.y += 52
    colour = _MALIGNANT if assessment.is_suspicious else _BENIGN
    panel.bar(malignancy, colour, 22, tick=result.operating_point)
    panel.y += 44
    meaning = f"Suspicious from {percent(result.operating_point)}: "
    panel.paragraph(meaning + result.operating_point_meaning, 22, _MUTED, 2)
    panel.y += 14
    panel.rule()
    remarks = _remarks(assessment, result)
    below = _SIZE_HEIGHT + _REMARK_HEIGHT * len(remarks)
    _draw_differential(panel, overview, bottom - below)
    panel.rule()
    _draw_size(panel, overview.sizes)
    for line, colour in remarks:
        panel.text(line, 22, colour)
        panel.y += _REMARK_HEIGHT


def _draw_differential(panel: _Panel, overview: Overview, bottom: int) -> None:
    """As many diagnoses as there is room for above ``bottom``, the rest in one line."""
    result, lines = overview.result, ranked(overview.assessment)
    room = bottom - panel.y - _LEGEND_HEIGHT
    fits_all = len(lines) * _BAR_HEIGHT <= room
    shown = lines if fits_all else lines[: max(_FEWEST, (room - _REST_HEIGHT) // _BAR_HEIGHT)]
    for line in shown:
        share = percent(line.probability)
        name = fitted(_name(result, line.label), 26, _WIDTH - width(share, 26) - 24)
        panel.text(name, 26)
        panel.text(share, 26, x=_RIGHT, right=True)
        panel.y += 37
        is_malignant = line.label in result.malignant_labels
        panel.bar(line.probability, _MALIGNANT if is_malignant else _BENIGN, 10)
        panel.y += _BAR_HEIGHT - 37
    rest = lines[len(shown) :]
    if rest:
        noun = "other diagnosis" if len(rest) == 1 else "other diagnoses, together"
        share = percent(sum(line.probability for line in rest))
        panel.text(f"{len(rest)} {noun} {share}", 22, _MUTED)
        panel.y += _REST_HEIGHT
    panel.draw.ellipse((_LEFT, panel.y + 6, _LEFT + 14, panel.y + 20), _MALIGNANT)
    panel.text("counts as malignant", 20, _MUTED, x=_LEFT + 24)
    panel.draw.ellipse((_LEFT + 250, panel.y + 6, _LEFT + 264, panel.y + 20), _BENIGN)
    panel.text("benign", 20, _MUTED, x=_LEFT + 274)
    panel.y += 42


def _name(result: DiagnosisResult, label: str) -> str:
    """The full name, or the label where the font lacks the name's letters."""
    name = drawable(full_name(result, label))
    return drawable(label) if "?" in name else name


def _draw_size(panel: _Panel, sizes: tuple[Size, ...]) -> None:
    if not sizes:
        panel.text("No lesion was outlined.", 24, _MUTED)
    else:
        major, minor, area = sizes[0], sizes[1], sizes[2]
        if major.unit.value == "mm":
            text = f"{major.value:.1f} x {minor.value:.1f} mm, area {area.value:.1f} square mm"
        else:
            text = f"{major.value:.0f} x {minor.value:.0f} pixels, not calibrated"
        panel.text("Lesion", 24, _MUTED)
        panel.text(fitted(text, 24, _WIDTH - 100), 24, x=_RIGHT, right=True)
    panel.y += 44


def _remarks(assessment: ImageAssessment, result: DiagnosisResult) -> list[tuple[str, _Colour]]:
    """The possible diagnoses, the lesion's other images and the image quality, in lines."""
    lines: list[tuple[str, _Colour]] = []
    found = assessment.label_set
    if found is not None:
        colour = _AMBER if found.is_referred else _TEXT
        lines += [(line, colour) for line in _lines(possible(found, result))]
    lesion = lesion_of(assessment, result)
    if lesion is not None:
        sentence = lesion_sentence(assessment, lesion, result)
        lines += [(line, _TEXT) for line in _lines(sentence)]
    if assessment.quality.warnings:
        text = "Image quality: " + "; ".join(assessment.quality.warnings)
        lines += [(line, _AMBER) for line in _lines(text)]
    return lines


def _lines(text: str) -> list[str]:
    return wrapped(drawable(text), 22, _WIDTH, 2)


def _draw_reasons(panel: _Panel, assessment: ImageAssessment, bottom: int) -> None:
    panel.rule()
    reasons = assessment.quality.reasons or ("No reason was given.",)
    for position, reason in enumerate(reasons):
        lines = wrapped(drawable(reason), 30, _WIDTH, 4)
        if panel.y + 42 * len(lines) > bottom - 120:
            panel.paragraph(f"and {len(reasons) - position} more", 30, _TEXT, 1)
            break
        panel.paragraph(reason, 30, _TEXT, 4)
        panel.y += 14
    panel.paragraph("No probability is given for this image.", 26, _MUTED, 2)


def _draw_foot(panel: _Panel, result: DiagnosisResult, *, evidence_lines: int) -> int:
    """Model and evidence, set from the bottom up; returns where they begin."""
    model, pen = result.model, panel.y
    lines = wrapped(drawable(model.evidence), 20, _WIDTH, evidence_lines)
    top = _FOOTER_Y - 29 * len(lines) - 84
    panel.y = top + 14
    panel.rule()
    panel.y -= 8
    name = f"Model {model.name} {model.version}, weights {short_digest(model)}"
    panel.text(fitted(drawable(name), 22, _WIDTH), 22, _MUTED)
    panel.y += 36
    for line in lines:
        panel.text(line, 20, _MUTED)
        panel.y += 29
    panel.y = _FOOTER_Y
    panel.text("Not for diagnostic use without review.", 24, _AMBER)
    panel.y = pen
    return top
