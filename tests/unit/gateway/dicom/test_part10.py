"""Inspection of received files: what they are and whether they are complete."""

import contextlib
import io
import itertools
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from gateway.dicom.file_meta import encode_file_meta, identify
from gateway.dicom.part10 import inspect
from gateway.dicom.text import codecs_of, decode_text
from gateway.errors import InstanceError, MissingIdentity, Truncated, Unreadable
from tests.instances import (
    BIG_ENDIAN,
    CANARY_NAME,
    DERMOSCOPIC_PHOTOGRAPHY,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    SLIDE,
    encoded,
    instance,
    jpeg,
    new_uid,
    write,
)

SR = "1.2.840.10008.5.1.4.1.1.88.34"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG)


def raw_file(data_set: bytes, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    return (
        encode_file_meta(
            sop_class_uid=DERMOSCOPIC_PHOTOGRAPHY,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=transfer_syntax_uid,
        )
        + data_set
    )


def explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def identity() -> bytes:
    """The identifying UIDs of a presentation without pixels, explicit little endian."""
    return explicit(0x00080016, b"UI", SR.encode() + b"\0") + explicit(0x00080018, b"UI", b"1.2.34")


def study_and_series() -> bytes:
    return explicit(0x0020000D, b"UI", b"1.2.36") + explicit(0x0020000E, b"UI", b"1.2.38")


def inspected(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "received"
    path.write_bytes(content)
    return inspect(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_header_says_what_the_instance_is(tmp_path: Path, syntax: str) -> None:
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator = "14975008", "SCT"
    region.CodeMeaning = "Forearm"
    ds = instance(
        transfer_syntax_uid=syntax,
        frames=3,
        IssuerOfPatientID="Clinic",
        PatientBirthDate="19700101",
        PatientSex="F",
        AccessionNumber="ACC-1",
        StudyDate="20260102",
        StudyDescription="Moles",
        SeriesDescription="Left arm",
        ManufacturerModelName="Scope 3",
        BodyPartExamined="SKIN",
        Laterality="L",
        ImageType=["ORIGINAL", "PRIMARY"],
        TrackingID="Lesion 4",
        TrackingUID="2.25.77",
        AnatomicRegionSequence=Sequence([region]),
    )
    header = inspect(write(ds, tmp_path / "a.dcm"))
    assert header.sop_class_uid == ds.SOPClassUID
    assert header.sop_instance_uid == ds.SOPInstanceUID
    assert header.study_instance_uid == ds.StudyInstanceUID
    assert header.series_instance_uid == ds.SeriesInstanceUID
    assert header.transfer_syntax_uid == syntax
    assert (header.modality, header.manufacturer) == ("DMS", "Acme")
    assert header.manufacturer_model_name == "Scope 3"
    assert (header.patient_name, header.patient_id) == (CANARY_NAME, "CANARY-ID")
    assert (header.issuer_of_patient_id, header.patient_sex) == ("Clinic", "F")
    assert (header.patient_birth_date, header.study_date) == ("19700101", "20260102")
    assert (header.accession_number, header.study_description) == ("ACC-1", "Moles")
    assert (header.series_description, header.laterality) == ("Left arm", "L")
    assert (header.body_part_examined, header.anatomic_region) == ("SKIN", "Forearm")
    assert (header.tracking_id, header.tracking_uid) == ("Lesion 4", "2.25.77")
    assert header.image_type == "ORIGINAL\\PRIMARY"
    assert (header.frames, header.rows, header.columns) == (3, 16, 16)


def test_absent_and_empty_values_are_empty_texts(tmp_path: Path) -> None:
    ds = instance(PatientName=None, PatientID="", Modality=None, Manufacturer=None)
    header = inspect(write(ds, tmp_path / "a.dcm"))
    assert header.patient_name == header.patient_id == header.modality == header.manufacturer == ""
    assert header.frames == 1


def test_no_patient_attribute_shows_in_the_representation(tmp_path: Path) -> None:
    ds = instance(PatientBirthDate="19010203", IssuerOfPatientID="CANARY-ISSUER", PatientSex="O")
    shown = repr(inspect(write(ds, tmp_path / "a.dcm")))
    assert "anary" not in shown
    assert "CANARY" not in shown
    assert "19010203" not in shown


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_cut_is_noticed(tmp_path: Path, syntax: str) -> None:
    content = encoded(instance(transfer_syntax_uid=syntax, side=4))
    assert inspected(tmp_path, content)
    path = tmp_path / "received"
    for length in reversed(range(len(content) - 1)):
        os.truncate(path, length)
        with pytest.raises((Truncated, MissingIdentity, Unreadable)):
            inspect(path)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_short_native_pixel_data_is_truncated_whatever_its_length_says(
    tmp_path: Path, syntax: str
) -> None:
    ds = instance(transfer_syntax_uid=syntax, frames=2, PixelData=bytes(16 * 16 * 3 * 2 - 2))
    ds["PixelData"].VR = "OB"
    with pytest.raises(Truncated, match="1534 bytes of pixel data where 1536"):
        inspect(write(ds, tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    ("elements", "length"),
    [
        ({}, 16 * 16 * 3),
        ({}, 16 * 16 * 3 + 2),  # padded
        ({"Rows": 5, "Columns": 5, "SamplesPerPixel": 1, "PhotometricInterpretation": "M"}, 26),
        ({"BitsAllocated": 16}, 16 * 16 * 3 * 2),
        ({"BitsAllocated": 1, "SamplesPerPixel": 1, "NumberOfFrames": 3}, 96),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, 16 * 16 * 2),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, 16 * 16 * 3 // 2),
        ({"BitsAllocated": None}, 2),  # nothing to compare with
    ],
)
def test_complete_native_pixel_data_is_accepted(
    tmp_path: Path, elements: dict[str, Any], length: int
) -> None:
    ds = instance(**elements, PixelData=bytes(length))
    ds["PixelData"].VR = "OB"
    assert inspect(write(ds, tmp_path / "a.dcm"))


def test_fewer_fragments_than_frames_are_truncated(tmp_path: Path) -> None:
    ds = instance(transfer_syntax_uid=JPEG, frames=3)
    ds.NumberOfFrames = 4
    with pytest.raises(Truncated, match="3 fragments for 4 frames"):
        inspect(write(ds, tmp_path / "a.dcm"))


def test_a_frame_may_take_several_fragments(tmp_path: Path) -> None:
    ds = instance(transfer_syntax_uid=JPEG, frames=2)
    ds.PixelData = encapsulate([jpeg(), jpeg()], fragments_per_frame=3)
    ds["PixelData"].is_undefined_length = True
    assert inspect(write(ds, tmp_path / "a.dcm")).frames == 2


def test_an_image_without_pixel_data_is_truncated(tmp_path: Path) -> None:
    with pytest.raises(Truncated, match="without pixel data"):
        inspect(write(instance(PixelData=None), tmp_path / "a.dcm"))


def test_a_document_without_its_document_is_truncated(tmp_path: Path) -> None:
    ds = instance(SOPClassUID=PDF, PixelData=None, Rows=None, Columns=None)
    with pytest.raises(Truncated, match="document"):
        inspect(write(ds, tmp_path / "a.dcm"))
    ds.EncapsulatedDocument = b"%PDF-1.4"
    assert inspect(write(ds, tmp_path / "b.dcm"))


def test_a_report_needs_no_pixel_data(tmp_path: Path) -> None:
    ds = instance(SOPClassUID=SR, PixelData=None, Rows=None, Columns=None)
    assert inspect(write(ds, tmp_path / "a.dcm")).rows == 0


@pytest.mark.parametrize("name", ["SOPClassUID", "SOPInstanceUID"])
def test_a_missing_sop_uid_is_named(tmp_path: Path, name: str) -> None:
    ds = instance()
    content = encoded(ds).replace(str(ds[name].value).encode(), b"\0" * len(ds[name].value))
    meta_end = content.index(b"\x08\x00\x16\x00")
    assert meta_end
    head = encode_file_meta(sop_class_uid=SR, sop_instance_uid="1.2", transfer_syntax_uid=EXPLICIT)
    with pytest.raises(MissingIdentity, match="is missing"):
        inspected(tmp_path, head + content[meta_end:])


@pytest.mark.parametrize(
    "value", [None, "", "1.2.3 .4", "abc", "1..2", "1." * 32 + "1", "1.2\\1.3"]
)
def test_a_missing_or_invalid_study_uid_is_told(tmp_path: Path, value: str | None) -> None:
    text = (value or "").encode()
    body = identity()
    if value is not None:
        body += explicit(0x0020000D, b"UI", text + b"\0" * (len(text) % 2))
    body += explicit(0x0020000E, b"UI", b"1.2.38")
    with pytest.raises(MissingIdentity, match="study_instance_uid") as caught:
        inspected(tmp_path, raw_file(body))
    assert caught.value.status == 0xC002
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "DICM"),
        (b"\xff\xd8\xff\xe0" + bytes(400), "DICM"),
        (bytes(128) + b"DICM", "Transfer Syntax"),
        (bytes(128) + b"DICM" + os.urandom(3), "Transfer Syntax"),
        (encode_file_meta(sop_class_uid="1", sop_instance_uid="1", transfer_syntax_uid=""), "Tra"),
        (raw_file(b"\xff" * 8, "1.2.840.10008.1.2.1.99"), "deflated"),
    ],
)
def test_what_is_no_dicom_file_is_unreadable(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        inspected(tmp_path, content)


def test_pixel_data_must_fit_its_transfer_syntax(tmp_path: Path) -> None:
    for stated, actual, reason in (
        (JPEG, EXPLICIT, "native pixel data"),
        (EXPLICIT, JPEG, "uncompressed"),
    ):
        path = write(instance(transfer_syntax_uid=actual), tmp_path / "a.dcm")
        body = path.read_bytes()[identify(path).data_set_offset :]
        with pytest.raises(Unreadable, match=reason):
            inspected(tmp_path, raw_file(body, stated))


def test_zero_bytes_after_the_data_set_are_padding_and_others_are_not(tmp_path: Path) -> None:
    content = encoded(instance())
    assert inspected(tmp_path, content + b"\0")
    assert inspected(tmp_path, content + bytes(70_000))
    with pytest.raises(Unreadable):
        inspected(tmp_path, content + bytes(12) + b"x" * 20)
    with pytest.raises(Truncated):
        inspected(tmp_path, content + b"garbage that is no element")


def nested(depth: int, *, is_defined: bool = False) -> bytes:
    """A sequence in a sequence, explicit little endian, in one of the two ways to delimit them."""
    value = explicit(0x00080104, b"LO", b"deepest ")
    for _ in range(depth):
        if is_defined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
            value = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(item)) + item
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + value
            item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            value = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + item
            value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return value


@pytest.mark.parametrize("is_defined", [False, True])
def test_sequences_of_any_kind_are_followed_to_their_end(tmp_path: Path, is_defined: bool) -> None:
    body = identity() + study_and_series() + nested(20, is_defined=is_defined)
    assert inspected(tmp_path, raw_file(body)).sop_class_uid == SR
    with pytest.raises(Truncated):
        inspected(tmp_path, raw_file(body[:-8]))


def test_absurd_nesting_is_refused_not_followed(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="deeper"):
        inspected(tmp_path, raw_file(identity() + study_and_series() + nested(5000)))


@pytest.mark.parametrize("is_explicit_inside", [False, True])
def test_unknown_elements_of_undefined_length_are_followed(
    tmp_path: Path, is_explicit_inside: bool
) -> None:
    inner = explicit(0x00080104, b"LO", b"text")
    if not is_explicit_inside:  # as PS3.5 6.2.2 has it
        inner = struct.pack("<HHI", 0x0008, 0x0104, 4) + b"text"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    unknown = struct.pack("<HH2sHI", 0x0029, 0x1010, b"UN", 0, 0xFFFFFFFF) + item
    unknown += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert inspected(tmp_path, raw_file(identity() + study_and_series() + unknown))


@pytest.mark.parametrize(
    "odd",
    [
        explicit(0x00190010, b"QQ", b"abcd"),  # a VR nobody knows
        explicit(0x00280106, b"  ", b"\1\0"),  # blanks for a VR
        struct.pack("<HHI", 0x0029, 0x0010, 4) + b"\x01\x02\x03\x04",  # no VR at all
        explicit(0x00280106, b"OB", b"")[:8] + struct.pack("<I", 2) + b"ab",
        explicit(0x00280008, b"IS", b"many"),
    ],
)
def test_illegal_headers_and_values_do_not_hide_what_follows(tmp_path: Path, odd: bytes) -> None:
    body = identity() + explicit(0x0020000D, b"UI", b"1.2.36") + explicit(0x0020000E, b"UI", b"1.2")
    header = inspected(tmp_path, raw_file(body + odd + explicit(0x00620021, b"UI", b"2.25.1")))
    assert header.tracking_uid == "2.25.1"
    assert header.frames == 1


@pytest.mark.parametrize(
    ("character_set", "raw", "expected"),
    [
        ("", b"Doe^John", "Doe^John"),
        ("ISO_IR 100", "M\u00fcller^J\u00fcrgen".encode("latin-1"), "M\u00fcller^J\u00fcrgen"),
        ("ISO_IR 192", "\u738b^\u5c0f\u4e1c".encode(), "\u738b^\u5c0f\u4e1c"),
        ("ISO_IR 144", "\u041b\u044e".encode("iso8859_5"), "\u041b\u044e"),
        ("GB18030", "\u738b".encode("gb18030"), "\u738b"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=\u6d2a^\u5409\u6d1e",
        ),
        # declared one way, written another
        ("ISO_IR 6", "M\u00fcller".encode(), "M\u00fcller"),
        ("", "M\u00fcller".encode("latin-1"), "M\u00fcller"),
        ("ISO_IR 192", "M\u00fcller".encode("latin-1"), "M\u00fcller"),
        ("NO SUCH SET", "M\u00fcller".encode(), "M\u00fcller"),
        # not text at all
        ("ISO_IR 192", b"A\0B\x07C\n", "ABC"),
        ("", b"\x1b$)Q?", "$)Q?"),
        ("ISO_IR 192", b"x" * 5000, "x" * 1024),
    ],
)
def test_text_survives_every_character_set(character_set: str, raw: bytes, expected: str) -> None:
    assert decode_text(raw, codecs_of(character_set)) == expected


@given(st.binary(max_size=200), st.text(max_size=20))
def test_decoding_never_fails_and_leaves_nothing_a_database_refuses(
    raw: bytes, character_set: str
) -> None:
    text = decode_text(raw, codecs_of(character_set))
    assert "\0" not in text
    assert text.encode().decode() == text


def test_long_codes_are_cut_to_what_a_column_holds(tmp_path: Path) -> None:
    body = identity() + explicit(0x00080060, b"CS", b"X" * 400) + study_and_series()
    assert inspected(tmp_path, raw_file(body)).modality == "X" * 16


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(data=st.data())
def test_damage_never_raises_anything_but_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(SYNTAXES))
    content = bytearray(DAMAGED[syntax])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(400, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InstanceError):
        assert inspected(tmp_path, bytes(content)).transfer_syntax_uid == syntax


DAMAGED = {
    syntax: encoded(
        instance(transfer_syntax_uid=syntax, side=4, AnatomicRegionSequence=Sequence([Dataset()]))
    )
    for syntax in SYNTAXES
}


def test_a_huge_file_is_inspected_in_little_memory(tmp_path: Path) -> None:
    fragment = 64 * 1024 * 1024
    frames = 48  # 3 GB, of holes
    ds = instance(
        transfer_syntax_uid=JPEG, SOPClassUID=SLIDE, NumberOfFrames=frames, PixelData=None
    )
    path = tmp_path / "slide.dcm"
    with path.open("wb") as file:
        file.write(encoded(ds))
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
        file.write(struct.pack("<HHI", 0xFFFE, 0xE000, 0))
        for _ in range(frames):
            file.write(struct.pack("<HHI", 0xFFFE, 0xE000, fragment))
            file.seek(fragment, io.SEEK_CUR)
        end = file.tell()
        file.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    tracemalloc.start()
    header = inspect(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    assert header.frames == frames
    assert peak_bytes < 1024 * 1024
    os.truncate(path, end - fragment // 2)
    with pytest.raises(Truncated):
        inspect(path)
    tracemalloc.stop()


def test_our_meta_information_is_read_by_others_and_depends_on_its_arguments_alone() -> None:
    uids = {"sop_class_uid": SLIDE, "sop_instance_uid": new_uid(), "transfer_syntax_uid": EXPLICIT}
    ds = dcmread(io.BytesIO(encode_file_meta(**uids)))
    assert ds.file_meta.MediaStorageSOPClassUID == SLIDE
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    assert ds.file_meta.FileMetaInformationVersion == b"\0\1"
    assert ds.file_meta.ImplementationClassUID.is_valid
    assert encode_file_meta(**uids) == encode_file_meta(**uids)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_bare_data_set_is_identified_by_its_first_element(tmp_path: Path, syntax: str) -> None:
    ds = instance(transfer_syntax_uid=syntax)
    whole = write(ds, tmp_path / "whole.dcm")
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(whole.read_bytes()[identify(whole).data_set_offset :])
    found = identify(bare)
    assert found.transfer_syntax_uid == syntax
    assert (found.sop_instance_uid, found.data_set_offset) == (ds.SOPInstanceUID, 0)


def test_meta_information_without_preamble_is_read(tmp_path: Path) -> None:
    ds = instance()
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(ds)[132:])
    assert identify(path).sop_instance_uid == ds.SOPInstanceUID


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"hello, world", os.urandom(4096).replace(b"\x08\0", b"xx"), b"%PDF"]
)
def test_what_does_not_look_like_dicom_is_not_guessed_at(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(Unreadable):
        identify(path)


def test_a_bare_compressed_data_set_is_refused(tmp_path: Path) -> None:
    whole = write(instance(transfer_syntax_uid=JPEG), tmp_path / "whole.dcm")
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(whole.read_bytes()[identify(whole).data_set_offset :])
    with pytest.raises(Unreadable, match="compressed"):
        identify(bare)


def test_cuts_at_every_element_boundary_of_a_report_leave_no_partial_identity(
    tmp_path: Path,
) -> None:
    elements = [identity()[:38], identity()[38:], study_and_series()]
    for count, _ in itertools.pairwise(range(len(elements) + 1)):
        with pytest.raises(MissingIdentity):
            inspected(tmp_path, raw_file(b"".join(elements[:count])))
