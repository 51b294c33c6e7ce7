"""Text of DICOM values in any Specific Character Set, never failing (PS3.5 6.1, PS3.3 C.12.1.1.2).

Values that break their declared character set are common in the field; an instance is not refused
for them. The declared set is tried first, then UTF-8, then Latin-1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

_ESCAPE = b"\x1b"
# pydicom reads these as Latin-1; they are ISO 646, and what breaks that may well be UTF-8.
_DEFAULT_REPERTOIRE = ("", "ISO_IR 6", "ISO 2022 IR 6")
_MAX_CHARACTERS = 1024
# Python's codecs of these read the escape sequence themselves.
_ESCAPE_AWARE = ("iso2022_jp", "iso2022_jp_2")


def codecs_of(specific_character_set: str) -> tuple[str, ...]:
    """Return the Python codecs of Specific Character Set (0008,0005), the initial one first.

    An unknown defined term is left out; without any, ASCII is assumed (PS3.5 6.1.2.1).

    Examples
    --------
    >>> codecs_of("ISO_IR 192"), codecs_of("")
    (('UTF8',), ('ascii',))
    """
    terms = [term.strip() for term in specific_character_set.split("\\")]
    known = [
        "ascii" if term in _DEFAULT_REPERTOIRE else python_encoding[term]
        for term in terms
        if term in python_encoding
    ]
    return tuple(known) or ("ascii",)


def decode_text(value: bytes, codecs: Sequence[str]) -> str:
    """Return ``value`` as text without padding and control characters, at most 1024 long.

    Parameters
    ----------
    value
        Encoded value, components and delimiters included.
    codecs
        From ``codecs_of``.
    """
    text = _decode(value.rstrip(b"\0 "), codecs)
    if not text.isprintable():
        text = "".join(each for each in text if unicodedata.category(each) != "Cc")
    return text.strip()[:_MAX_CHARACTERS]


def _decode(value: bytes, codecs: Sequence[str]) -> str:
    if _ESCAPE in value:
        head, *escaped = value.split(_ESCAPE)
        return _strictly(head, codecs[0]) + "".join(_after_escape(part) for part in escaped)
    return _strictly(value, codecs[0])


def _after_escape(part: bytes) -> str:
    """Decode what follows one escape sequence of ISO 2022 (PS3.3 Table C.12-3)."""
    whole = _ESCAPE + part
    for length in (4, 3):  # the longer designations first
        codec = CODES_TO_ENCODINGS.get(whole[:length])
        if codec is not None:
            return _strictly(whole if codec in _ESCAPE_AWARE else whole[length:], codec)
    return _strictly(part, "ascii")


def _strictly(value: bytes, codec: str) -> str:
    for candidate in (codec, "utf-8"):
        try:
            return value.decode(candidate)
        except UnicodeDecodeError:
            continue
    return value.decode("latin-1")
