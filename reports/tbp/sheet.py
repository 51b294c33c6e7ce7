"""Contact sheets: the recommended lesions as pictures that every viewer shows.

They hold no patient's attribute, only the site's identifiers of the lesions. The top left corner
has no text, since viewers write there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.tbp.lesions import Reason
from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports.tbp.wording import count, evidence
from reports.typography import drawable, fitted, font, width, wrapped
from reports.wording import RESEARCH_USE, demonstration, percent, short_digest

SHEET_SIZE = (1200, 1920)
"""Height and width of a sheet, in pixels."""
COLUMNS, ROWS = 5, 4
LESIONS_PER_SHEET = COLUMNS * ROWS

_Colour = tuple[int, int, int]
_BACKGROUND: _Colour = (13, 16, 20)
_PANEL: _Colour = (22, 27, 34)
_RULE: _Colour = (48, 56, 66)
_TEXT: _Colour = (236, 240, 244)
_MUTED: _Colour = (156, 166, 178)
_FLAG: _Colour = (240, 140, 60)
_AMBER: _Colour = (250, 196, 80)
_GRID_WIDTH, _BANNER_HEIGHT = 1400, 64
_TOP = 76
_CELL = (_GRID_WIDTH // COLUMNS, (SHEET_SIZE[0] - _TOP) // ROWS)
_TILE = 164
_INSET, _LINE = 16, 24
_LEFT, _RIGHT = _GRID_WIDTH + 40, SHEET_SIZE[1] - 40
_WIDTH = _RIGHT - _LEFT
_SHORT: dict[Reason, str] = {
    "risk": "tile",
    "ugly duckling": "duckling",
    "measurements": "measured",
}
_LINES: tuple[tuple[Reason, ...], ...] = (("risk", "measurements"), ("ugly duckling",))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One lesion with its picture."""

    lesion: LesionScreening
    pixels: NDArray[np.uint8] | None
    """(H, W, 3) RGB of its tile; None where there is none to show."""


def draw_sheets(shown: Sequence[Shown], result: TbpResult) -> list[NDArray[np.uint8]]:
    """The sheets, 20 lesions each.

    Returns
    -------
        (1200, 1920, 3) RGB, uint8; the same input gives the same bytes on one installation.
    """
    starts = range(0, max(1, len(shown)), LESIONS_PER_SHEET)
    return [
        _draw_sheet(shown[start : start + LESIONS_PER_SHEET], result, (number, len(starts)))
        for number, start in enumerate(starts, start=1)
    ]


def _draw_sheet(
    shown: Sequence[Shown], result: TbpResult, place: tuple[int, int]
) -> NDArray[np.uint8]:
    canvas = np.empty((*SHEET_SIZE, 3), np.uint8)
    canvas[:] = _BACKGROUND
    canvas[:, _GRID_WIDTH:] = _PANEL
    banner = demonstration(result.model)
    if banner:
        canvas[:_BANNER_HEIGHT, :_GRID_WIDTH] = _AMBER
    for number, each in enumerate(shown):
        _place_tile(canvas, each.pixels, _corner(number))
    picture = Image.fromarray(canvas)
    pen = _Pen(ImageDraw.Draw(picture))
    if banner:
        pen.at = (_GRID_WIDTH // 2, _BANNER_HEIGHT // 2)
        pen.draw.text(pen.at, drawable(banner), _BACKGROUND, font(32), anchor="mm")
    for number, each in enumerate(shown):
        _label(pen, each, result, _corner(number))
    _draw_panel(pen, result, place, len(shown))
    return np.asarray(picture)


def _corner(number: int) -> tuple[int, int]:
    """(left, top) of a cell."""
    return (number % COLUMNS) * _CELL[0], _TOP + (number // COLUMNS) * _CELL[1]


def _place_tile(
    canvas: NDArray[np.uint8], pixels: NDArray[np.uint8] | None, corner: tuple[int, int]
) -> None:
    """The tile, as large as its box allows."""
    if pixels is None:
        return
    rows, columns = pixels.shape[:2]
    scale = min(_TILE / rows, _TILE / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    tile = np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)
    left = corner[0] + _INSET
    top = corner[1] + 4 + (_TILE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = tile


class _Pen:
    """Writes lines below each other."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw
        self.at = (0, 0)

    def line(self, text: str, size: int, colour: _Colour, room: int, weight: float = 0) -> None:
        """Write one line, cut to its room, and move below it."""
        written = fitted(drawable(text), size, room)
        self.draw.text(self.at, written, colour, font(size), stroke_width=weight)
        self.at = (self.at[0], self.at[1] + round(size * 1.36))

    def words(self, text: str, size: int, colour: _Colour) -> None:
        """Write words and move behind them."""
        self.draw.text(self.at, text, colour, font(size))
        self.at = (self.at[0] + width(text, size) + 14, self.at[1])

    def lines(self, text: str, size: int, colour: _Colour, most: int) -> None:
        """Write a paragraph into the panel."""
        for line in wrapped(drawable(text), size, _WIDTH, most):
            self.line(line, size, colour, _WIDTH)

    def pair(self, name: str, value: str, colour: _Colour = _TEXT) -> None:
        """Write a name at the left of the panel and its value at the right."""
        self.draw.text((_RIGHT - width(value, 24), self.at[1]), value, colour, font(24))
        self.line(name, 24, _MUTED, _WIDTH - width(value, 24) - 16)

    def rule(self) -> None:
        """Draw a line across the panel and move below it."""
        self.draw.line((_LEFT, self.at[1] + 6, _RIGHT, self.at[1] + 6), _RULE, 2)
        self.at = (_LEFT, self.at[1] + 22)


def _label(pen: _Pen, shown: Shown, result: TbpResult, corner: tuple[int, int]) -> None:
    """Rank, identifier, site and size, and what each module says: orange where it says yes."""
    lesion = shown.lesion
    left, room = corner[0] + _INSET, _CELL[0] - _INSET - 8
    if shown.pixels is None:
        middle = (left + _TILE // 2, corner[1] + 4 + _TILE // 2)
        pen.draw.text(middle, "no picture", _MUTED, font(22), anchor="mm")
    pen.at = (left, corner[1] + _TILE + 8)
    pen.line(f"{lesion.rank}.  {lesion.lesion_id}", 20, _TEXT, room, 0.4)
    axis = result.tiles[lesion.lesion_id].major_axis_mm
    size = "" if axis is None else f", {axis:.1f} mm"
    pen.line(f"{lesion.location}{size}", 18, _MUTED, room)
    said = evidence(lesion, result)
    for names in _LINES:
        pen.at = (left, pen.at[1])
        for name in names:
            if name in said:
                colour = _FLAG if name in lesion.reasons else _MUTED
                pen.words(f"{_SHORT[name]} {said[name]}", 18, colour)
        pen.at = (left, pen.at[1] + _LINE)
    if lesion.excluded:
        pen.at = (left, pen.at[1] - _LINE)  # an excluded lesion has no distance
        pen.line(f"taken out: {', '.join(lesion.excluded)}", 18, _AMBER, room)


def _draw_panel(pen: _Pen, result: TbpResult, place: tuple[int, int], shown: int) -> None:
    screening = result.screening
    pen.at = (_LEFT, 44)
    pen.line("AI RESULT", 28, _AMBER, _WIDTH, 0.5)
    pen.line("RESEARCH USE ONLY", 28, _AMBER, _WIDTH, 0.5)
    pen.at = (_LEFT, pen.at[1] + 12)
    pen.line("Total body photography", 32, _TEXT, _WIDTH, 0.5)
    pen.line(f"Sheet {place[0]} of {place[1]}", 24, _MUTED, _WIDTH)
    pen.rule()
    pen.pair("Lesions received", f"{len(screening.lesions) + result.not_assessed:,}")
    pen.pair("assessed", f"{screening.assessed:,}")
    pen.pair("taken out by filters", f"{len(screening.lesions) - screening.assessed:,}")
    if result.not_assessed:
        pen.pair("not assessable", f"{result.not_assessed:,}", _AMBER)
    pen.pair("Closer look", f"{screening.flagged:,}", _FLAG if screening.flagged else _TEXT)
    pen.pair("Nevi of 2 mm or more", f"{sum(screening.nevus_count.values()):,}")
    pen.pair("Photodamage", screening.photodamage.grade or "not graded")
    pen.rule()
    pen.lines(_legend(result, shown), 20, _MUTED, 9)
    pen.rule()
    bottom = _draw_foot(pen, result)
    _draw_remarks(pen, result, bottom)


def _legend(result: TbpResult, shown: int) -> str:
    if not result.screening.assessed:
        text = f"No lesion was assessed. Shown: {count(shown, 'lesion')} that the filters took out"
    elif not result.flagged:
        text = (
            f"No module recommends a lesion. Shown: {count(shown, 'lesion')} at the top of the list"
        )
    else:
        hidden = result.screening.flagged - len(result.drawn)
        text = "Shown: lesions recommended for a closer look, by rank"
        text += f"; {hidden} more in the report" if hidden else ""
    return (
        f"{text}. Orange: the module that recommends it. Thresholds: tile "
        f"{percent(result.thresholds.risk)}, measured {percent(result.thresholds.trees)}, "
        f"duckling 100 % of the cut-off; {result.thresholds_meaning}."
    )


def _draw_remarks(pen: _Pen, result: TbpResult, bottom: int) -> None:
    """As many remarks as there is room for above the foot."""
    for position, remark in enumerate(result.remarks):
        lines = wrapped(drawable(remark.text), 19, _WIDTH, 3)
        if pen.at[1] + 26 * (len(lines) + 1) > bottom:
            pen.line(f"and {len(result.remarks) - position} more remarks", 19, _AMBER, _WIDTH)
            return
        for line in lines:
            pen.line(line, 19, _AMBER, _WIDTH)
        pen.at = (_LEFT, pen.at[1] + 6)


def _draw_foot(pen: _Pen, result: TbpResult) -> int:
    """Models and evidence, set from the bottom up; returns where they begin."""
    kept, model = pen.at, result.model
    lines = wrapped(drawable(model.evidence), 18, _WIDTH, 5)
    names = [
        f"Model {each.name} {each.version}, {short_digest(each)}"
        for each in (model, result.encoder)
    ]
    closing = wrapped(drawable(RESEARCH_USE), 20, _WIDTH, 2)
    top = SHEET_SIZE[0] - 40 - 25 * len(lines) - 27 * len(names) - 28 * len(closing) - 22
    pen.at = (_LEFT, top)
    pen.rule()
    for name in names:
        pen.line(name, 19, _MUTED, _WIDTH)
    for line in lines:
        pen.line(line, 18, _MUTED, _WIDTH)
    for line in closing:
        pen.line(line, 20, _AMBER, _WIDTH)
    pen.at = kept
    return top
