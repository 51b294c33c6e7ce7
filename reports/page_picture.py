"""A page as a picture, for viewers that show images only."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reports.page import HEIGHT, WIDTH, Mark, Page, Picture, Point, Polygon, Stroke, Text
from reports.page_fonts import picture_font

_SMOOTHING = 2
"""Drawn so much larger, then reduced: Pillow's lines have hard edges."""
_ANCHOR = {"left": "ls", "centre": "ms", "right": "rs"}
_DASH, _SPACE = 3.0, 2.0


def page_picture(page: Page, *, px_per_pt: float = 2.0) -> NDArray[np.uint8]:
    """Draw a page.

    Parameters
    ----------
    px_per_pt
        Pixels for a point; 2 is 144 dpi.

    Returns
    -------
        (842 * px_per_pt, 595 * px_per_pt, 3) RGB on white.
    """
    scale = px_per_pt * _SMOOTHING
    image = Image.new("RGB", (round(WIDTH * scale), round(HEIGHT * scale)), "white")
    for mark in page.marks:
        _draw(image, mark, scale)
    size = (round(WIDTH * px_per_pt), round(HEIGHT * px_per_pt))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _draw(image: Image.Image, mark: Mark, scale: float) -> None:
    draw = ImageDraw.Draw(image)
    match mark:
        case Text():
            draw.text(
                (mark.at[0] * scale, mark.at[1] * scale),
                mark.text,
                fill=mark.colour,
                font=picture_font(mark.size * scale, mark.is_bold),
                anchor=_ANCHOR[mark.align],
            )
        case Polygon():
            _fill(image, mark, scale)
        case Stroke():
            width = max(1, round(mark.width * scale))
            for points in _dashes(mark.points) if mark.is_dashed else [mark.points]:
                draw.line(_scaled(points, scale), fill=mark.colour, width=width, joint="curve")
        case Picture():
            size = (max(1, round(mark.size[0] * scale)), max(1, round(mark.size[1] * scale)))
            picture = Image.fromarray(mark.pixels).resize(size, Image.Resampling.LANCZOS)
            image.paste(picture, (round(mark.at[0] * scale), round(mark.at[1] * scale)))


def _scaled(points: tuple[Point, ...], scale: float) -> list[Point]:
    return [(x * scale, y * scale) for x, y in points]


def _fill(image: Image.Image, mark: Polygon, scale: float) -> None:
    points = _scaled(mark.points, scale)
    left, top = (math.floor(min(values)) for values in zip(*points, strict=True))
    right, bottom = (math.ceil(max(values)) + 1 for values in zip(*points, strict=True))
    cover = Image.new("L", (right - left, bottom - top), 0)
    inside = [(x - left, y - top) for x, y in points]
    ImageDraw.Draw(cover).polygon(inside, fill=round(255 * mark.opacity))
    image.paste(mark.fill, (left, top, right, bottom), cover)


def _dashes(points: tuple[Point, ...]) -> list[tuple[Point, Point]]:
    """The dashes of a line; each segment begins with one."""
    found: list[tuple[Point, Point]] = []
    for start, end in itertools.pairwise(points):
        direction = np.subtract(end, start)
        length = float(np.hypot(*direction))
        for offset in np.arange(0.0, length, _DASH + _SPACE):
            stop = min(offset + _DASH, length)
            a, b = start + direction * (offset / length), start + direction * (stop / length)
            found.append(((float(a[0]), float(a[1])), (float(b[0]), float(b[1]))))
    return found
