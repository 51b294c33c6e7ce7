"""Items encoded by hand are those that pydicom writes, and read like any other Dataset."""

from __future__ import annotations

import copy
import io

import highdicom
import numpy as np
import pytest
import report_builders as builders
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.filewriter import dcmwrite

from reports import coding
from reports.coding import Concept
from reports.content_items import (
    Relationship,
    code,
    container,
    image,
    number,
    polyline,
    text,
    uid_reference,
)
from reports.elements import EncodedItem, encoded_items
from reports.encode import encode

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\\"),
    min_size=1,
    max_size=40,
).filter(lambda value: value.strip() == value != "")
concepts = st.builds(
    lambda value, meaning: Concept(scheme="99LENTIGO", value=value, meaning=meaning),
    st.text("ABCDEFGHIJ_0123456789", min_size=1, max_size=16),
    words,
)
uids = st.integers(0, 2**64).map(lambda value: f"2.25.{value}")
links = st.sampled_from(Relationship)
leaves = st.one_of(
    st.builds(text, concepts, words, links),
    st.builds(uid_reference, concepts, uids, links),
    st.builds(number, concepts, st.floats(-1e6, 1e6), concepts),
    st.builds(code, concepts, concepts, links),
    st.builds(image, uids, uids, st.none() | st.integers(1, 10**6), links),
    st.builds(
        lambda name, values, source: polyline(
            name, np.array(values, np.float32), Relationship.INFERRED_FROM, source
        ),
        concepts,
        st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), min_size=2, max_size=9),
        st.builds(image, uids, uids, st.none(), links),
    ),
)
trees = st.recursive(
    leaves,
    lambda child: st.builds(
        container, concepts, st.lists(child, max_size=4), template=st.none() | st.just("1501")
    ),
    max_leaves=20,
)


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def decoded(ds: Dataset) -> Dataset:
    """The same content as pydicom's own objects, down to the last item."""
    plain = Dataset()
    for element in ds:
        if element.VR == "SQ":
            setattr(plain, element.keyword, [decoded(item) for item in element.value])
        else:
            setattr(plain, element.keyword, element.value)
    return plain


@settings(max_examples=60, deadline=None)
@given(trees)
def test_encoded_items_are_the_bytes_that_pydicom_writes(tree: Dataset) -> None:
    kept = encoded_items([tree])
    document = decoded(tree)
    document.SpecificCharacterSet = "ISO_IR 192"
    expected = written(document)
    again = Dataset()
    again.update(copy.deepcopy(tree))
    again.SpecificCharacterSet = "ISO_IR 192"
    assert written(again) == expected
    assert kept[8:] in expected.replace(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192", b"")


def test_an_item_that_was_looked_into_keeps_its_content_and_takes_changes() -> None:
    item = text(coding.COMMENT, "größer")
    before = encoded_items([item])
    assert item.TextValue == "größer"
    assert encoded_items([item]) == before
    item.TextValue = "kleiner"
    assert b"kleiner" in encoded_items([container(coding.IMAGE_LIBRARY, [item])])


def test_an_untouched_item_can_be_copied_compared_and_asked() -> None:
    item = text(coding.COMMENT, "one")
    assert copy.deepcopy(item) == text(coding.COMMENT, "one")
    assert "TextValue" in item
    assert item.get("UID") is None
    assert isinstance(item, EncodedItem)
    with pytest.raises(AttributeError):
        _ = item.no_such_attribute


def test_a_decoded_item_of_a_source_is_taken_over_in_utf_8() -> None:
    site = Dataset()
    site.CodeValue, site.CodingSchemeDesignator, site.CodeMeaning = "1", "99X", "Rücken"
    item = code(coding.FINDING_SITE, site)
    assert "Rücken".encode() in encoded_items([item])
    assert item.ConceptCodeSequence[0].CodeMeaning == "Rücken"


def test_a_report_is_written_unread_and_is_the_report_that_pydicom_would_write() -> None:
    source = builders.source(builders.header(PatientName="Müller^Zoë"))
    objects = encode(builders.result(builders.assessment()), builders.context(source))
    report = objects[0].dataset
    fast = io.BytesIO()
    dcmwrite(fast, report, enforce_file_format=True)
    plain = decoded(dcmread(io.BytesIO(fast.getvalue())))
    plain.file_meta = report.file_meta
    slow = io.BytesIO()
    dcmwrite(slow, plain, enforce_file_format=True)
    assert fast.getvalue() == slow.getvalue()


def test_items_are_those_that_highdicom_makes() -> None:
    sr = highdicom.sr
    name = sr.CodedConcept(
        value=coding.AREA.value,
        scheme_designator=coding.AREA.scheme,
        meaning=coding.AREA.meaning,
    )
    unit = sr.CodedConcept(value="mm2", scheme_designator="UCUM", meaning="square millimeter")
    contains = sr.RelationshipTypeValues.CONTAINS
    points = np.array([[1, 2], [3, 4], [5, 1], [1, 2]], np.float32)
    reference = image("1.2.3", "1.2.4", 7, Relationship.SELECTED_FROM)
    ours = [
        text(coding.AREA, "größer"),
        number(coding.AREA, 3.25, coding.SQUARE_MILLIMETRE),
        code(coding.AREA, coding.SQUARE_MILLIMETRE),
        uid_reference(coding.AREA, "1.2.3", Relationship.CONTAINS),
        reference,
        polyline(coding.AREA, points, Relationship.CONTAINS, reference),
    ]
    region = sr.ScoordContentItem(
        name=name,
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=points,
        relationship_type=contains,
    )
    selected = sr.ImageContentItem(
        name=name,
        referenced_sop_class_uid="1.2.3",
        referenced_sop_instance_uid="1.2.4",
        referenced_frame_numbers=7,
        relationship_type=sr.RelationshipTypeValues.SELECTED_FROM,
    )
    region.ContentSequence = [copy.deepcopy(selected)]
    for item in (selected, region.ContentSequence[0]):
        del item.ConceptNameCodeSequence  # highdicom demands a name, the standard does not
    measured = sr.NumContentItem(name=name, value=3.25, unit=unit, relationship_type=contains)
    del measured.MeasuredValueSequence[0].FloatingPointValue  # optional; ours are rounded
    theirs = [
        sr.TextContentItem(name=name, value="größer", relationship_type=contains),
        measured,
        sr.CodeContentItem(name=name, value=unit, relationship_type=contains),
        sr.UIDRefContentItem(name=name, value="1.2.3", relationship_type=contains),
        selected,
        region,
    ]
    for mine, oracle in zip(ours, theirs, strict=True):
        assert encoded_items([mine]) == encoded_items([decoded(oracle)])
