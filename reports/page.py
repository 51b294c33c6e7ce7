"""One A4 page of text, tables, plots and pictures: laid out once, written as PDF or as a picture.

A page is a list of marks in points (1/72 inch), the origin at its top left corner, y downwards.
``reports.page_pdf`` and ``reports.page_picture`` write the same marks, so that the Encapsulated
PDF and the Secondary Capture of a result cannot differ. The top left corner stays empty: viewers
write their own lines there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reports.page_fonts import drawable, split_lines, text_width

Colour: TypeAlias = tuple[int, int, int]
"""sRGB, 0 to 255."""
Align: TypeAlias = Literal["left", "centre", "right"]
Point: TypeAlias = tuple[float, float]

WIDTH, HEIGHT = 595.0, 842.0
"""A4."""
MARGIN = 44.0
INK: Colour = (25, 25, 25)
GREY: Colour = (110, 110, 110)
RULE: Colour = (190, 190, 190)
WARNING: Colour = (170, 25, 25)
ACCENT: Colour = (0, 80, 140)

_LEADING = 1.3
_MORE = "More in the structured report."


@dataclass(frozen=True, kw_only=True)
class Text:
    """One line of text on its baseline."""

    at: Point
    text: str
    size: float
    colour: Colour
    is_bold: bool
    align: Align


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A filled shape without an outline."""

    points: tuple[Point, ...]
    fill: Colour
    opacity: float
    """In (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """An open line through points."""

    points: tuple[Point, ...]
    colour: Colour
    width: float
    is_dashed: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture in its rectangle."""

    at: Point
    """Top left corner."""
    size: tuple[float, float]
    """Width, height."""
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""


Mark: TypeAlias = Text | Polygon | Stroke | Picture


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle of the page for a plot or a picture."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    def split(self, *shares: float, gap: float = 14.0) -> tuple[Frame, ...]:
        """Frames side by side, their widths in these proportions."""
        room = self.width - gap * (len(shares) - 1)
        frames, left = [], self.left
        for share in shares:
            width = room * share / sum(shares)
            frames.append(Frame(left=left, top=self.top, width=width, height=self.height))
            left += width + gap
        return tuple(frames)


@dataclass(kw_only=True)
class Page:
    """A page under construction; blocks are put below each other, marks anywhere.

    What does not fit any more is left out, and the page says so.
    """

    title: str
    """Of the document, for its metadata; no patient attribute."""
    footer: str
    """One line at the foot: what the page is not for."""
    marks: list[Mark] = field(default_factory=list)
    y: float = MARGIN
    """Upper edge of the next block."""
    is_full: bool = False
    """True when something was left out."""

    def __post_init__(self) -> None:
        self.line([(MARGIN, self.bottom + 6), (WIDTH - MARGIN, self.bottom + 6)], colour=RULE)
        for number, text in enumerate(split_lines(self.footer, 7, False, self.width)[:2]):
            self.text((MARGIN, self.bottom + 16 + 9 * number), text, size=7, colour=GREY)

    @property
    def width(self) -> float:
        """Width between the margins."""
        return WIDTH - 2 * MARGIN

    @property
    def bottom(self) -> float:
        """Lower edge of the room for blocks."""
        return HEIGHT - MARGIN - 14

    # -- marks ------------------------------------------------------------------------------

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float = 8.5,
        colour: Colour = INK,
        is_bold: bool = False,
        align: Align = "left",
    ) -> None:
        """Write one line; ``at`` is the start, middle or end of its baseline."""
        self.marks.append(
            Text(at=at, text=drawable(text), size=size, colour=colour, is_bold=is_bold, align=align)
        )

    def line(
        self,
        points: Iterable[Point],
        *,
        colour: Colour = INK,
        width: float = 0.6,
        is_dashed: bool = False,
    ) -> None:
        """Draw a line through points."""
        self.marks.append(
            Stroke(points=tuple(points), colour=colour, width=width, is_dashed=is_dashed)
        )

    def polygon(self, points: Iterable[Point], *, fill: Colour, opacity: float = 1.0) -> None:
        """Fill a shape."""
        self.marks.append(Polygon(points=tuple(points), fill=fill, opacity=opacity))

    def box(self, frame: Frame, *, fill: Colour, opacity: float = 1.0) -> None:
        """Fill a rectangle."""
        corners = (
            (frame.left, frame.top),
            (frame.right, frame.top),
            (frame.right, frame.bottom),
            (frame.left, frame.bottom),
        )
        self.polygon(corners, fill=fill, opacity=opacity)

    # -- blocks -----------------------------------------------------------------------------

    def gap(self, points: float) -> None:
        """Leave some room."""
        self.y += points

    def heading(self, text: str, *, size: float = 11.0, colour: Colour = ACCENT) -> None:
        """A heading with room above it."""
        self.gap(4)
        self.paragraph(text, size=size, colour=colour, is_bold=True)
        self.gap(1.5)

    def paragraph(
        self,
        text: str,
        *,
        size: float = 8.5,
        colour: Colour = INK,
        is_bold: bool = False,
        indent: float = 0.0,
    ) -> None:
        """Text over as many lines as it needs."""
        for each in split_lines(text, size, is_bold, self.width - indent):
            if not self._has_room(size * _LEADING):
                return
            baseline = self.y + size
            self.text((MARGIN + indent, baseline), each, size=size, colour=colour, is_bold=is_bold)
            self.y += size * _LEADING

    def table(
        self,
        rows: Sequence[Sequence[str]],
        widths: Sequence[float],
        *,
        size: float = 8.5,
        has_header: bool = True,
        numbers: Sequence[int] = (),
    ) -> None:
        """Rows of cells, each cell over as many lines as it needs.

        Parameters
        ----------
        rows
            Cells; all rows have as many as ``widths``.
        widths
            Proportions of the columns.
        has_header
            Whether the first row is bold and ruled off.
        numbers
            Columns that are aligned to the right.
        """
        columns = Frame(left=MARGIN, top=0, width=self.width, height=0).split(*widths, gap=8)
        for index, row in enumerate(rows):
            is_bold = has_header and index == 0
            cells = [
                split_lines(cell, size, is_bold, column.width)
                for cell, column in zip(row, columns, strict=True)
            ]
            height = max(1, *map(len, cells)) * size * _LEADING
            if not self._has_room(height):
                return
            for number, (lines, column) in enumerate(zip(cells, columns, strict=True)):
                is_number = number in numbers
                for offset, each in enumerate(lines):
                    self.text(
                        (
                            column.right if is_number else column.left,
                            self.y + size + offset * size * _LEADING,
                        ),
                        each,
                        size=size,
                        is_bold=is_bold,
                        align="right" if is_number else "left",
                    )
            self.y += height
            rule_y = self.y + 0.5
            if is_bold or index == len(rows) - 1:
                self.line([(MARGIN, rule_y), (WIDTH - MARGIN, rule_y)], colour=RULE)
                self.gap(2)

    def frame(self, height: float) -> Frame | None:
        """A rectangle as wide as the page for a plot; None where it does not fit any more."""
        if not self._has_room(height):
            return None
        found = Frame(left=MARGIN, top=self.y, width=self.width, height=height)
        self.y += height
        return found

    def picture(self, pixels: NDArray[np.uint8], frame: Frame) -> None:
        """Put a picture into a frame, as large as it fits, in its middle."""
        rows, columns = pixels.shape[:2]
        scale = min(frame.width / columns, frame.height / rows)
        width, height = columns * scale, rows * scale
        at = (frame.left + (frame.width - width) / 2, frame.top + (frame.height - height) / 2)
        self.marks.append(Picture(at=at, size=(width, height), pixels=pixels))

    def _has_room(self, height: float) -> bool:
        reserve = 8.5 * _LEADING  # for the line that says that something is missing
        if not self.is_full and self.y + height + reserve <= self.bottom:
            return True
        if not self.is_full:
            self.is_full = True
            width = text_width(_MORE, 8.5, True)
            self.text(
                (WIDTH - MARGIN - width, self.bottom - 1), _MORE, is_bold=True, colour=WARNING
            )
        return False
