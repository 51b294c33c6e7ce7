from __future__ import annotations

from typing import Any

import pytest
import report_builders as builders
from pydicom import Dataset

from reports.attributes import copied
from reports.encode import SourceImage, encode
from reports.errors import SourceError
from reports.source import Source, select_sources

NAMES = [
    ("ISO_IR 100", "Müller^Jürgen"),
    ("ISO_IR 144", "Люкceмбypг"),
    ("ISO_IR 192", "山田^太郎"),
    ("GB18030", "王^小东"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
]


def source_of(header: Dataset) -> Source:
    image = SourceImage(header=header, pixels=None)
    (source,) = select_sources(builders.context(image), [str(header.SOPInstanceUID)])
    return source


@pytest.mark.parametrize(("character_set", "name"), NAMES)
def test_name_survives_in_every_object(character_set: Any, name: str) -> None:
    header = builders.header(SpecificCharacterSet=character_set, PatientName=name)
    assert str(header.PatientName) == name  # the source itself is as meant
    objects = encode(
        builders.result(builders.assessment()), builders.context(builders.source(header))
    )
    assert len(objects) == 4
    for item in objects:
        again = builders.reread(item.dataset)
        assert again.SpecificCharacterSet == "ISO_IR 192"
        assert str(again.PatientName) == name


def test_text_in_a_sequence_item_is_decoded_by_the_items_own_character_set() -> None:
    issuer = Dataset()
    issuer.SpecificCharacterSet = "ISO_IR 144"
    issuer.LocalNamespaceEntityID = "Больница"
    header = builders.header(
        SpecificCharacterSet="ISO_IR 100", IssuerOfAccessionNumberSequence=[issuer]
    )
    (item,) = copied(header, ("IssuerOfAccessionNumberSequence",)).IssuerOfAccessionNumberSequence
    assert item.LocalNamespaceEntityID == "Больница"
    assert "SpecificCharacterSet" not in item


def test_bytes_outside_the_stated_character_set_do_not_stop_the_report() -> None:
    header = builders.header()
    header.SpecificCharacterSet = "ISO_IR 6"
    raw = builders.written(header).getvalue().replace(b"Probe^Paula ", b"M\xfcller^Jan  ")
    objects = encode(
        builders.result(builders.assessment()),
        builders.context(builders.source(builders.dcmread(builders.io.BytesIO(raw)))),
    )
    assert all("ller^Jan" in str(item.dataset.PatientName) for item in objects)


TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@pytest.mark.parametrize("keyword", TYPE_2)
def test_missing_type_2_attribute_is_written_empty(keyword: str) -> None:
    header = source_of(builders.header(without=(keyword,))).header
    assert keyword in header
    assert header[keyword].is_empty


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"]
)
def test_source_without_identity_is_refused(keyword: str) -> None:
    header = builders.header()
    uid = str(header.SOPInstanceUID)
    delattr(header, keyword)
    context = builders.context(SourceImage(header=header, pixels=None))
    with pytest.raises(SourceError, match=keyword):
        select_sources(context, [uid])


ILLEGAL = [
    ("PatientBirthDate", b"19700101", b"1970/1/1"),
    ("PatientSex", b"F ", b"fe"),
    ("StudyDate", b"20250304", b"4.3.2025"),
    ("StudyTime", b"150000", b"3 p.m."),
]


@pytest.mark.parametrize(("keyword", "legal", "illegal"), ILLEGAL)
def test_illegal_value_is_left_out(keyword: str, legal: bytes, illegal: bytes) -> None:
    header = builders.header()
    header.get_item(keyword)
    raw = builders.written(header).getvalue()
    position = raw.index(legal, raw.index(_tag(keyword)))
    raw = raw[:position] + illegal + raw[position + len(legal) :]
    copy = source_of(builders.dcmread(builders.io.BytesIO(raw))).header
    assert copy[keyword].is_empty


def _tag(keyword: str) -> bytes:
    tag = builders.Dataset()
    setattr(tag, keyword, None)
    element = next(iter(tag))
    return element.tag.group.to_bytes(2, "little") + element.tag.element.to_bytes(2, "little")


def test_identifier_is_kept_whatever_its_length() -> None:
    header = builders.header()
    header.PatientID = "X" * 64
    raw = builders.written(header).getvalue()
    raw = raw.replace(b"LO\x40\x00" + b"X" * 64, b"LO\x46\x00" + b"X" * 70)
    copy = source_of(builders.dcmread(builders.io.BytesIO(raw))).header
    assert copy.PatientID == "X" * 70


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"PixelSpacing": [0.02, 0.03]}, (0.02, 0.03)),
        ({"PixelSpacing": [0, 0.03]}, None),
        ({"PixelSpacing": [-0.1, 0.1]}, None),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, None),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, None),
    ],
)
def test_only_pixel_spacing_calibrates(
    attributes: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    assert source_of(builders.header(**attributes)).pixel_spacing_mm == expected


def test_spacing_with_too_many_digits_is_kept() -> None:
    header = builders.header(spacing=[0.25, 0.25])
    raw = builders.written(header).getvalue()
    digits = b"0.0123456789012345678\\0.0123456789012345678 "
    raw = raw.replace(b"DS\x0a\x000.25\\0.25 ", b"DS" + len(digits).to_bytes(2, "little") + digits)
    spacing = source_of(builders.dcmread(builders.io.BytesIO(raw))).pixel_spacing_mm
    assert spacing == pytest.approx((0.0123456789, 0.0123456789))


def test_warnings_about_a_value_are_not_let_out(recwarn: pytest.WarningsRecorder) -> None:
    raw = builders.written(builders.header()).getvalue().replace(b"20250304", b"20259999")
    source_of(builders.dcmread(builders.io.BytesIO(raw)))
    assert not recwarn.list


def test_sources_of_two_studies_are_refused() -> None:
    first = builders.header(number=1)
    second = builders.header(number=2, StudyInstanceUID="1.2.3")
    context = builders.context(*[SourceImage(header=h, pixels=None) for h in (first, second)])
    with pytest.raises(SourceError, match="more than one study"):
        select_sources(context, [str(first.SOPInstanceUID), str(second.SOPInstanceUID)])
