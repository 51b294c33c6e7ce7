import math

import pytest

from models.errors import MeasurementError
from models.tbp.measurements import (
    MEASUREMENTS,
    NAMES,
    canonical_name,
    column_number,
    is_leak,
    read_measurements,
)

PAPER = """
A Aext B Bext C Cext H Hext L Lext areaMM2 area_perim_ratio color_std_mean deltaA deltaB deltaL
deltaLB deltaLBnorm dnn_lesion_confidence eccentricity location_simple majorAxisMM minorAxisMM
nevi_confidence norm_border norm_color perimeterMM radial_color_std_max stdL stdLExt symm_2axis
symm_2axis_angle
"""


def row(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {name: 10.0 for name in NAMES}
    values |= {"location_simple": "Torso Back", "eccentricity": 0.5, "norm_border": 3}
    return values | changes


def test_the_columns_are_the_papers_in_its_order() -> None:
    assert list(NAMES) == PAPER.split()
    assert len({column.isic_name for column in MEASUREMENTS}) == 32


def test_both_spellings_give_the_same_table() -> None:
    device = row(majorAxisMM="3.5")
    isic = {column.isic_name: device[column.name] for column in MEASUREMENTS}
    first, second = read_measurements([device]), read_measurements([isic])
    assert first.values.tolist() == second.values.tolist()
    assert first.values[0, column_number("majorAxisMM")] == 3.5
    assert first.problems == ((),)
    assert first.absent == ()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("A", "", "missing"),
        ("A", None, "missing"),
        ("A", math.nan, "missing"),
        ("A", "dark", "not a number"),
        ("A", math.inf, "out of range"),
        ("eccentricity", 1.5, "out of range"),
        ("majorAxisMM", -2, "out of range"),
        ("location_simple", "Moon", "unknown location"),
        ("location_simple", 2.5, "unknown location"),
    ],
)
def test_an_unusable_value_is_nan_and_named(name: str, value: object, problem: str) -> None:
    table = read_measurements([row(**{name: value}), row()])
    assert [(p.name, p.problem) for p in table.problems[0]] == [(name, problem)]
    assert math.isnan(table.values[0, column_number(name)])
    assert table.missing(1) == ()


def test_a_column_that_no_row_has_is_absent() -> None:
    values = row()
    del values["dnn_lesion_confidence"]
    table = read_measurements([values])
    assert table.absent == ("dnn_lesion_confidence",)
    assert table.missing(0) == ("dnn_lesion_confidence",)


def test_a_value_under_both_spellings_is_refused() -> None:
    with pytest.raises(MeasurementError, match="majorAxisMM"):
        read_measurements([row(clin_size_long_diam_mm=3)])


def test_confidences_given_as_fractions_are_remarked_on() -> None:
    rows = [row(nevi_confidence=0.9)] * 20
    assert "nevi_confidence" in read_measurements(rows).remarks[0]
    assert read_measurements(rows[:19]).remarks == ()


def test_no_rows_give_an_empty_table() -> None:
    table = read_measurements([])
    assert table.values.shape == (0, 32)
    assert table.absent == NAMES


def test_leaks_are_known_by_name() -> None:
    leaks = ["iddx_full", "IDDX_1", "mel_thick_mm", "mel_mitotic_index", "lesion_id", "target"]
    assert all(map(is_leak, leaks))
    assert not any(map(is_leak, [*NAMES, "patient_id"]))
    assert canonical_name("TBP_LV_stdl") == "stdL"
