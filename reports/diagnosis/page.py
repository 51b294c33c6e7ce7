"""One page on one image of a diagnosis: what a reader prints or opens where no overlay is drawn."""

from __future__ import annotations

from models.results import DiagnosisResult, ImageAssessment
from reports.diagnosis.overview import Overview, outlined
from reports.diagnosis.wording import (
    capitalised,
    full_name,
    lesion_of,
    lesion_sentence,
    possible,
    ranked,
    set_rule,
    verdict,
)
from reports.outline import Size
from reports.page import ACCENT, GREY, INK, MARGIN, RULE, WARNING, WIDTH, Colour, Frame, Page
from reports.wording import RESEARCH_USE, demonstration, percent, sentence

_PICTURE_PX = (420, 560)  # height, width that a picture is reduced to: 150 dpi on the page
_PICTURE_HEIGHT = 205.0
_ROW_HEIGHT = 17.0
_BAR_HEIGHT = 7.0
_MALIGNANT: Colour = (200, 90, 20)  # orange and blue: told apart in all common colour blindness
_BENIGN: Colour = ACCENT
_TRACK: Colour = (232, 234, 237)


def diagnosis_page(overview: Overview) -> Page:
    """The page of one image.

    Returns
    -------
        A page without any patient attribute: the object it travels in carries those.
    """
    assessment, result = overview.assessment, overview.result
    page = Page(title="AI diagnosis of one image", footer=RESEARCH_USE)
    _head(page, overview)
    _picture(page, overview)
    if assessment.is_assessed:
        _malignancy(page, assessment, result)
        _differential(page, assessment, result)
    else:
        page.heading("Reasons")
        for reason in assessment.quality.reasons or ("No reason was given",):
            page.paragraph(sentence(capitalised(reason)), size=10)
        page.paragraph("No probability is given for this image.", colour=GREY)
    _remarks(page, assessment)
    _sizes(page, overview.sizes)
    _model(page, result)
    return page


def _head(page: Page, overview: Overview) -> None:
    assessment, result = overview.assessment, overview.result
    page.gap(18)  # viewers write into the top left corner
    warning = demonstration(result.model)
    if warning:
        page.paragraph(warning, size=11, colour=WARNING, is_bold=True)
    page.paragraph("AI RESULT, RESEARCH USE ONLY", size=9, colour=WARNING, is_bold=True)
    if len(result.images) > 1:
        page.paragraph(f"Image {overview.number} of {len(result.images)}", colour=GREY)
    page.paragraph(
        verdict(assessment).capitalize(), size=19, is_bold=True, colour=_colour(assessment)
    )
    lesion = lesion_of(assessment, result)
    if lesion is not None:
        page.paragraph(sentence(lesion_sentence(assessment, lesion, result)))
    page.gap(4)


def _colour(assessment: ImageAssessment) -> Colour:
    if not assessment.is_assessed:
        return GREY
    return _MALIGNANT if assessment.is_suspicious else _BENIGN


def _picture(page: Page, overview: Overview) -> None:
    frame = page.frame(_PICTURE_HEIGHT)
    if frame is None:
        return
    if overview.pixels is None:
        middle = (frame.left + frame.width / 2, frame.top + frame.height / 2)
        page.box(frame, fill=_TRACK)
        page.text(middle, "The image could not be decoded", colour=GREY, align="centre")
    else:
        page.picture(outlined(overview.pixels, overview.assessment, _PICTURE_PX), frame)
    page.gap(6)


def _malignancy(page: Page, assessment: ImageAssessment, result: DiagnosisResult) -> None:
    page.heading("Malignancy")
    frame = page.frame(_ROW_HEIGHT + 4)
    if frame is not None:
        malignancy = assessment.malignancy_prob or 0.0
        _bar(page, frame, "", malignancy, _colour(assessment), tick=result.operating_point)
    page.paragraph(
        f"Suspicious from {percent(result.operating_point)} (the mark): "
        f"{sentence(result.operating_point_meaning)}",
        colour=GREY,
    )


def _differential(page: Page, assessment: ImageAssessment, result: DiagnosisResult) -> None:
    page.heading("Differential diagnosis")
    for line in ranked(assessment):
        frame = page.frame(_ROW_HEIGHT)
        if frame is None:
            return
        colour = _MALIGNANT if line.label in result.malignant_labels else _BENIGN
        _bar(page, frame, full_name(result, line.label), line.probability, colour)
    page.paragraph("Orange counts as malignant, blue as benign.", size=7.5, colour=GREY)
    found = assessment.label_set
    if found is not None:
        page.heading("Referral" if found.is_referred else "Possible diagnoses")
        page.paragraph(
            sentence(possible(found, result)),
            size=10,
            is_bold=True,
            colour=WARNING if found.is_referred else INK,
        )
        page.paragraph(set_rule(found), colour=GREY)


def _bar(
    page: Page, frame: Frame, name: str, share: float, colour: Colour, tick: float | None = None
) -> None:
    """A name, a bar and its number in one row."""
    name_width, number_width = (210.0 if name else 0.0), 52.0
    left, right = frame.left + name_width, frame.right - number_width
    middle = frame.top + frame.height / 2
    top = middle - _BAR_HEIGHT / 2
    if name:
        page.text((frame.left, middle + 3), name)
    track = Frame(left=left, top=top, width=right - left, height=_BAR_HEIGHT)
    page.box(track, fill=_TRACK)
    filled = max(1.0, track.width * min(max(share, 0.0), 1.0))
    page.box(Frame(left=left, top=top, width=filled, height=_BAR_HEIGHT), fill=colour)
    if tick is not None:
        at = left + track.width * tick
        page.line([(at, top - 3), (at, top + _BAR_HEIGHT + 3)], width=1.6)
    page.text((frame.right, middle + 3), percent(share), is_bold=tick is not None, align="right")


def _remarks(page: Page, assessment: ImageAssessment) -> None:
    if assessment.quality.warnings:
        page.heading("Image quality", colour=WARNING)
        page.paragraph(sentence(capitalised("; ".join(assessment.quality.warnings))))


def _sizes(page: Page, sizes: tuple[Size, ...]) -> None:
    if not sizes:
        return
    page.heading("Lesion")
    is_calibrated = sizes[0].unit.value == "mm"
    units = {"mm": "mm", "mm2": "mm²"}
    rows = [
        [size.name.meaning for size in sizes],
        [
            f"{size.value:.1f} {units[size.unit.value]}"
            if is_calibrated
            else f"{size.value:.0f} pixels"
            for size in sizes
        ],
    ]
    page.table(rows, [1] * len(sizes))
    if not is_calibrated:
        page.paragraph("The image states no pixel spacing: sizes are in pixels.", colour=GREY)


def _model(page: Page, result: DiagnosisResult) -> None:
    model = result.model
    page.gap(4)
    page.line([(MARGIN, page.y), (WIDTH - MARGIN, page.y)], colour=RULE)
    page.heading("Model")
    page.paragraph(f"{model.name} {model.version}, weights SHA-256 {model.digest}", size=7.5)
    page.paragraph(f"Evidence ({model.evidence_level}): {sentence(model.evidence)}", size=7.5)
    page.paragraph(f"Licence: {sentence(model.licence)}", size=7.5)
