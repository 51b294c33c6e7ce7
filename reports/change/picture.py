"""The picture of a change: both originals with their outlines, the lesion enlarged, the result.

Every viewer shows it, whatever it makes of SR and SEG. It holds no patient's attribute and no date.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.change.result import ChangeResult, Comparison, Frames, LesionChange
from reports.change.wording import (
    days,
    first_upper,
    growth,
    interval,
    name,
    registration,
    time_point,
    verdict,
    why_first,
)
from reports.panel import (
    AMBER,
    BANNER_HEIGHT,
    BLUE,
    CASING,
    IMAGES_WIDTH,
    MUTED,
    ORANGE,
    PICTURE_SIZE,
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
from reports.wording import demonstration, percent

_GREY: Colour = (150, 160, 172)
_LATER_COLOUR: Colour = (255, 170, 60)  # orange against the cyan of the earlier outline
_CAPTION_HEIGHT = 44
_GAP = 16
_ENLARGED_MARGIN = 0.25
_MAX_POINTS = 6


@dataclass(frozen=True, kw_only=True)
class ChangePicture:
    """What one picture shows."""

    lesion: LesionChange
    result: ChangeResult
    current: NDArray[np.uint8] | None
    """(H, W, 3) RGB; None if it could not be decoded."""
    earlier: NDArray[np.uint8] | None
    """(H, W, 3) RGB of the image that it is compared with; None without one."""
    number: int
    """Number of the lesion in the result, 1-based."""


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One image of the picture with what is drawn on it and written below it."""

    pixels: NDArray[np.uint8] | None
    masks: tuple[tuple[NDArray[np.bool_], Colour], ...]
    caption: str
    colour: Colour


def draw_change(shown: ChangePicture) -> NDArray[np.uint8]:
    """The picture.

    Returns
    -------
        (1200, 1920, 3) RGB, uint8; the same input gives the same bytes on one installation.
    """
    canvas = blank_canvas()
    top = BANNER_HEIGHT if demonstration(shown.result.model) else 0
    captions = _place_cells(canvas, _rows(shown), top)
    panel = Panel(canvas)
    panel.banner(shown.result.model)
    for text, x, y, colour in captions:
        panel.centred(fitted(drawable(text), 26, IMAGES_WIDTH // 2 - 20), x, y, 26, colour)
    _draw_head(panel, shown)
    bottom = panel.foot(shown.result.model)
    _draw_body(panel, shown, bottom)
    return panel.pixels()


def _rows(shown: ChangePicture) -> list[list[_Cell]]:
    """The originals; below them the lesion enlarged in one frame, where there is one."""
    lesion, pair = shown.lesion, shown.lesion.comparison
    now = lesion.current.region
    current = _Cell(
        pixels=shown.current,
        masks=() if now is None else ((now.mask, _LATER_COLOUR),),
        caption="Now" if shown.current is not None else "This image could not be decoded",
        colour=_LATER_COLOUR,
    )
    if pair is None:
        return [[current]]
    before = pair.before.region
    when = "Earlier" if pair.days is None else f"Earlier, {days(pair.days)} before"
    decoded = when if shown.earlier is not None else f"{when}: it could not be decoded"
    earlier = _Cell(
        pixels=shown.earlier,
        masks=() if before is None else ((before.mask, LESION_COLOUR_RGB),),
        caption=decoded,
        colour=LESION_COLOUR_RGB,
    )
    rows = [[earlier, current]]
    if pair.frames is not None:
        rows.append(_enlarged(pair.frames))
    return rows


def _enlarged(frames: Frames) -> list[_Cell]:
    """Both images in one frame, cut to the lesion; the later one has both outlines."""
    part = _around(frames.before_mask | frames.after_mask)
    before, after = frames.before_mask[part], frames.after_mask[part]
    return [
        _Cell(
            pixels=frames.before[part],
            masks=((before, LESION_COLOUR_RGB),),
            caption="Earlier, enlarged",
            colour=LESION_COLOUR_RGB,
        ),
        _Cell(
            pixels=frames.after[part],
            masks=((before, LESION_COLOUR_RGB), (after, _LATER_COLOUR)),
            caption="Now, brought onto the earlier image; both outlines",
            colour=_LATER_COLOUR,
        ),
    ]


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """A frame of 4 to 3 around a mask, inside the image."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    if not len(rows):
        return slice(0, height), slice(0, width)
    tall = (np.ptp(rows) + 1) * (1 + 2 * _ENLARGED_MARGIN)
    wide = max((np.ptp(columns) + 1) * (1 + 2 * _ENLARGED_MARGIN), tall * 4 / 3)
    tall = max(tall, wide * 3 / 4)
    return (
        _span(int(rows.min() + rows.max()) // 2, round(tall), height),
        _span(int(columns.min() + columns.max()) // 2, round(wide), width),
    )


def _span(middle: int, length: int, limit: int) -> slice:
    length = min(length, limit)
    start = min(max(0, middle - length // 2), limit - length)
    return slice(start, start + length)


def _place_cells(
    canvas: NDArray[np.uint8], rows: list[list[_Cell]], top: int
) -> list[tuple[str, int, int, Colour]]:
    """Put the images into place; return the captions with the points they stand around."""
    captions = []
    row_height = (PICTURE_SIZE[0] - top) // len(rows)
    for row_index, row in enumerate(rows):
        cell_width = IMAGES_WIDTH // len(row)
        for column, cell in enumerate(row):
            y, x = top + row_index * row_height, column * cell_width
            box = (row_height - _CAPTION_HEIGHT - _GAP, cell_width - _GAP)
            below = _place(canvas, cell, (y + _GAP // 2, x + _GAP // 2), box)
            captions.append(
                (cell.caption, x + cell_width // 2, below + _CAPTION_HEIGHT // 2, cell.colour)
            )
    return captions


def _place(
    canvas: NDArray[np.uint8], cell: _Cell, corner: tuple[int, int], box: tuple[int, int]
) -> int:
    """Draw one image with its outlines in the middle of its box; return where it ends below."""
    if cell.pixels is None:
        return corner[0] + box[0] // 2
    view = as_large_as(cell.pixels, box)
    for mask, colour in cell.masks:
        _draw_outline(view, mask, colour)
    return put_into(canvas, view, corner, box)


def _draw_outline(view: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour) -> None:
    """The outline in a dark casing, so that it is seen on any skin and any lesion."""
    size = (view.shape[1], view.shape[0])
    # Interpolated, since the steps of a mask's pixels are no border of a lesion.
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(soft, (0, 0), max(1.0, 0.5 * view.shape[1] / mask.shape[1]))
    inside = (np.asarray(soft) > 0.5).astype(np.uint8)
    rings, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for stroke, thickness in ((CASING, 5), (colour, 2)):
        cv2.polylines(view, rings, True, stroke, thickness, lineType=cv2.LINE_AA)


def _draw_head(panel: Panel, shown: ChangePicture) -> None:
    total = len(shown.result.lesions)
    part = f"Lesion {shown.number} of {total}" if total > 1 else ""
    pair = shown.lesion.comparison
    if shown.lesion.not_assessed is not None or pair is None:
        panel.head(part, "NOT ASSESSED", _GREY)
    else:
        panel.head(part, verdict(shown.lesion).capitalize(), ORANGE if pair.is_changed else BLUE)


def _draw_body(panel: Panel, shown: ChangePicture, bottom: int) -> None:
    pair = shown.lesion.comparison
    if shown.lesion.not_assessed is not None or pair is None:
        problem = shown.lesion.not_assessed
        panel.rule()
        text = "no reason was given" if problem is None else problem.text
        panel.paragraph(first_upper(text), 30, TEXT, 7)
        panel.y += 14
        panel.paragraph("No probability of change is given.", 26, MUTED, 2)
        panel.y += 14
    else:
        _draw_pair(panel, pair, shown.result)
    _draw_points(panel, shown.lesion, bottom)
    if pair is not None:
        _draw_remarks(panel, pair, bottom)


def _draw_pair(panel: Panel, pair: Comparison, result: ChangeResult) -> None:
    panel.call(
        "Probability of change",
        pair.change_prob or 0.0,
        ORANGE if pair.is_changed else BLUE,
        result.threshold,
        f"Changed from {percent(result.threshold)}: {result.threshold_meaning}",
    )
    panel.text("Between the images", 26, MUTED)
    panel.text(interval(pair), 26, right=True)
    panel.y += 42
    panel.text("Area", 26, MUTED)
    panel.text(_plain(growth(pair)), 26, right=True)
    panel.y += 46
    panel.paragraph(first_upper(registration(pair)), 22, MUTED, 3)
    if not pair.is_changed:
        panel.paragraph("No change does not mean benign.", 22, AMBER, 1)
    panel.y += 14


def _plain(text: str) -> str:
    """In the letters of the bundled font."""
    return text.replace("mm²", "square mm").replace(", not calibrated", "")


def _draw_points(panel: Panel, lesion: LesionChange, bottom: int) -> None:
    """Malignancy of each image, and the first suspicious time point of a sequence."""
    if not lesion.time_points or panel.y > bottom - 120:
        return
    panel.rule()
    panel.text("Malignancy, image by image", 24, MUTED)
    panel.y += 38
    shown = lesion.time_points[-_MAX_POINTS:]
    first = lesion.first_suspicious
    for point in shown:
        if panel.y > bottom - 40:
            break
        is_first = first is not None and point is first
        colour = ORANGE if is_first or point.is_suspicious else TEXT
        panel.text(fitted(drawable(time_point(point, lesion)), 22, WIDTH), 22, colour)
        panel.y += 32
    if lesion.sequence and panel.y < bottom - 40:
        said = "none" if first is None else f"{name(first, lesion)}, {why_first(first, lesion)}"
        panel.paragraph(f"First suspicious: {said}", 22, AMBER if first else MUTED, 2)
    panel.y += 10


def _draw_remarks(panel: Panel, pair: Comparison, bottom: int) -> None:
    for remark in pair.remarks:
        lines = wrapped(drawable(first_upper(remark)), 20, WIDTH, 3)
        if panel.y + 28 * len(lines) > bottom:
            return
        for line in lines:
            panel.text(line, 20, MUTED)
            panel.y += 28
