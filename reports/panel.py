"""What the pictures of all analyses share: colours, a column of text, banner, heading and foot.

Images lie at the left, a pen that moves down writes at their right. No picture holds a patient's
attribute. The upper left corner has no text of ours, since viewers write there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.results import ModelIdentity
from reports.typography import drawable, fitted, font, width, wrapped
from reports.wording import demonstration, percent, short_digest

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
CASING: Colour = (10, 12, 14)
"""Around an outline, so that it is seen on any skin and any stain."""

PICTURE_SIZE = (1200, 1920)
"""Height and width of a whole picture, in pixels."""
IMAGES_WIDTH = 1280
"""Width of the images' part, in pixels."""
BANNER_HEIGHT = 64
LEFT, RIGHT = IMAGES_WIDTH + 48, PICTURE_SIZE[1] - 48
WIDTH = RIGHT - LEFT
SHARE_HEIGHT = 60
"""What ``Panel.share`` moves down by, in pixels."""
_FOOT_Y = PICTURE_SIZE[0] - 66


class Panel:
    """A picture; draws text and bars in the column between ``left`` and ``right``, downwards.

    Parameters
    ----------
    canvas
        What ``blank_canvas`` gave, with the images in their places.
    left, right
        Ends of the column in pixels.
    """

    def __init__(self, canvas: NDArray[np.uint8], *, left: int = LEFT, right: int = RIGHT) -> None:
        self._picture = Image.fromarray(canvas)
        self.draw = ImageDraw.Draw(self._picture)
        self.left, self.right, self.width = left, right, right - left
        self.y = 52

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB; the same drawing gives the same bytes on one installation."""
        return np.asarray(self._picture)

    def text(
        self,
        text: str,
        size: int,
        colour: Colour = TEXT,
        *,
        x: int | None = None,
        right: bool = False,
        weight: float = 0,
    ) -> None:
        """Write at the pen without moving it; ``right`` ends the text at ``x``."""
        written = drawable(text)
        if right:
            start = (self.right if x is None else x) - width(written, size)
        else:
            start = self.left if x is None else x
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
        for line in wrapped(drawable(text), size, self.width, max_lines):
            self.text(line, size, colour)
            self.y += round(size * 1.4)

    def bar(self, share: float, colour: Colour, height: int, tick: float | None = None) -> None:
        """Draw a horizontal bar over the whole width; ``share`` and ``tick`` are in [0, 1]."""
        radius = height // 2
        bottom = self.y + height
        self.draw.rounded_rectangle((self.left, self.y, self.right, bottom), radius, TRACK)
        end = self.left + max(height, round(self.width * min(max(share, 0.0), 1.0)))
        self.draw.rounded_rectangle((self.left, self.y, end, bottom), radius, colour)
        if tick is not None:
            x = self.left + round(self.width * tick)
            self.draw.rectangle((x - 4, self.y - 8, x + 3, bottom + 8), PANEL)
            self.draw.rectangle((x - 2, self.y - 8, x + 1, bottom + 8), TEXT)

    def rule(self) -> None:
        """Draw a separating line and move below it."""
        self.draw.line((self.left, self.y, self.right, self.y), RULE, 2)
        self.y += 26

    def key(self, x: int, y: int, colour: Colour, name: str) -> int:
        """Draw an entry of a legend and return where the next one begins."""
        self.draw.rectangle((x, y + 2, x + 22, y + 16), colour)
        self.at(name, x + 32, y - 4, 22, MUTED)
        return x + 32 + width(name, 22) + 32

    # --- Blocks ---------------------------------------------------------------------------------

    def banner(self, model: ModelIdentity, *, size: int = 34, width_px: int = IMAGES_WIDTH) -> None:
        """Say over the images that the model is for demonstration, where it is."""
        said = demonstration(model)
        if said:
            self.draw.rectangle((0, 0, width_px - 1, BANNER_HEIGHT - 1), AMBER)
            self.centred(said, width_px // 2, BANNER_HEIGHT // 2, size, BACKGROUND)

    def head(self, part: str, headline: str, colour: Colour) -> None:
        """What it is, which part of the result (empty for the only one), and the call."""
        self.text("AI RESULT", 28, AMBER, weight=0.5)
        self.text("RESEARCH USE ONLY", 28, AMBER, right=True, weight=0.5)
        self.y += 48
        if part:
            self.text(part, 26, MUTED)
            self.y += 40
        size = 60 if width(headline, 60) <= self.width else 40
        self.text(fitted(headline, size, self.width), size, colour, weight=1)
        self.y += 88

    def call(self, name: str, prob: float, colour: Colour, threshold: float, meaning: str) -> None:
        """The probability that the call rests on, against its threshold; ``prob`` in [0, 1]."""
        share = percent(prob)
        self.text(fitted(drawable(name), 32, self.width - width(share, 32) - 24), 32)
        self.text(share, 32, right=True, weight=0.5)
        self.y += 52
        self.bar(prob, colour, 22, tick=threshold)
        self.y += 44
        self.paragraph(meaning, 22, MUTED, 2)
        self.y += 14
        self.rule()

    def share(self, name: str, prob: float, colour: Colour) -> None:
        """One class of several with its probability in [0, 1], and move below it."""
        share = percent(prob)
        self.text(fitted(drawable(name), 26, self.width - width(share, 26) - 24), 26)
        self.text(share, 26, right=True)
        self.y += 37
        self.bar(prob, colour, 10)
        self.y += SHARE_HEIGHT - 37

    def foot(
        self, model: ModelIdentity, encoder: ModelIdentity | None = None, *, max_lines: int = 4
    ) -> int:
        """Model and its evidence, set from the bottom up; returns where they begin."""
        models = {"Model": model} | ({"Encoder": encoder} if encoder else {})
        size, step = (20, 32) if encoder else (22, 36)
        lines, pen = wrapped(drawable(model.evidence), 20, self.width, max_lines), self.y
        top = _FOOT_Y - 29 * len(lines) - 32 * len(models) - 52
        self.y = top + 14
        self.rule()
        self.y -= 8
        for word, each in models.items():
            name = f"{word} {each.name} {each.version}, weights {short_digest(each)}"
            self.text(fitted(drawable(name), size, self.width), size, MUTED)
            self.y += step
        for line in lines:
            self.text(line, 20, MUTED)
            self.y += 29
        self.y = _FOOT_Y
        self.text("Not for diagnostic use without review.", 24, AMBER)
        self.y = pen
        return top


def blank_canvas(images_width: int = IMAGES_WIDTH) -> NDArray[np.uint8]:
    """(1200, 1920, 3): the part of the images at the left, the panel at the right."""
    canvas = np.empty((*PICTURE_SIZE, 3), np.uint8)
    canvas[:] = BACKGROUND
    canvas[:, images_width:] = PANEL
    return canvas


def as_large_as(pixels: NDArray[np.uint8], box: Sequence[int]) -> NDArray[np.uint8]:
    """(H, W, 3), resized with its proportions kept to what a box of (height, width) holds."""
    rows, columns = pixels.shape[:2]
    scale = min(box[0] / rows, box[1] / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=how)
    return np.ascontiguousarray(resized, np.uint8)


def put_into(
    canvas: NDArray[np.uint8], view: NDArray[np.uint8], corner: Sequence[int], box: Sequence[int]
) -> int:
    """Put a view into the middle of a box at (top, left); return where it ends below."""
    height, wide = (int(side) for side in view.shape[:2])
    top, left = corner[0] + (box[0] - height) // 2, corner[1] + (box[1] - wide) // 2
    canvas[top : top + height, left : left + wide] = view
    return top + height
