from __future__ import annotations

import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.valuerep import validate_value

import reports
from reports import coding
from reports.coding import Concept

_MULTIPLICATION = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def has_verhoeff_check_digit(digits: str) -> bool:
    """Verhoeff's dihedral check, which every SNOMED CT identifier passes."""
    check = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(position % 8):
            value = _PERMUTATION[value]
        check = _MULTIPLICATION[check][value]
    return check == 0


def test_check_digit_refuses_invented_identifiers() -> None:
    invented = ("92579001", "109264001", "12563001", "72464004")
    assert not any(has_verhoeff_check_digit(digits) for digits in invented)


def every_concept() -> dict[str, Concept]:
    """The concepts of every module of ``reports``, those in tables included."""
    found = dict(coding.concepts())
    for info in pkgutil.walk_packages(reports.__path__, "reports."):
        if info.name == coding.__name__:
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            inside = value.items() if isinstance(value, dict) else [("", value)]
            found |= {
                f"{info.name}.{name}{key and f'[{key}]'}": each
                for key, each in inside
                if isinstance(each, Concept)
            }
    return found


@pytest.mark.parametrize(("name", "concept"), every_concept().items())
def test_concept_is_well_formed(name: str, concept: Concept) -> None:
    assert 0 < len(concept.value) <= 16, name
    assert 0 < len(concept.meaning) <= 64, name
    assert concept.origin
    if concept.scheme == "SCT":
        assert has_verhoeff_check_digit(concept.value), name
    if concept.scheme not in ("DCM", "SCT", "UCUM", "UMLS", "RFC5646"):
        assert concept.scheme.startswith("99")


def test_code_has_one_meaning_over_all_analyses() -> None:
    meanings: dict[tuple[str, str], set[str]] = {}
    for concept in every_concept().values():
        meanings.setdefault((concept.scheme, concept.value), set()).add(concept.meaning)
    assert {code: said for code, said in meanings.items() if len(said) > 1} == {}


@pytest.mark.parametrize(
    ("label", "scheme", "value"),
    [
        ("MEL", "SCT", "1162635006"),
        ("mel", "SCT", "1162635006"),
        ("BKL", "99LENTIGO", "DX_BKL"),  # a union of diagnoses
        ("DF", "99LENTIGO", "DX_DF"),  # SNOMED CT code not verified
    ],
)
def test_diagnosis_is_standard_only_where_verified(label: str, scheme: str, value: str) -> None:
    concept = coding.diagnosis_concept(label, "Full name")
    assert (concept.scheme, concept.value) == (scheme, value)


@given(st.text(max_size=80), st.text(max_size=120))
def test_any_label_makes_legal_codes(label: str, name: str) -> None:
    for concept in (coding.diagnosis_concept(label, name), coding.probability_concept(label, name)):
        validate_value("SH", concept.value, config.RAISE)
        validate_value("LO", concept.meaning, config.RAISE)
        assert 0 < len(concept.value) <= 16
        assert 0 < len(concept.meaning) <= 64
        assert "\\" not in concept.value + concept.meaning


@given(st.sets(st.text(min_size=1, max_size=40), min_size=2, max_size=8))
def test_labels_never_share_a_private_code(labels: set[str]) -> None:
    values = {coding.probability_concept(label, "").value for label in labels}
    assert len(values) == len(labels)


def test_probability_name_is_short_enough_to_be_read() -> None:
    assert coding.probability_concept("MEL", "Melanoma").meaning == "Prob. Melanoma"
    long = coding.probability_concept("AKIEC", "Actinic keratosis / intraepithelial carcinoma")
    assert long.meaning == "Prob. AKIEC"
