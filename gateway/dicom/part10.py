"""Inspects a received DICOM file: what it is, whose it is, and whether it is complete.

Pixels are not decoded and values that nobody asked for are not read, so that a slide of several
gigabytes costs a few megabytes. Whether the instance is wanted is for
``gateway.listener.acceptance`` and the record to say.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

from gateway.dicom.elements import (
    EXPLICIT_LITTLE,
    ITEM,
    ByteSource,
    Element,
    Encoding,
    read_element,
    walk,
)
from gateway.dicom.file_meta import FileMeta, encoding_of, is_uid, read_meta
from gateway.dicom.text import codecs_of, decode_text
from gateway.errors import InstanceError, MissingIdentity, Truncated, Unreadable
from gateway.listener.acceptance import (
    ACCEPTED_SOP_CLASSES,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_SYNTAXES,
    NATIVE_SYNTAXES,
)

_MAX_VALUE_BYTES = 4096
_MAX_ITEM_BYTES = 64 * 1024
_INFLATE_BYTES = 256 * 1024
_MAX_INFLATED_BYTES = 512 * 1024 * 1024  # what deflates a thousandfold is no image but a bomb

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = 0x7FE00008
_DOUBLE_PIXEL_DATA = 0x7FE00009
_PIXEL_TAGS = frozenset((_PIXEL_DATA, _FLOAT_PIXEL_DATA, _DOUBLE_PIXEL_DATA))
_ENCAPSULATED_DOCUMENT = 0x00420011
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_ANATOMIC_REGION_SEQUENCE = 0x00082218
_CODE_VALUE = 0x00080100
_CODING_SCHEME_DESIGNATOR = 0x00080102
_CODE_MEANING = 0x00080104
_SPECIFIC_CHARACTER_SET = 0x00080005

_IDENTITY_TAGS = {
    _SOP_CLASS_UID: "sop_class_uid",
    _SOP_INSTANCE_UID: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
}
_TEXT_TAGS: Mapping[int, str] = MappingProxyType(
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
_ACQUISITION_DATE_TIME = 0x0008002A
# Date and time of the acquisition, else of the content (PS3.3 C.7.6.1): the first pair that has a
# date counts.
_DATE_AND_TIME = ((0x00080022, 0x00080032), (0x00080023, 0x00080033))
_WANTED = frozenset(
    (
        *_IDENTITY_TAGS,
        *_TEXT_TAGS,
        *_NUMBER_TAGS,
        *(tag for pair in _DATE_AND_TIME for tag in pair),
        _ACQUISITION_DATE_TIME,
        _NUMBER_OF_FRAMES,
        _SPECIFIC_CHARACTER_SET,
    )
)
# Coded and date values are short by their VR; a longer one is cut, not believed.
_SHORT_FIELDS = frozenset(
    (
        "modality",
        "patient_birth_date",
        "patient_sex",
        "study_date",
        "laterality",
        "image_laterality",
    )
)
_SHORT_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class InstanceHeader:
    """What the record and the router need to know of an instance; texts are '' when missing.

    Values of several items keep their backslashes. Patient attributes are personal data: they go
    to the record's identity table and nowhere else.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    image_type: str = ""
    study_date: str = ""
    study_description: str = ""
    series_description: str = ""
    accession_number: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    patient_id: str = field(default="", repr=False)
    issuer_of_patient_id: str = field(default="", repr=False)
    patient_name: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = field(default="", repr=False)
    body_part_examined: str = ""
    anatomic_region: str = ""
    """Code Meaning of the first item of Anatomic Region Sequence."""
    anatomic_region_code: str = ""
    """Coding Scheme Designator and Code Value of that item, e.g. ``SCT|40983000``."""
    acquired_at: str = ""
    """``YYYYMMDDHHMMSS`` of the acquisition, else of the content, by the device's clock; zeros
    where no time is given, empty without a date."""
    laterality: str = ""
    image_laterality: str = ""
    photometric_interpretation: str = ""
    tracking_id: str = ""
    tracking_uid: str = ""
    frames: int = 1
    rows: int = 0
    columns: int = 0


def inspect(path: Path) -> InstanceHeader:
    """Return the header of a DICOM file after checking that its data set is complete.

    The walk covers every top-level element to the last byte; sequences of undefined length and
    encapsulated pixel data are followed to their delimiters. The length of native pixel data is
    compared with the Image Pixel Module (PS3.3 C.7.6.3); a longer one, e.g. padded, is accepted.

    Raises
    ------
    Unreadable
        Not a DICOM file, or no data set in the transfer syntax it states.
    Truncated
        Something is missing at the end: of an element, of the pixel data, or all of it.
    MissingIdentity
        A SOP Class, SOP Instance, Study or Series Instance UID is absent or invalid.
    """
    with path.open("rb") as file:
        return _inspect(ByteSource(file.fileno()), path.parent)


def inspect_bytes(content: bytes) -> InstanceHeader:
    """Return the header of a DICOM file that is in memory; as ``inspect``."""
    return _inspect(_Memory(content), None)


class _Memory(ByteSource):
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def peek(self, offset: int, count: int) -> bytes:
        return self._content[offset : offset + count]

    def read_exactly(self, offset: int, count: int) -> bytes:
        data = self._content[offset : offset + count]
        if len(data) < count:
            raise Truncated(f"ends at byte {self.size}, inside an item")
        return data


def _inspect(source: ByteSource, folder: Path | None) -> InstanceHeader:
    meta = read_meta(source)
    if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        with tempfile.TemporaryFile(dir=folder) as inflated:
            _inflate(source, meta.data_set_offset, inflated)
            survey = _survey(ByteSource(inflated.fileno()), 0, EXPLICIT_LITTLE)
    else:
        encoding = encoding_of(meta.transfer_syntax_uid)
        survey = _survey(source, meta.data_set_offset, encoding)
    header = _header(survey, meta)
    _check_pixel_data(survey, header)
    return header


def _inflate(source: ByteSource, start: int, into: IO[bytes]) -> None:
    """Inflate a deflated data set (PS3.5 A.5), at most so much of it as is worth a look."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    position, written = start, 0
    while not inflater.eof:
        chunk = inflater.unconsumed_tail
        if not chunk:
            chunk = source.peek(position, _INFLATE_BYTES)
            position += len(chunk)
        if not chunk:
            raise Truncated("the deflated data set ends before its end")
        try:
            data = inflater.decompress(chunk, _INFLATE_BYTES)
        except zlib.error as exc:
            raise Unreadable("not a deflated data set") from exc
        written += len(data)
        if written > _MAX_INFLATED_BYTES:
            raise Unreadable(f"a deflated data set of more than {_MAX_INFLATED_BYTES} bytes")
        into.write(data)
    into.flush()


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What one walk over the data set found."""

    values: Mapping[int, bytes]
    byte_order: Literal["little", "big"]
    pixel_data: Element | None
    has_document: bool
    anatomic_region: Mapping[int, bytes]
    """Code Value, Coding Scheme Designator and Code Meaning by tag."""


def _survey(source: ByteSource, start: int, encoding: Encoding) -> _Survey:
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
    return _Survey(
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
        if element.tag in (_CODE_VALUE, _CODING_SCHEME_DESIGNATOR, _CODE_MEANING):
            found[element.tag] = source.peek(
                element.offset, min(element.length or 0, _MAX_VALUE_BYTES)
            )
        if element.tag >= _CODE_MEANING:
            break
        position = element.end
    return found


def _header(survey: _Survey, meta: FileMeta) -> InstanceHeader:
    identity: dict[str, str] = {}
    for tag, name in _IDENTITY_TAGS.items():
        uid = decode_text(survey.values.get(tag, b""), ("ascii",))
        if not is_uid(uid):
            fault = "invalid" if uid else "missing"
            raise MissingIdentity(f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {fault}")
        identity[name] = uid
    character_set = decode_text(survey.values.get(_SPECIFIC_CHARACTER_SET, b""), ("ascii",))
    codecs = codecs_of(character_set)
    texts = {
        name: _text(survey.values[tag], codecs, name)
        for tag, name in _TEXT_TAGS.items()
        if tag in survey.values
    }
    return InstanceHeader(
        **identity,
        **texts,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        anatomic_region=decode_text(survey.anatomic_region.get(_CODE_MEANING, b""), codecs),
        anatomic_region_code=_region_code(survey, codecs),
        acquired_at=_acquired_at(survey),
        frames=_frames(survey),
        rows=_number(survey, 0x00280010),
        columns=_number(survey, 0x00280011),
    )


def _region_code(survey: _Survey, codecs: tuple[str, ...]) -> str:
    scheme, value = (
        decode_text(survey.anatomic_region.get(tag, b""), codecs)
        for tag in (_CODING_SCHEME_DESIGNATOR, _CODE_VALUE)
    )
    return f"{scheme}|{value}" if scheme and value else ""


def _acquired_at(survey: _Survey) -> str:
    """Return the moment that the image shows, without believing in impossible dates."""

    def digits(tag: int) -> str:
        text = decode_text(survey.values.get(tag, b""), ("ascii",))
        # Dots and colons are of the time before DICOM 3 (PS3.5 6.2); zone and fraction are cut.
        return re.sub(r"[.:]", "", re.split(r"[+-]", text.partition("\\")[0], maxsplit=1)[0])

    moments = [digits(_ACQUISITION_DATE_TIME)]
    moments += [digits(date) + digits(time) for date, time in _DATE_AND_TIME if digits(date)]
    for moment in moments:
        match = re.match(r"((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(\d*)", moment)
        if match is not None:
            return match[1] + match[2][:6].ljust(6, "0")
    return ""


def _text(value: bytes, codecs: tuple[str, ...], name: str) -> str:
    text = decode_text(value, codecs)
    return text[:_SHORT_CHARACTERS] if name in _SHORT_FIELDS else text


def _number(survey: _Survey, tag: int) -> int:
    value = survey.values.get(tag, b"")[:2]
    return int.from_bytes(value, survey.byte_order) if len(value) == 2 else 0


def _frames(survey: _Survey) -> int:
    text = decode_text(survey.values.get(_NUMBER_OF_FRAMES, b""), ("ascii",))
    first = text.partition("\\")[0].strip()
    return max(1, int(first)) if first.isascii() and first.isdigit() else 1


def _check_pixel_data(survey: _Survey, header: InstanceHeader) -> None:
    accepted = ACCEPTED_SOP_CLASSES.get(header.sop_class_uid)
    if survey.pixel_data is None:
        if accepted is not None and accepted.has_pixel_data:
            raise Truncated("an image without pixel data")
        if header.sop_class_uid == _ENCAPSULATED_PDF and not survey.has_document:
            raise Truncated("an encapsulated document without the document")
        return
    is_native = header.transfer_syntax_uid in (*NATIVE_SYNTAXES, *DEFLATED_SYNTAXES)
    if survey.pixel_data.length is not None:
        if not is_native and survey.pixel_data.tag == _PIXEL_DATA:
            raise Unreadable("native pixel data in a compressed transfer syntax")  # PS3.5 A.4
        _check_native_length(survey, header, survey.pixel_data.length)
    elif is_native:
        raise Unreadable("encapsulated pixel data in an uncompressed transfer syntax")
    elif survey.pixel_data.fragments is not None and survey.pixel_data.fragments < header.frames:
        raise Truncated(f"{survey.pixel_data.fragments} fragments for {header.frames} frames")


def _check_native_length(survey: _Survey, header: InstanceHeader, length: int) -> None:
    samples = _number(survey, 0x00280002) or 1
    bits_allocated = _number(survey, 0x00280100)
    bits = header.rows * header.columns * samples * bits_allocated * header.frames
    # PS3.3 C.7.6.3.1.2: subsampled chrominance, 2 or 1.5 samples a pixel where 3 are declared.
    if header.photometric_interpretation in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        bits = bits * 2 // 3
    elif header.photometric_interpretation == "YBR_PARTIAL_420":
        bits = bits // 2
    expected = (bits + 7) // 8
    if length < expected:
        raise Truncated(f"{length} bytes of pixel data where {expected} are declared")
