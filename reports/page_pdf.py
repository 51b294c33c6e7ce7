"""A page as a PDF of one page: vectors, embedded fonts, the same bytes for the same marks."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from reportlab import rl_config
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from reports.page import HEIGHT, WIDTH, Colour, Mark, Page, Picture, Polygon, Stroke, Text
from reports.page_fonts import pdf_font

_CREATOR = "Lentigo"
# Streams stay binary: reportlab's ASCII85 in Python takes longer than all the rest of a page.
rl_config.useA85 = 0


def page_pdf(page: Page) -> bytes:
    """Write a page as PDF.

    Returns
    -------
        A PDF 1.4 file; without a time or a random identifier (reportlab's ``invariant``).
    """
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(WIDTH, HEIGHT), invariant=1, pageCompression=1)
    canvas.setTitle(page.title)
    canvas.setAuthor(_CREATOR)
    canvas.setCreator(_CREATOR)
    for mark in page.marks:
        _draw(canvas, mark)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _draw(canvas: Any, mark: Mark) -> None:
    match mark:
        case Text():
            _draw_text(canvas, mark)
        case Polygon():
            canvas.setFillColorRGB(*_unit(mark.fill), alpha=mark.opacity)
            canvas.drawPath(_path(canvas, mark.points, is_closed=True), stroke=0, fill=1)
        case Stroke():
            canvas.setStrokeColorRGB(*_unit(mark.colour))
            canvas.setLineWidth(mark.width)
            canvas.setDash([3, 2] if mark.is_dashed else [])
            canvas.drawPath(_path(canvas, mark.points, is_closed=False), stroke=1, fill=0)
        case Picture():
            left, top = mark.at
            width, height = mark.size
            image = ImageReader(Image.fromarray(mark.pixels))
            canvas.drawImage(image, left, HEIGHT - top - height, width, height)


def _draw_text(canvas: Any, mark: Text) -> None:
    canvas.setFillColorRGB(*_unit(mark.colour), alpha=1.0)
    canvas.setFont(pdf_font(mark.is_bold), mark.size)
    x, y = mark.at[0], HEIGHT - mark.at[1]
    if mark.align == "left":
        canvas.drawString(x, y, mark.text)
    elif mark.align == "centre":
        canvas.drawCentredString(x, y, mark.text)
    else:
        canvas.drawRightString(x, y, mark.text)


def _path(canvas: Any, points: tuple[tuple[float, float], ...], *, is_closed: bool) -> Any:
    path = canvas.beginPath()
    (x, y), *others = points
    path.moveTo(x, HEIGHT - y)
    for x, y in others:
        path.lineTo(x, HEIGHT - y)
    if is_closed:
        path.close()
    return path


def _unit(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
