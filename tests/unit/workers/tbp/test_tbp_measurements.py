"""Measurements in every form that a site sends them in."""

from __future__ import annotations

import json

import pytest
from pydicom import Dataset

from models.tbp.measurements import NAMES, measurement
from reports import coding
from reports.coding import Concept
from reports.content_items import Relationship, code, container, image, number, text
from tests.unit.workers.tbp.tbp_world import (
    ROOT,
    measured,
    structured_report,
    table,
    tile_header,
    with_block,
)
from workers.ports import Document
from workers.tbp.documents import read_document, read_private_block
from workers.tbp.rows import LesionRow, UnknownUnit, canonical, in_expected_unit
from workers.tbp.structured import read_structured_report

ISIC = {name: measurement(name).isic_name for name in NAMES}


def codes(reading: object) -> list[str]:
    return [remark.code for remark in reading.remarks]  # type: ignore[attr-defined]


def test_a_report_gives_every_measurement_of_every_lesion() -> None:
    reading = read_structured_report(structured_report({1: measured(), 2: measured(L=50.5)}))
    first, second = reading.rows
    assert set(first.values) == set(NAMES)
    assert (first.lesion_id, first.tracking_uid) == ("L1", f"{ROOT}.9.1")
    assert second.values["L"] == 50.5
    assert second.values["location_simple"] == "Torso Back"
    assert codes(reading) == []


def test_lengths_in_other_units_are_converted_and_unknown_ones_refused() -> None:
    report = structured_report(
        {1: measured(majorAxisMM=0.3, areaMM2=5, H=1), 2: measured()},
        {"majorAxisMM": "cm", "areaMM2": "[in_i]", "H": "rad"},
    )
    first = read_structured_report(report).rows[0]
    assert first.values["majorAxisMM"] == pytest.approx(3)
    assert first.values["H"] == pytest.approx(57.29578)
    assert first.values["areaMM2"] is None
    remarks = read_structured_report(report).remarks
    assert [remark.code for remark in remarks] == ["UNKNOWN_UNIT"]
    assert remarks[0].text == "2 values not used: areaMM2 in [in_i], not in mm2"


def test_confidences_without_a_unit_are_fractions_where_none_exceeds_one() -> None:
    unit = {"nevi_confidence": "1"}
    rows = {1: measured(nevi_confidence=0.9), 2: measured(nevi_confidence=0.25)}
    low = read_structured_report(structured_report(rows, unit))
    assert [row.values["nevi_confidence"] for row in low.rows] == [90, 25]
    high = read_structured_report(structured_report({**rows, 3: measured()}, unit))
    assert [row.values["nevi_confidence"] for row in high.rows] == [0.9, 0.25, 90]


def test_the_finding_site_stands_for_the_body_region() -> None:
    upper_limb = Concept(scheme="SCT", value="53120007", meaning="Upper limb")
    side = code(coding.LATERALITY, coding.LEFT, Relationship.CONCEPT_MOD)
    items = [
        code(coding.FINDING_SITE, upper_limb, children=[side]),
        *[
            number(Concept(scheme="99X", value=n[:16], meaning=f"tbp_lv_{n}"), 1, coding.PERCENT)
            for n in ("nevi_confidence", "dnn_lesion_confidence")
        ],
        number(Concept(scheme="99X", value="L", meaning="L"), 30, _unit("1")),
        number(coding.AREA, 4, coding.SQUARE_MILLIMETRE),
    ]
    (row,) = read_structured_report(_report(items)).rows
    assert row.values["location_simple"] == "Left Arm"
    assert row.values["areaMM2"] == 4


def test_a_measurement_that_comes_twice_with_two_values_has_none() -> None:
    name = Concept(scheme="99X", value="stdL", meaning="stdL")
    items = [number(name, 1, _unit("1")), number(name, 2, _unit("1"))]
    items += [
        number(Concept(scheme="99X", value=n, meaning=n), 1, _unit("1")) for n in ("L", "B", "A")
    ]
    (row,) = read_structured_report(_report(items)).rows
    assert row.values["stdL"] is None


def test_a_report_of_another_kind_gives_nothing_and_says_nothing() -> None:
    sizes = [number(coding.AREA, 4, coding.SQUARE_MILLIMETRE), text(coding.COMMENT, "x")]
    for report in (_report(sizes), Dataset(), _report([])):
        reading = read_structured_report(report)
        assert (reading.rows, reading.remarks) == ((), ())


def test_the_tile_may_be_named_below_a_measurement() -> None:
    tile = image("1.2.3", f"{ROOT}.1.7", None, Relationship.INFERRED_FROM)
    items = [
        number(
            Concept(scheme="99X", value=n, meaning=n), 1, _unit("1"), [tile] if n == "L" else None
        )
        for n in ("A", "L", "B")
    ]
    assert read_structured_report(_report(items)).rows[0].sop_instance_uid == f"{ROOT}.1.7"


def _unit(value: str) -> Concept:
    return Concept(scheme="UCUM", value=value, meaning=value)


def _report(items: list[Dataset]) -> Dataset:
    group = container(coding.MEASUREMENT_GROUP, items)
    report = Dataset()
    report.update(
        container(
            coding.IMAGING_MEASUREMENT_REPORT,
            [container(coding.IMAGING_MEASUREMENTS, [group])],
            relationship=None,
        )
    )
    return report


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_in_isic_names_is_read(delimiter: str) -> None:
    row = {ISIC[name]: value for name, value in measured().items()}
    reading = read_document(
        table(
            [{"isic_id": "ISIC_1", "patient_id": "P1", **row}, {"isic_id": "ISIC_2", **row}],
            delimiter,
        )
    )
    first, second = reading.rows
    assert (first.lesion_id, first.patient_id) == ("ISIC_1", "P1")
    assert second.lesion_id == "ISIC_2"
    assert float(str(first.values["majorAxisMM"])) == 20
    assert first.values["location_simple"] == "Torso Back"
    assert codes(reading) == []


def test_a_spreadsheet_with_decimal_commas_and_a_western_code_page_is_read() -> None:
    content = 'TrackingID;L;stdL;A;Ort\nL1;"30,5";1,5;2;Rücken\n'.encode("cp1252")
    reading = read_document(Document(name="x.csv", media_type="", content=content))
    assert reading.rows[0].values == {"L": "30.5", "stdL": "1.5", "A": "2"}
    assert codes(reading) == ["COLUMN_IGNORED"]


@pytest.mark.parametrize(
    "content",
    [
        [{"tracking_uid": "1.2", "L": 1, "A": 2, "B": 3}],
        {"lesions": [{"TrackingUID": "1.2", "L": 1, "A": 2, "B": 3}]},
        {"lesions": {"x": {"tracking_uid": "1.2", "L": 1, "A": 2, "B": 3}}},
        {"x": {"tracking_uid": "1.2", "L": 1, "A": 2, "B": 3}},
    ],
)
def test_json_is_read_in_every_arrangement(content: object) -> None:
    document = Document(
        name="x", media_type="application/json", content=json.dumps(content).encode()
    )
    (row,) = read_document(document).rows
    assert row.tracking_uid == "1.2"
    assert row.values == {"L": 1, "A": 2, "B": 3}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"age": 61, "breslow_mm": 1.2}',
        b'{"broken',
        b"[" * 100_000,
        b"a,b\n1,2\n",
        b"%PDF-1.7 \x00\xff",
    ],
)
def test_documents_of_other_analyses_are_left_alone(content: bytes) -> None:
    for name in ("prognosis.json", "x.csv", "x"):
        reading = read_document(Document(name=name, media_type="", content=content))
        assert (reading.rows, reading.remarks) == ((), ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id,A,B,L\n1,2,3\n", "another number of columns"),
        (b"id,A,tbp_lv_A,B,L\n1,2,3,4,5\n", "two columns"),
        (b'[{"A": 1, "tbp_lv_A": 2, "B": 1, "L": 1}]', "twice"),
    ],
)
def test_a_damaged_table_of_measurements_is_refused_with_its_reason(
    content: bytes, reason: str
) -> None:
    reading = read_document(Document(name="x.csv", media_type="text/csv", content=content))
    assert reading.rows == ()
    assert codes(reading) == ["BAD_DOCUMENT"]
    assert reason in reading.remarks[0].text


def test_columns_that_tell_the_outcome_are_never_read_and_that_is_said() -> None:
    row = {"lesion_id": "L1", "A": 1, "B": 2, "L": 3, "iddx_full": "Malignant", "target": 1}
    reading = read_document(table([row]))
    assert set(reading.rows[0].values) == {"A", "B", "L"}
    assert codes(reading) == ["OUTCOME_COLUMN"]
    assert "Malignant" not in str(reading.remarks)


def test_too_many_rows_are_refused() -> None:
    content = b"id,A,B,L\n" + b"1,2,3,4\n" * 20_001
    reading = read_document(Document(name="x.csv", media_type="text/csv", content=content))
    assert codes(reading) == ["TOO_MANY"]


def test_the_private_block_is_read_in_whatever_vr_it_arrives() -> None:
    header = with_block(tile_header(1), {"tbp_lv_A": 1.5, "location_simple": "Left Leg"})
    assert read_private_block(header) == {"A": 1.5, "location_simple": "Left Leg"}
    element = header.private_block(0x0019, "99DERMAI TBP 1.0")[0x01]
    element.VR, element._value = "UN", b'{"A": 2.5} \0'
    assert read_private_block(header) == {"A": 2.5}
    assert read_private_block(tile_header(1)) is None


@pytest.mark.parametrize("value", ["{", "[1]", "3", ""])
def test_a_damaged_private_block_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=r"block|JSON|value|property|Expecting"):
        read_private_block(with_block(tile_header(1), value))


def test_names_and_units() -> None:
    assert canonical("TBP majorAxisMM") == canonical("clin_size_long_diam_mm") == "majorAxisMM"
    assert canonical("iddx_1") is canonical("Area") is None
    with pytest.raises(UnknownUnit, match="L in mm, not in 1"):
        in_expected_unit("L", 1, "mm")
    assert in_expected_unit("out_of_bounds_fraction", 25, "%") == 0.25
    assert not LesionRow(values={}).has_identifier
