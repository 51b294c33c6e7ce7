"""Contact sheets: the recommended lesions as pictures that every viewer shows.

They hold no patient's attribute, only the site's identifiers of the lesions. The top left corner
has no text, since viewers write there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.tbp.lesions import Reason
from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports.panel import (
    AMBER,
    MUTED,
    ORANGE,
    PICTURE_SIZE,
    TEXT,
    Colour,
    Panel,
    as_large_as,
    blank_canvas,
    put_into,
)
from reports.tbp.wording import count, evidence
from reports.typography import drawable, fitted, width, wrapped
from reports.wording import RESEARCH_USE, percent, short_digest

_GRIDS = ((3, 2), (4, 3), (5, 4))  # (columns, rows): few lesions are shown larger
LESIONS_PER_SHEET = _GRIDS[-1][0] * _GRIDS[-1][1]

_GRID_WIDTH = 1400
_TOP = 76
_TEXT_HEIGHT = 118  # of the lines below a tile
_INSET, _LINE = 16, 24
_LEFT, _RIGHT = _GRID_WIDTH + 40, PICTURE_SIZE[1] - 40
_WIDTH = _RIGHT - _LEFT
_SHORT: dict[Reason, str] = {
    "risk": "tile",
    "ugly duckling": "duckling",
    "measurements": "measured",
}
_LINES: tuple[tuple[Reason, ...], ...] = (("risk", "measurements"), ("ugly duckling",))


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where the lesions of a sheet stand."""

    columns: int
    rows: int

    @classmethod
    def of(cls, count: int) -> _Grid:
        """The coarsest grid that holds so many lesions."""
        columns, rows = next(each for each in _GRIDS if each[0] * each[1] >= count)
        return cls(columns=columns, rows=rows)

    @property
    def cell(self) -> tuple[int, int]:
        """(width, height) of a cell."""
        return _GRID_WIDTH // self.columns, (PICTURE_SIZE[0] - _TOP) // self.rows

    @property
    def tile(self) -> int:
        """Longest side of a picture."""
        return min(self.cell[0] - 2 * _INSET, self.cell[1] - _TEXT_HEIGHT)

    def corner(self, number: int) -> tuple[int, int]:
        """(left, top) of a cell."""
        width, height = self.cell
        return (number % self.columns) * width, _TOP + (number // self.columns) * height


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
    canvas = blank_canvas(_GRID_WIDTH)
    grid = _Grid.of(len(shown))
    for number, each in enumerate(shown):
        if each.pixels is not None:
            left, top = grid.corner(number)
            view = as_large_as(each.pixels, (grid.tile, grid.tile))
            put_into(canvas, view, (top + 4, left + _INSET), (grid.tile, view.shape[1]))
    pen = _Pen(canvas, left=_LEFT, right=_RIGHT)
    pen.banner(result.model, size=32, width_px=_GRID_WIDTH)
    for number, each in enumerate(shown):
        _label(pen, each, result, grid, grid.corner(number))
    _draw_panel(pen, result, place, len(shown))
    return pen.pixels()


class _Pen(Panel):
    """Writes lines below each other, in the panel or below a tile."""

    x = _LEFT

    def line(self, text: str, size: int, colour: Colour, room: int, weight: float = 0) -> None:
        """Write one line, cut to its room, and move below it."""
        self.text(fitted(drawable(text), size, room), size, colour, x=self.x, weight=weight)
        self.y += round(size * 1.36)

    def words(self, text: str, size: int, colour: Colour) -> None:
        """Write words and move behind them."""
        self.text(text, size, colour, x=self.x)
        self.x += width(text, size) + 14

    def lines(self, text: str, size: int, colour: Colour, most: int) -> None:
        """Write a paragraph into the panel."""
        for line in wrapped(drawable(text), size, self.width, most):
            self.line(line, size, colour, self.width)

    def pair(self, name: str, value: str, colour: Colour = TEXT) -> None:
        """Write a name at the left of the panel and its value at the right."""
        self.text(value, 24, colour, right=True)
        self.line(name, 24, MUTED, self.width - width(value, 24) - 16)

    def rule(self) -> None:
        """Draw a line across the panel and move below it, closer than where there is room."""
        self.y += 6
        super().rule()
        self.x, self.y = self.left, self.y - 10


def _label(
    pen: _Pen, shown: Shown, result: TbpResult, grid: _Grid, corner: tuple[int, int]
) -> None:
    """Rank, identifier, site and size, and what each module says: orange where it says yes."""
    lesion = shown.lesion
    left, room = corner[0] + _INSET, grid.cell[0] - _INSET - 8
    if shown.pixels is None:
        pen.centred("no picture", left + grid.tile // 2, corner[1] + 4 + grid.tile // 2, 22, MUTED)
    pen.x, pen.y = left, corner[1] + grid.tile + 8
    pen.line(f"{lesion.rank}.  {lesion.lesion_id}", 20, TEXT, room, 0.4)
    axis = result.tiles[lesion.lesion_id].major_axis_mm
    size = "" if axis is None else f", {axis:.1f} mm"
    pen.line(f"{lesion.location}{size}", 18, MUTED, room)
    said = evidence(lesion, result)
    for names in _LINES:
        pen.x = left
        for name in names:
            if name in said:
                colour = ORANGE if name in lesion.reasons else MUTED
                pen.words(f"{_SHORT[name]} {said[name]}", 18, colour)
        pen.x, pen.y = left, pen.y + _LINE
    if lesion.excluded:
        pen.y -= _LINE  # an excluded lesion has no distance
        pen.line(f"taken out: {', '.join(lesion.excluded)}", 18, AMBER, room)


def _draw_panel(pen: _Pen, result: TbpResult, place: tuple[int, int], shown: int) -> None:
    screening = result.screening
    pen.x, pen.y = _LEFT, 44
    pen.line("AI RESULT", 28, AMBER, _WIDTH, 0.5)
    pen.line("RESEARCH USE ONLY", 28, AMBER, _WIDTH, 0.5)
    pen.y += 12
    pen.line("Total body photography", 32, TEXT, _WIDTH, 0.5)
    pen.line(f"Sheet {place[0]} of {place[1]}", 24, MUTED, _WIDTH)
    pen.rule()
    pen.pair("Lesions received", f"{len(screening.lesions) + result.not_assessed:,}")
    pen.pair("assessed", f"{screening.assessed:,}")
    pen.pair("taken out by filters", f"{len(screening.lesions) - screening.assessed:,}")
    if result.not_assessed:
        pen.pair("not assessable", f"{result.not_assessed:,}", AMBER)
    pen.pair("Closer look", f"{screening.flagged:,}", ORANGE if screening.flagged else TEXT)
    pen.pair("Nevi of 2 mm or more", f"{sum(screening.nevus_count.values()):,}")
    pen.pair("Photodamage", screening.photodamage.grade or "not graded")
    pen.rule()
    pen.lines(_legend(result, shown), 20, MUTED, 9)
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
        if pen.y + 26 * (len(lines) + 1) > bottom:
            pen.line(f"and {len(result.remarks) - position} more remarks", 19, AMBER, _WIDTH)
            return
        for line in lines:
            pen.line(line, 19, AMBER, _WIDTH)
        pen.y += 6


def _draw_foot(pen: _Pen, result: TbpResult) -> int:
    """Models and evidence, set from the bottom up; returns where they begin."""
    kept, model = pen.y, result.model
    lines = wrapped(drawable(model.evidence), 18, _WIDTH, 5)
    names = [
        f"Model {each.name} {each.version}, {short_digest(each)}"
        for each in (model, result.encoder)
    ]
    closing = wrapped(drawable(RESEARCH_USE), 20, _WIDTH, 2)
    top = PICTURE_SIZE[0] - 40 - 25 * len(lines) - 27 * len(names) - 28 * len(closing) - 22
    pen.y = top
    pen.rule()
    for name in names:
        pen.line(name, 19, MUTED, _WIDTH)
    for line in lines:
        pen.line(line, 18, MUTED, _WIDTH)
    for line in closing:
        pen.line(line, 20, AMBER, _WIDTH)
    pen.y = kept
    return top
