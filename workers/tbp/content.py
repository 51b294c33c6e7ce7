"""The content tree of a structured report as plain dictionaries.

A report on 2,000 lesions holds 400,000 nested items; as Datasets they take minutes to read. Only
what the reader of measurements looks at is kept. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import TypeAlias

from pydicom import Dataset
from pydicom.charset import decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

REFERENCED_SOP_INSTANCE_UID = 0x0008_1155
REFERENCED_SOP_SEQUENCE = 0x0008_1199
CODE_VALUE, CODING_SCHEME, CODE_MEANING = 0x0008_0100, 0x0008_0102, 0x0008_0104
UNITS = 0x0040_08EA
VALUE_TYPE, CONCEPT_NAME = 0x0040_A040, 0x0040_A043
UID_VALUE, TEXT_VALUE, CONCEPT_CODE = 0x0040_A124, 0x0040_A160, 0x0040_A168
MEASURED_VALUE, NUMERIC_VALUE = 0x0040_A300, 0x0040_A30A
CONTENT = 0x0040_A730

Item: TypeAlias = dict[int, "bytes | list[Item]"]
"""Tag -> value as encoded, or items; text is in UTF-8."""

_SEQUENCES = frozenset(
    (REFERENCED_SOP_SEQUENCE, UNITS, CONCEPT_NAME, CONCEPT_CODE, MEASURED_VALUE, CONTENT)
)
_TEXTS = (CODE_MEANING, TEXT_VALUE)
_PLAIN = (
    *(REFERENCED_SOP_INSTANCE_UID, CODE_VALUE, CODING_SCHEME, CODE_MEANING, VALUE_TYPE),
    *(UID_VALUE, TEXT_VALUE, NUMERIC_VALUE),
)
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_TAG = Struct("<HH")
_LONG = Struct("<L")
_SHORT = Struct("<H")
MAX_DEPTH = 40
"""Levels of nesting; a measurement lies at the fifth."""


class DamagedReport(ValueError):
    """The bytes of a content tree contradict each other."""


def content_of(report: Dataset) -> list[Item]:
    """Return the items below the root.

    Raises
    ------
    DamagedReport
        The tree cannot be read to its end.
    """
    tag = BaseTag(CONTENT)
    if tag not in report:
        return []
    found = report.get_item(tag)
    if isinstance(found, RawDataElement) and found.value and found.is_little_endian:
        encodings = report.original_character_set or "iso8859"
        reader = _Reader(
            found.value,
            is_implicit=found.is_implicit_VR,
            encodings=[encodings] if isinstance(encodings, str) else list(encodings),
        )
        try:
            return reader.items(0, len(found.value), 0)[0]
        except error as exc:
            raise DamagedReport("a structured report ends early") from exc
    return [_plain(item, 0) for item in report[tag].value or ()]


def items(item: Item, tag: int) -> list[Item]:
    """The items of a sequence; none where it is absent."""
    found = item.get(tag)
    return found if isinstance(found, list) else []


def text(item: Item, tag: int) -> str:
    """The text of an element; empty where it is absent."""
    found = item.get(tag)
    return found.decode("utf-8", "replace").strip("\0 ") if isinstance(found, bytes) else ""


class _Reader:
    """Walks encoded items in Little Endian, their lengths defined or not."""

    def __init__(self, data: bytes, *, is_implicit: bool, encodings: list[str]) -> None:
        self._data = data
        self._is_implicit = is_implicit
        self._encodings = encodings
        self._is_utf_8 = encodings == ["utf8"]

    def items(self, start: int, end: int, depth: int) -> tuple[list[Item], int]:
        """The items between two places, and where they end."""
        if depth > MAX_DEPTH:
            raise DamagedReport("a structured report nests too deeply")
        found: list[Item] = []
        at = start
        while at < end:
            tag, length = self._tag(at), _LONG.unpack_from(self._data, at + 4)[0]
            at += 8
            if tag == _SEQUENCE_END:
                break
            stop = end if length == _UNDEFINED else at + length
            if tag != _ITEM or stop > end:
                raise DamagedReport("a structured report holds an impossible item")
            item, at = self._item(at, stop, depth)
            found.append(item)
        return found, at

    def _item(self, start: int, end: int, depth: int) -> tuple[Item, int]:
        item: Item = {}
        at = start
        while at < end:
            tag = self._tag(at)
            if tag == _ITEM_END:
                return item, at + 8
            is_sequence, at, length = self._head(tag, at)
            stop = at + length
            if is_sequence and (tag in _SEQUENCES or length == _UNDEFINED):
                stop = end if length == _UNDEFINED else stop
                if stop > end:
                    raise DamagedReport("a structured report holds an impossible length")
                item[tag], at = self.items(at, stop, depth + 1)
                continue
            if length == _UNDEFINED or stop > end:
                raise DamagedReport("a structured report holds an impossible length")
            value = self._data[at:stop]
            item[tag] = value if tag not in _TEXTS or self._is_utf_8 else self._in_utf_8(value)
            at = stop
        return item, at

    def _tag(self, at: int) -> int:
        group, element = _TAG.unpack_from(self._data, at)
        return int(group) << 16 | int(element)

    def _head(self, tag: int, at: int) -> tuple[bool, int, int]:
        """Whether an element is a sequence, where its value begins, and its length."""
        data = self._data
        if self._is_implicit:
            length = _LONG.unpack_from(data, at + 4)[0]
            return tag in _SEQUENCES or length == _UNDEFINED, at + 8, length
        representation = data[at + 4 : at + 6]
        if representation in _LONG_VRS:
            return representation == b"SQ", at + 12, _LONG.unpack_from(data, at + 8)[0]
        return False, at + 8, _SHORT.unpack_from(data, at + 6)[0]

    def _in_utf_8(self, value: bytes) -> bytes:
        return decode_bytes(value, self._encodings, set()).encode("utf-8")


def _plain(ds: Dataset, depth: int) -> Item:
    """What the reader looks at, out of items that are decoded already."""
    if depth > MAX_DEPTH:
        raise DamagedReport("a structured report nests too deeply")
    item: Item = {}
    for tag in _PLAIN:
        if tag in ds and ds[tag].value is not None:
            item[tag] = str(ds[tag].value).encode("utf-8")
    for tag in _SEQUENCES:
        if tag in ds and isinstance(ds[tag].value, Sequence):
            item[tag] = [_plain(child, depth + 1) for child in ds[tag].value]
    return item
