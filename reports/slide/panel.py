"""The text column of a quality sheet: a pen that moves down."""

from __future__ import annotations

from PIL import ImageDraw

from reports.typography import drawable, font, width, wrapped

Colour = tuple[int, int, int]
BACKGROUND: Colour = (13, 16, 20)
PANEL: Colour = (22, 27, 34)
RULE: Colour = (48, 56, 66)
TEXT: Colour = (236, 240, 244)
MUTED: Colour = (156, 166, 178)
TRACK: Colour = (41, 48, 58)
BLUE: Colour = (92, 160, 214)  # blue and orange: told apart in all common colour blindness
ORANGE: Colour = (240, 140, 60)
AMBER: Colour = (250, 196, 80)

LEFT, RIGHT = 1328, 1872
WIDTH = RIGHT - LEFT


class Panel:
    """Draws text and bars between ``LEFT`` and ``RIGHT``, from ``y`` downwards."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw
        self.y = 52

    def text(
        self,
        text: str,
        size: int,
        colour: Colour = TEXT,
        *,
        x: int = LEFT,
        right: bool = False,
        weight: float = 0,
    ) -> None:
        """Write at the pen without moving it; ``right`` ends the text at ``x``."""
        written = drawable(text)
        start = x - width(written, size) if right else x
        self.draw.text(
            (start, self.y), written, colour, font(size), stroke_width=weight, anchor="la"
        )

    def at(self, text: str, x: int, y: int, size: int, colour: Colour) -> None:
        """Write with the upper left corner at a point."""
        self.draw.text((x, y), drawable(text), colour, font(size), anchor="la")

    def centred(self, text: str, x: int, y: int, size: int, colour: Colour) -> None:
        """Write around a point."""
        self.draw.text((x, y), drawable(text), colour, font(size), anchor="mm")

    def paragraph(self, text: str, size: int, colour: Colour, max_lines: int) -> None:
        """Write wrapped lines and move below them."""
        for line in wrapped(drawable(text), size, WIDTH, max_lines):
            self.text(line, size, colour)
            self.y += round(size * 1.4)

    def bar(self, share: float, colour: Colour, height: int, tick: float | None = None) -> None:
        """Draw a horizontal bar over the whole width; ``share`` and ``tick`` are in [0, 1]."""
        radius = height // 2
        bottom = self.y + height
        self.draw.rounded_rectangle((LEFT, self.y, RIGHT, bottom), radius, TRACK)
        end = LEFT + max(height, round(WIDTH * min(max(share, 0.0), 1.0)))
        self.draw.rounded_rectangle((LEFT, self.y, end, bottom), radius, colour)
        if tick is not None:
            x = LEFT + round(WIDTH * tick)
            self.draw.rectangle((x - 4, self.y - 8, x + 3, bottom + 8), PANEL)
            self.draw.rectangle((x - 2, self.y - 8, x + 1, bottom + 8), TEXT)

    def rule(self) -> None:
        """Draw a separating line and move below it."""
        self.draw.line((LEFT, self.y, RIGHT, self.y), RULE, 2)
        self.y += 26

    def key(self, x: int, y: int, colour: Colour, name: str) -> int:
        """Draw an entry of a legend and return where the next one begins."""
        self.draw.rectangle((x, y + 2, x + 22, y + 16), colour)
        self.at(name, x + 32, y - 4, 22, MUTED)
        return x + 32 + width(name, 22) + 32
