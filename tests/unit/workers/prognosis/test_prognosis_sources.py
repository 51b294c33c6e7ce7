"""What each kind of source says of a patient, odd ones included."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from models.prognosis.patient import Quantity
from models.prognosis.reasons import Obstacle
from tests.unit.reports.test_coding import has_verhoeff_check_digit
from tests.unit.workers.instance_builder import instance
from tests.unit.workers.prognosis.prognosis_world import (
    FULL_BUNDLE,
    PATIENT,
    STAGE_CODE,
    THICKNESS_CODE,
    ULCER_CODE,
    bundle,
    code_item,
    coded,
    number_item,
    observation,
    quantity,
    report,
    text_item,
)
from workers.prognosis.attributes import read_attributes
from workers.prognosis.codes import CODES
from workers.prognosis.fhir import holds_covariates, is_fhir, read_fhir, years_between
from workers.prognosis.site import is_ours, read_site_document
from workers.prognosis.statements import stage_text
from workers.prognosis.structured_report import read_report, states_tumour

MM = Quantity(value=2.1, unit="mm")


def has_luhn_check_digit(code: str) -> bool:
    """Mod 10 check of LOINC (LOINC Users' Guide, annex C)."""
    digits, check = code.split("-")
    doubled = str(int(digits[::-1][::2][::-1]) * 2)
    total = sum(map(int, doubled)) + sum(map(int, digits[::-1][1::2]))
    return (10 - total % 10) % 10 == int(check)


@pytest.mark.parametrize("code", CODES)
def test_codes_pass_the_check_digit_of_their_scheme(code: Any) -> None:
    assert code.origin
    if code.scheme == "SCT":
        assert has_verhoeff_check_digit(code.value)
    elif code.scheme == "LN":
        assert has_luhn_check_digit(code.value)
    else:
        assert code.scheme == "DCM"


def fhir(*resources: dict[str, Any], date: str = "20250516") -> dict[str, Any]:
    reading = read_fhir(bundle(*resources), "FHIR document", study_date=date)
    return {each.name: each.value for each in reading.statements}


# -- FHIR ---------------------------------------------------------------------------------


def test_bundle_of_the_kind_that_german_sites_send() -> None:
    found = fhir(*FULL_BUNDLE)
    assert found["thickness"] == Quantity(value=1.8, unit="mm")
    assert found["ulceration"] == "yes"
    assert found["stage"] == "IIA"
    assert found["sex"] == "male"
    assert found["age"] == Quantity(value=75.0, unit="a")


def test_a_lone_observation_and_its_components_are_read() -> None:
    whole = observation({"system": "http://loinc.org", "code": "33746-9"})
    whole["component"] = [{"code": {"coding": [THICKNESS_CODE]}, **quantity(2.1)}]
    reading = read_fhir(whole, "FHIR document", study_date="")
    assert [each.value for each in reading.statements] == [MM]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (coded("373066001"), "yes"),
        (coded("2667000"), "no"),
        (coded("N", system="x"), "no"),
        ({"valueBoolean": False}, False),
        ({"valueString": "Present"}, "yes"),
        (coded("261665006", "Unknown"), "Unknown"),
        ({"valueCodeableConcept": {"text": "absent"}}, "no"),
    ],
)
def test_answers_about_ulceration(value: dict[str, Any], found: Any) -> None:
    assert fhir(observation(ULCER_CODE, **value))["ulceration"] == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (quantity(2.1), MM),
        (quantity(0.21, "cm"), Quantity(value=0.21, unit="cm")),
        ({"valueQuantity": {"value": 2.1, "unit": "mm"}}, MM),
        ({"valueQuantity": {"value": 2.1, "unit": "millimeter"}}, MM),
        ({"valueQuantity": {"value": 2.1}}, Quantity(value=2.1, unit="")),
        (quantity(2.1, "[in_i]"), Quantity(value=2.1, unit="[in_i]")),
        ({"valueInteger": 2}, Quantity(value=2.0, unit="")),
        (coded("17456000", "depth from 0.76 to 1.75 mm"), "depth from 0.76 to 1.75 mm"),
    ],
)
def test_quantities_keep_their_unit(value: dict[str, Any], found: Any) -> None:
    assert fhir(observation(THICKNESS_CODE, **value))["thickness"] == found


@pytest.mark.parametrize(
    "value",
    [
        quantity(2.1, comparator=">"),
        quantity("2.1"),
        quantity(None),
        quantity(True),
        {"valueQuantity": 2.1},
    ],
)
def test_a_bound_is_no_value(value: dict[str, Any]) -> None:
    reading = read_fhir(
        bundle(observation(THICKNESS_CODE, **value)), "FHIR document", study_date=""
    )
    assert [each.kind for each in reading.reasons] == [Obstacle.NOT_A_NUMBER]


def test_withdrawn_observations_do_not_count() -> None:
    void = observation(THICKNESS_CODE, **quantity(2.1)) | {"status": "entered-in-error"}
    reading = read_fhir(bundle(void), "FHIR document", study_date="")
    assert reading.statements == ()
    assert "withdraws" in reading.remarks[0]


def test_pathologic_stage_goes_before_the_clinical_one() -> None:
    clinical = {"system": "http://loinc.org", "code": "21908-9"}
    reading = read_fhir(
        bundle(
            observation(clinical, **coded("x", "Stage IB")),
            observation(STAGE_CODE, **coded("y", "Stage IIA")),
        ),
        "FHIR document",
        study_date="",
    )
    assert sorted((each.rank, each.value) for each in reading.statements) == [
        (0, "IIA"),
        (1, "IB"),
    ]


def test_two_patients_are_refused() -> None:
    reading = read_fhir(bundle(*FULL_BUNDLE, PATIENT), "FHIR document", study_date="")
    assert [each.kind for each in reading.reasons] == [Obstacle.UNREADABLE]
    assert reading.statements == ()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_NAMES = (
    *("resourceType", "entry", "resource", "code", "coding", "status", "component", "system"),
    *("valueQuantity", "value", "unit", "valueCodeableConcept", "text", "gender", "birthDate"),
)
_KEYS = st.sampled_from(_NAMES)
_FHIR = st.recursive(
    _JSON | st.sampled_from(["Bundle", "Observation", "Patient", "106243009"]),
    lambda inner: st.dictionaries(_KEYS, inner, max_size=6) | st.lists(inner, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(_KEYS, _FHIR, max_size=6), st.text(max_size=9))
def test_any_json_is_read_without_a_fault(content: dict[str, Any], date: str) -> None:
    for kind in ("Bundle", "Observation", "Patient"):
        resource = {**content, "resourceType": kind}
        assert is_fhir(resource)
        holds_covariates(resource)
        read_fhir(resource, "FHIR document", study_date=date)


@given(st.dictionaries(st.sampled_from(["stage", "covariates", "comment"]), _JSON))
def test_any_site_document_is_read_without_a_fault(content: dict[str, Any]) -> None:
    content["lentigo"] = "prognosis"
    assert is_ours(content)
    read_site_document(content, "JSON document")


# -- dates and stages ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("born", "then", "years"),
    [
        ("19700615", "20250614", 54.0),
        ("19700615", "20250615", 55.0),
        ("20000229", "20250228", 24.0),
        ("2000", "20250228", None),
        ("20251231", "20250228", None),
        ("", "20250228", None),
        ("19701301", "20250228", None),
    ],
)
def test_years_between(born: str, then: str, years: float | None) -> None:
    assert years_between(born, then) == years


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("IIA", "IIA"),
        ("iib", "IIB"),
        ("Stage 1B", "IB"),
        ("AJCC 8th edition pathologic stage IIC", "IIC"),
        ("stage group III", "III"),
        ("pT2b", "pT2b"),
        ("IIE", "IIE"),
        ("  ", ""),
    ],
)
def test_stages_in_words(text: str, found: str) -> None:
    assert stage_text(text) == found


# -- DICOM --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "061Y"}, Quantity(value=61.0, unit="a")),
        ({"PatientAge": "030M"}, Quantity(value=30.0, unit="mo")),
        ({"PatientAge": "002W"}, Quantity(value=14.0, unit="d")),
        (
            {"PatientBirthDate": "19600101", "StudyDate": "20250301"},
            Quantity(value=65.0, unit="a"),
        ),
        ({"PatientBirthDate": "20300101", "StudyDate": "20250301"}, None),
        ({"PatientBirthDate": "19600101"}, None),
        ({}, None),
    ],
)
def test_age_of_a_header(attributes: dict[str, Any], age: Quantity | None) -> None:
    found = {each.name: each.value for each in read_attributes(instance(**attributes)).statements}
    assert found.get("age") == age


def test_a_damaged_birth_date_is_no_age_and_is_not_quoted(
    recwarn: pytest.WarningsRecorder,
) -> None:
    ds = Dataset()
    ds.add(RawDataElement(BaseTag(0x00100030), "DA", 4, b"1960", 0, False, True))
    ds.StudyDate = "20250301"
    assert read_attributes(ds).statements == ()
    assert not recwarn.list


@pytest.mark.parametrize(("sex", "found"), [("M", "male"), ("F", "female"), ("O", "other")])
def test_sex_of_a_header(sex: str, found: str) -> None:
    (statement,) = read_attributes(instance(PatientSex=sex)).statements
    assert statement.value == found


def test_structured_report_by_words_and_by_codes() -> None:
    by_words = report(
        number_item("2.1", "mm", "99SITE", "BT", "Breslow Thickness"),
        text_item(("99SITE", "UL", "Ulceration"), "present"),
        text_item(("99SITE", "ST", "Pathologic stage"), "stage IIA"),
        code_item(("DCM", "121032", "Subject Sex"), ("DCM", "F", "Female")),
        number_item("61", "a", "DCM", "121033", "Subject Age"),
    )
    reading = read_report(by_words, "structured report")
    assert {each.name: each.value for each in reading.statements} == {
        "thickness": MM,
        "ulceration": "yes",
        "stage": "IIA",
        "sex": "female",
        "age": Quantity(value=61.0, unit="a"),
    }
    assert states_tumour(reading)


def test_odd_items_of_a_report_do_no_harm() -> None:
    empty, nameless, valueless = Dataset(), number_item("2.1", "mm"), number_item("2.1", "mm")
    del nameless.ConceptNameCodeSequence
    valueless.MeasuredValueSequence = []
    unitless = number_item("2.1", "mm")
    del unitless.MeasuredValueSequence[0].MeasurementUnitsCodeSequence
    reading = read_report(report(empty, nameless, valueless, unitless), "structured report")
    assert [each.value for each in reading.statements] == [Quantity(value=2.1, unit="")]


def test_a_report_nested_without_end_is_left() -> None:
    ds = number_item("2.1", "mm")
    for _ in range(100):
        outer = Dataset()
        outer.ContentSequence = [ds]
        ds = outer
    assert read_report(ds, "structured report").statements == ()
