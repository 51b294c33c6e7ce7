"""The fonts of pages: Bitstream Vera, which reportlab bundles, embedded into every PDF.

The same files draw the picture of a page, so that its lines break where those of the PDF do.
"""

from __future__ import annotations

import functools
from pathlib import Path

import reportlab
from PIL import ImageFont
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from reports.typography import drawable as in_plain_letters

_FILES = {False: "Vera.ttf", True: "VeraBd.ttf"}
_NAMES = {False: "LentigoVera", True: "LentigoVeraBold"}


@functools.cache
def pdf_font(is_bold: bool) -> str:
    """Name of a font that is registered with reportlab."""
    pdfmetrics.registerFont(TTFont(_NAMES[is_bold], str(_path(is_bold))))
    return _NAMES[is_bold]


@functools.cache
def picture_font(size_px: float, is_bold: bool) -> ImageFont.FreeTypeFont:
    """The same font for Pillow."""
    return ImageFont.truetype(str(_path(is_bold)), size_px)


def _path(is_bold: bool) -> Path:
    return Path(reportlab.__file__).parent / "fonts" / _FILES[is_bold]


@functools.cache
def _letters() -> frozenset[int]:
    pdf_font(False)
    return frozenset(pdfmetrics.getFont(_NAMES[False]).face.charToGlyph)


def drawable(text: str) -> str:
    """Text in the letters that the font has; accents stay, what is foreign is spelled out.

    Examples
    --------
    >>> drawable("naïve ≥ 6 mm")
    'naïve ≥ 6 mm'
    """
    clean = " ".join(text.split())
    known = _letters()
    return "".join(each if ord(each) in known else in_plain_letters(each) for each in clean)


def text_width(text: str, size: float, is_bold: bool) -> float:
    """Width of a line in points."""
    return float(pdfmetrics.stringWidth(drawable(text), pdf_font(is_bold), size))


def split_lines(text: str, size: float, is_bold: bool, width: float) -> list[str]:
    """Text in lines that are no wider than ``width``; a word that is wider is cut."""
    lines: list[str] = []
    line = ""
    for word in drawable(text).split():
        for piece in _pieces(word, size, is_bold, width):
            candidate = f"{line} {piece}" if line else piece
            if not line or text_width(candidate, size, is_bold) <= width:
                line = candidate
            else:
                lines.append(line)
                line = piece
    return [*lines, line] if line else lines


def _pieces(word: str, size: float, is_bold: bool, width: float) -> list[str]:
    if text_width(word, size, is_bold) <= width:
        return [word]
    pieces = [""]
    for letter in word:
        if pieces[-1] and text_width(pieces[-1] + letter, size, is_bold) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
