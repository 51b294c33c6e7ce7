"""Inspects a received DICOM file: what it is, whose it is, and whether it is complete.

Pixels are not decoded and values that nobody asked for are not read, so that a slide of several
gigabytes costs a few megabytes. Whether the instance is wanted is for
``gateway.listener.acceptance`` and the record to say.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gateway.dicom.elements import EXPLICIT_LITTLE, ByteSource
from gateway.dicom.file_meta import FileMeta, encoding_of, is_uid, read_meta
from gateway.dicom.survey import (
    ACQUISITION_DATE_TIME,
    CODE_MEANING,
    CODE_VALUE,
    CODING_SCHEME_DESIGNATOR,
    DATE_AND_TIME,
    IDENTITY_TAGS,
    PIXEL_DATA,
    SPECIFIC_CHARACTER_SET,
    TEXT_TAGS,
    Survey,
    survey_data_set,
)
from gateway.dicom.text import codecs_of, decode_text
from gateway.errors import MissingIdentity, Truncated, Unreadable
from gateway.listener.acceptance import (
    ACCEPTED_SOP_CLASSES,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_SYNTAXES,
    NATIVE_SYNTAXES,
)

_INFLATE_BYTES = 256 * 1024
_MAX_INFLATED_BYTES = 512 * 1024 * 1024  # what deflates a thousandfold is no image but a bomb
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"

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


def inspect_bytes(content: bytes | bytearray) -> InstanceHeader:
    """Return the header of a DICOM file that is in memory; as ``inspect``."""
    with memoryview(content) as view:
        return _inspect(_Memory(view), None)


class _Memory(ByteSource):
    """A file in memory."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self.size = len(content)

    def peek(self, offset: int, count: int) -> bytes:
        return bytes(self._content[offset : offset + count])

    def read_exactly(self, offset: int, count: int) -> bytes:
        data = self.peek(offset, count)
        if len(data) < count:
            raise Truncated(f"ends at byte {self.size}, inside an item")
        return data


def _inspect(source: ByteSource, folder: Path | None) -> InstanceHeader:
    meta = read_meta(source)
    if meta.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        with tempfile.TemporaryFile(dir=folder) as inflated:
            _inflate(source, meta.data_set_offset, inflated)
            survey = survey_data_set(ByteSource(inflated.fileno()), 0, EXPLICIT_LITTLE)
    else:
        encoding = encoding_of(meta.transfer_syntax_uid)
        survey = survey_data_set(source, meta.data_set_offset, encoding)
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


def _header(survey: Survey, meta: FileMeta) -> InstanceHeader:
    identity: dict[str, str] = {}
    for tag, name in IDENTITY_TAGS.items():
        uid = decode_text(survey.values.get(tag, b""), ("ascii",))
        if not is_uid(uid):
            fault = "invalid" if uid else "missing"
            raise MissingIdentity(f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {fault}")
        identity[name] = uid
    character_set = decode_text(survey.values.get(SPECIFIC_CHARACTER_SET, b""), ("ascii",))
    codecs = codecs_of(character_set)
    texts = {
        name: _text(survey.values[tag], codecs, name)
        for tag, name in TEXT_TAGS.items()
        if tag in survey.values
    }
    return InstanceHeader(
        **identity,
        **texts,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        anatomic_region=decode_text(survey.anatomic_region.get(CODE_MEANING, b""), codecs),
        anatomic_region_code=_region_code(survey, codecs),
        acquired_at=_acquired_at(survey),
        frames=survey.frames,
        rows=survey.number(0x00280010),
        columns=survey.number(0x00280011),
    )


def _region_code(survey: Survey, codecs: tuple[str, ...]) -> str:
    scheme, value = (
        decode_text(survey.anatomic_region.get(tag, b""), codecs)
        for tag in (CODING_SCHEME_DESIGNATOR, CODE_VALUE)
    )
    return f"{scheme}|{value}" if scheme and value else ""


def _acquired_at(survey: Survey) -> str:
    """Return the moment that the image shows, without believing in impossible dates."""

    def digits(tag: int) -> str:
        text = decode_text(survey.values.get(tag, b""), ("ascii",))
        # Dots and colons are of the time before DICOM 3 (PS3.5 6.2); zone and fraction are cut.
        return re.sub(r"[.:]", "", re.split(r"[+-]", text.partition("\\")[0], maxsplit=1)[0])

    moments = [digits(ACQUISITION_DATE_TIME)]
    moments += [digits(date) + digits(time) for date, time in DATE_AND_TIME if digits(date)]
    for moment in moments:
        match = re.match(r"((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(\d*)", moment)
        if match is not None:
            return match[1] + match[2][:6].ljust(6, "0")
    return ""


def _text(value: bytes, codecs: tuple[str, ...], name: str) -> str:
    text = decode_text(value, codecs)
    return text[:_SHORT_CHARACTERS] if name in _SHORT_FIELDS else text


def _check_pixel_data(survey: Survey, header: InstanceHeader) -> None:
    accepted = ACCEPTED_SOP_CLASSES.get(header.sop_class_uid)
    if survey.pixel_data is None:
        if accepted is not None and accepted.has_pixel_data:
            raise Truncated("an image without pixel data")
        if header.sop_class_uid == _ENCAPSULATED_PDF and not survey.has_document:
            raise Truncated("an encapsulated document without the document")
        return
    is_native = header.transfer_syntax_uid in (*NATIVE_SYNTAXES, *DEFLATED_SYNTAXES)
    if survey.pixel_data.length is not None:
        if not is_native and survey.pixel_data.tag == PIXEL_DATA:
            raise Unreadable("native pixel data in a compressed transfer syntax")  # PS3.5 A.4
        _check_native_length(survey, header, survey.pixel_data.length)
    elif is_native:
        raise Unreadable("encapsulated pixel data in an uncompressed transfer syntax")
    elif survey.pixel_data.fragments is not None and survey.pixel_data.fragments < header.frames:
        raise Truncated(f"{survey.pixel_data.fragments} fragments for {header.frames} frames")


def _check_native_length(survey: Survey, header: InstanceHeader, length: int) -> None:
    samples = survey.number(0x00280002) or 1
    bits_allocated = survey.number(0x00280100)
    bits = header.rows * header.columns * samples * bits_allocated * header.frames
    # PS3.3 C.7.6.3.1.2: subsampled chrominance, 2 or 1.5 samples a pixel where 3 are declared.
    if header.photometric_interpretation in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        bits = bits * 2 // 3
    elif header.photometric_interpretation == "YBR_PARTIAL_420":
        bits = bits // 2
    expected = (bits + 7) // 8
    if length < expected:
        raise Truncated(f"{length} bytes of pixel data where {expected} are declared")
