"""One walk over a data set: the values that an instance is known and routed by, as bytes.

What they mean, and whether the instance is complete, is left to ``gateway.dicom.part10``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gateway.dicom.elements import ITEM, ByteSource, Element, Encoding, read_element, walk
from gateway.dicom.text import decode_text
from gateway.errors import InstanceError

_MAX_VALUE_BYTES = 4096
_MAX_ITEM_BYTES = 64 * 1024

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = 0x7FE00008
_DOUBLE_PIXEL_DATA = 0x7FE00009
_PIXEL_TAGS = frozenset((PIXEL_DATA, _FLOAT_PIXEL_DATA, _DOUBLE_PIXEL_DATA))
_ENCAPSULATED_DOCUMENT = 0x00420011
_ANATOMIC_REGION_SEQUENCE = 0x00082218
CODE_VALUE = 0x00080100
CODING_SCHEME_DESIGNATOR = 0x00080102
CODE_MEANING = 0x00080104
SPECIFIC_CHARACTER_SET = 0x00080005

IDENTITY_TAGS = {
    _SOP_CLASS_UID: "sop_class_uid",
    _SOP_INSTANCE_UID: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
}
TEXT_TAGS: Mapping[int, str] = MappingProxyType(
    {
        0x00080008: "image_type",
        0x00080020: "study_date",
        0x00080050: "accession_number",
        0x00080060: "modality",
        0x00080070: "manufacturer",
        0x00081030: "study_description",
        0x0008103E: "series_description",
        0x00081090: "manufacturer_model_name",
        0x00100010: "patient_name",
        0x00100020: "patient_id",
        0x00100021: "issuer_of_patient_id",
        0x00100030: "patient_birth_date",
        0x00100040: "patient_sex",
        0x00180015: "body_part_examined",
        0x00200060: "laterality",
        0x00200062: "image_laterality",
        0x00280004: "photometric_interpretation",
        0x00620020: "tracking_id",
        0x00620021: "tracking_uid",
    }
)
_NUMBER_TAGS = {
    0x00280002: "samples_per_pixel",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits_allocated",
}
_NUMBER_OF_FRAMES = 0x00280008
ACQUISITION_DATE_TIME = 0x0008002A
# Date and time of the acquisition, else of the content (PS3.3 C.7.6.1): the first pair that has a
# date counts.
DATE_AND_TIME = ((0x00080022, 0x00080032), (0x00080023, 0x00080033))
_WANTED = frozenset(
    (
        *IDENTITY_TAGS,
        *TEXT_TAGS,
        *_NUMBER_TAGS,
        *(tag for pair in DATE_AND_TIME for tag in pair),
        ACQUISITION_DATE_TIME,
        _NUMBER_OF_FRAMES,
        SPECIFIC_CHARACTER_SET,
    )
)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one walk over a data set found; values by tag, as they are encoded."""

    values: Mapping[int, bytes]
    byte_order: Literal["little", "big"]
    pixel_data: Element | None
    has_document: bool
    anatomic_region: Mapping[int, bytes]
    """Code Value, Coding Scheme Designator and Code Meaning by tag."""

    def number(self, tag: int) -> int:
        """Return a value of VR US; 0 where it is missing."""
        value = self.values.get(tag, b"")[:2]
        return int.from_bytes(value, self.byte_order) if len(value) == 2 else 0

    @property
    def frames(self) -> int:
        """Number of Frames (0028,0008); 1 where it is missing or odd."""
        text = decode_text(self.values.get(_NUMBER_OF_FRAMES, b""), ("ascii",))
        first = text.partition("\\")[0].strip()
        return max(1, int(first)) if first.isascii() and first.isdigit() else 1


def survey_data_set(source: ByteSource, start: int, encoding: Encoding) -> Survey:
    """Walk over every top-level element of a data set that starts at byte ``start``.

    Raises
    ------
    Unreadable, Truncated
        As ``gateway.dicom.elements.walk``.
    """
    values: dict[int, bytes] = {}
    pixel_data: Element | None = None
    has_document = False
    anatomic_region: Mapping[int, bytes] = {}
    for element in walk(source, start, encoding):
        if element.tag in _WANTED:
            values[element.tag] = source.peek(
                element.offset, min(element.length or 0, _MAX_VALUE_BYTES)
            )
        elif element.tag in _PIXEL_TAGS:
            pixel_data = element
        elif element.tag == _ENCAPSULATED_DOCUMENT:
            has_document = True
        elif element.tag == _ANATOMIC_REGION_SEQUENCE:
            anatomic_region = _first_code(source, element, encoding)
    return Survey(
        values=values,
        byte_order=encoding.byte_order,
        pixel_data=pixel_data,
        has_document=has_document,
        anatomic_region=anatomic_region,
    )


def _first_code(source: ByteSource, sequence: Element, encoding: Encoding) -> dict[int, bytes]:
    """Return the code of the first item; what is not there or odd is left out."""
    order = encoding.byte_order
    raw = source.peek(sequence.offset, 8)
    tag = int.from_bytes(raw[0:2], order) << 16 | int.from_bytes(raw[2:4], order)
    position = sequence.offset + 8
    end = min(sequence.end, position + _MAX_ITEM_BYTES)
    found: dict[int, bytes] = {}
    while tag == ITEM and position + 8 <= end:
        try:
            element = read_element(source, position, encoding)
        except InstanceError:
            break  # an odd item within a sequence whose own length holds: not worth a refusal
        if element.tag in (CODE_VALUE, CODING_SCHEME_DESIGNATOR, CODE_MEANING):
            found[element.tag] = source.peek(
                element.offset, min(element.length or 0, _MAX_VALUE_BYTES)
            )
        if element.tag >= CODE_MEANING:
            break
        position = element.end
    return found
