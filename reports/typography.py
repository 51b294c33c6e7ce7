"""Text on pictures, with the one font that is always there.

Pillow bundles a scalable Latin font, so pictures look the same on every host; it lacks accented
letters and many signs, which are spelled out here.
"""

from __future__ import annotations

import bisect
import functools
import unicodedata

from PIL import ImageFont

_SPELLED_OUT = {
    "ä": "ae",
    "ö": "oe",
    "ü": "ue",
    "Ä": "Ae",
    "Ö": "Oe",
    "Ü": "Ue",
    "ß": "ss",
    "ø": "o",
    "Ø": "O",
    "æ": "ae",
    "Æ": "Ae",
    "œ": "oe",
    "Œ": "Oe",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "–": "-",
    "—": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "…": "...",
    "→": "->",
    "•": "-",
}
_UNDRAWABLE = "?"


def drawable(text: str) -> str:
    """Text in the letters that the bundled font has.

    Examples
    --------
    >>> drawable("Nävus ≥ 6 mm, naïve")
    'Naevus >= 6 mm, naive'
    """
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    spelled = "".join(_SPELLED_OUT.get(letter, letter) for letter in composed)
    plain = unicodedata.normalize("NFKD", spelled)
    letters = (letter for letter in plain if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else _UNDRAWABLE for letter in letters)


@functools.cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """The bundled font at a height in pixels."""
    loaded = ImageFont.load_default(size_px)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded


def width(text: str, size_px: int) -> int:
    """Width of drawn text in pixels."""
    return int(font(size_px).getlength(text) + 0.5)


def fitted(text: str, size_px: int, width_px: int) -> str:
    """The text, cut with dots where it is wider than ``width_px``."""
    if width(text, size_px) <= width_px:
        return text
    candidates = range(min(len(text), width_px) + 1)  # no letter is narrower than a pixel
    kept = bisect.bisect_right(candidates, width_px, key=lambda n: width(text[:n] + "...", size_px))
    return text[: max(0, kept - 1)].rstrip() + "..."


def wrapped(text: str, size_px: int, width_px: int, max_lines: int) -> list[str]:
    """The text in lines of at most ``width_px``; the last is cut with dots if text remains."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines:
        line = words.pop(0)
        while words and width(f"{line} {words[0]}", size_px) <= width_px:
            line = f"{line} {words.pop(0)}"
        lines.append(fitted(line, size_px, width_px))
    if words:
        rest = " ".join(words)[:width_px]
        lines[-1] = fitted(f"{lines[-1]} {rest}", size_px, width_px)
    return lines
