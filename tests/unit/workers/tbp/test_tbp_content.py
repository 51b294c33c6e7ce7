"""The content tree of a report, however it is encoded, and however it is damaged."""

from __future__ import annotations

import contextlib
import functools
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.unit.workers.tbp.tbp_world import measured, structured_report
from workers.tbp.content import CONTENT, TEXT_VALUE, DamagedReport, content_of, items, text
from workers.tbp.structured import read_structured_report

ROWS = {n: measured(L=20 + n) for n in range(1, 4)}


def decoded(ds: Dataset, *, undefined: bool = False) -> Dataset:
    """The same document as pydicom's own objects, lengths of items defined or not."""
    plain = Dataset()
    for element in ds:
        if element.VR != "SQ":
            plain.add(element)
            continue
        children = [decoded(item, undefined=undefined) for item in element.value]
        for child in children:
            child.is_undefined_length_sequence_item = undefined
        plain.add_new(element.tag, "SQ", children)
        plain[element.tag].is_undefined_length = undefined
    return plain


def through_a_file(ds: Dataset, syntax: str, character_set: str = "ISO_IR 192") -> Dataset:
    ds.SpecificCharacterSet = character_set
    ds.SOPInstanceUID = "1.2.3"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return dcmread(stream)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_report_reads_the_same_in_every_encoding(syntax: str, undefined: bool) -> None:
    report = decoded(structured_report(ROWS), undefined=undefined)
    reading = read_structured_report(through_a_file(report, syntax))
    assert reading == read_structured_report(structured_report(ROWS))
    assert [row.values["L"] for row in reading.rows] == [21, 22, 23]


def test_text_in_another_character_set_is_read() -> None:
    report = decoded(structured_report({1: measured(location_simple="Rücken")}))
    reading = read_structured_report(
        through_a_file(report, ExplicitVRLittleEndian, character_set="ISO_IR 100")
    )
    assert reading.rows[0].values["location_simple"] == "Rücken"


@functools.cache
def encoded() -> bytes:
    root = through_a_file(decoded(structured_report(ROWS)), ExplicitVRLittleEndian)
    raw = root.get_item(BaseTag(CONTENT))
    assert isinstance(raw, RawDataElement)
    assert raw.value is not None
    return raw.value


def report_of(content: bytes) -> Dataset:
    ds = Dataset()
    tag = BaseTag(CONTENT)
    ds[tag] = RawDataElement(tag, "SQ", len(content), content, 0, False, True)
    return ds


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damage_is_told_and_never_breaks_the_reader(data: st.DataObject) -> None:
    content = bytearray(encoded())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with contextlib.suppress(DamagedReport):
        reading = read_structured_report(report_of(bytes(content[:end])))
        assert len(reading.rows) <= len(ROWS)


def test_endless_nesting_is_refused() -> None:
    head = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff"
    with pytest.raises(DamagedReport, match="deeply"):
        content_of(report_of(head * 5000))


def test_a_tree_can_be_walked() -> None:
    (_, measurements) = content_of(report_of(encoded()))
    first = items(items(measurements, CONTENT)[0], CONTENT)[0]
    assert text(first, TEXT_VALUE) == "L1"
    assert items(first, CONTENT) == []
    assert content_of(Dataset()) == []
