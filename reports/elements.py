"""Data elements and sequence items, encoded where they are made (Explicit VR Little Endian).

A report on hundreds of lesions holds ten thousand nested items. As ``Dataset`` objects they take
pydicom seconds to build and to write. Here an item is bytes, which its parent takes over as they
are, and becomes an ordinary ``Dataset`` only when somebody looks into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from struct import Struct
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

CHARACTER_SET = "ISO_IR 192"
"""UTF-8 (PS3.3 C.12.1.1.2): holds whatever the sources held."""

Element: TypeAlias = tuple[int, bytes]
"""Tag, and the whole element as it is written."""

_PYTHON_CHARACTER_SET = convert_encodings(CHARACTER_SET)
_ITEM = Struct("<HHL")
_LONG_ELEMENT = Struct("<HH2sHL")  # the length of SQ and UT takes 32 bits (PS3.5 Table 7.1-1)
_SHORT_ELEMENT = Struct("<HH2sH")
_SHORT_LENGTH = 0xFFFF


class EncodedItem(Dataset):
    """A sequence item that is encoded already, and decoded when somebody looks into it."""

    def __init__(self, content: bytes) -> None:
        # Not through Dataset, whose attributes cost more than the whole item.
        self.__dict__["encoded_content"] = content

    def __getattr__(self, name: str) -> Any:
        """Decode on the first look at anything that ``Dataset.__init__`` would have set."""
        content = self.__dict__.get("encoded_content")
        if content is None:
            return super().__getattr__(name)
        del self.__dict__["encoded_content"]  # from now on elements may change
        decoded = read_dataset(BytesIO(content), False, True, parent_encoding=_PYTHON_CHARACTER_SET)
        super().__init__(decoded, parent_encoding=_PYTHON_CHARACTER_SET)
        mark_encoded(self)
        return getattr(self, name)


def text(tag: int, vr: str, value: str) -> Element:
    """One element of any text VR, padded to an even length (PS3.5 6.2)."""
    encoded = value.encode("utf-8")
    if len(encoded) % 2:
        encoded += b"\0" if vr == "UI" else b" "
    return _element(tag, vr, encoded)


def floats(tag: int, values: NDArray[np.floating]) -> Element:
    """One element of VR FL."""
    return _element(tag, "FL", np.ascontiguousarray(values, "<f4").tobytes())


def sequence(tag: int, items: Iterable[Dataset]) -> Element:
    """One sequence, its length defined (PS3.5 7.5.1)."""
    return _element(tag, "SQ", encoded_items(items))


def item(*elements: Element) -> EncodedItem:
    """A sequence item of elements in any order."""
    return EncodedItem(b"".join([encoded for _, encoded in sorted(elements)]))


def mark_encoded(ds: Dataset) -> None:
    """Say that raw elements are in the encoding of this module: they are then written unread."""
    ds.set_original_encoding(False, True, _PYTHON_CHARACTER_SET)


def encoded_items(items: Iterable[Dataset]) -> bytes:
    """Items with their tags and lengths, the bytes that pydicom writes."""
    contents = map(_content, items)
    return b"".join([_ITEM.pack(0xFFFE, 0xE000, len(each)) + each for each in contents])


def _content(ds: Dataset) -> bytes:
    kept: bytes | None = ds.__dict__.get("encoded_content")
    if kept is not None:
        return kept
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, ds, _PYTHON_CHARACTER_SET)
    return buffer.getvalue()


def _element(tag: int, vr: str, value: bytes) -> Element:
    length = len(value)
    if vr in ("SQ", "UT"):
        head = _LONG_ELEMENT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    elif length <= _SHORT_LENGTH:
        head = _SHORT_ELEMENT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
    else:
        # As pydicom does: PS3.5 6.2.2 lets an element that is too long for its VR be UN.
        head = _LONG_ELEMENT.pack(tag >> 16, tag & 0xFFFF, b"UN", 0, length)
    return tag, head + value
