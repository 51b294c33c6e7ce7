"""Which patients the prognosis model speaks of, and what is made of its outputs."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from models.errors import ManifestError, OutputError
from models.prognosis.patient import (
    CodedPatient,
    NotAssessed,
    PrognosisManifest,
    Quantity,
    code_patient,
    interpret,
)

PATIENT: dict[str, Any] = {"thickness": Quantity(value=4.0, unit="mm"), "ulceration": "yes"}


def _content(**changes: Any) -> dict[str, Any]:
    texts = (
        "data licence citation intended_use training_command git_commit evidence endpoint free_of "
        "time_origin median_cut_meaning scope interval_method competing_risks"
    )
    measured = {
        "name": "thickness",
        "meaning": "Breslow thickness",
        "unit": "mm",
        "choices": {},
        "transform": "log2",
        "centre": 1.0,
        "scale": 1.0,
        "observed_low": 0.5,
        "observed_high": 10.0,
        "possible_low": 0.05,
        "possible_high": 30.0,
    }
    chosen = measured | {
        "name": "ulceration",
        "meaning": "ulceration",
        "unit": "",
        "choices": {"no": 0.0, "yes": 1.0},
        "transform": "identity",
        "centre": 0.0,
        "observed_low": 0.0,
        "observed_high": 1.0,
        "possible_low": 0.0,
        "possible_high": 1.0,
    }
    curve = {
        "group": "low risk",
        "n": 3,
        "events": 1,
        "years": [2.0],
        "survival": [0.5],
        "low": [None],
        "high": [None],
        "at_risk": {"0": 3},
    }
    ratio = {"contrast": "c", "ratio": 2.0, "low": 1.0, "high": 4.0, "p_value": 0.05}
    return {
        **dict.fromkeys(texts.split(), "text"),
        "name": "prognosis",
        "version": "1.0.0",
        "digest": "0" * 64,
        "created": "2025-01-31",
        "evidence_level": "none",
        "figures": [],
        "covariates": [measured, chosen],
        "horizons_years": [3, 5, 7],
        "follow_up_years": 12.0,
        "median_cut": 0.25,
        "stages": ["I", "II"],
        "hazard_ratios": [ratio | {"covariate": n} for n in ("thickness", "ulceration")],
        "curves": [curve, curve | {"group": "high risk"}],
        **changes,
    }


def _manifest(**changes: Any) -> PrognosisManifest:
    return PrognosisManifest.from_json(json.dumps(_content(**changes)))


def test_manifest_survives_its_json() -> None:
    assert PrognosisManifest.from_json(_manifest().to_json()) == _manifest()


@pytest.mark.parametrize(
    "changes",
    [
        {"horizons_years": [3, 13]},
        {"horizons_years": [5, 3]},
        {"horizons_years": []},
        {"stages": ["IIA"]},
        {"stages": []},
        {"hazard_ratios": []},
        {"curves": []},
        {"covariates": []},
    ],
)
def test_impossible_manifests_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match=next(iter(changes))):
        _manifest(**changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 0.0),
        ("possible_low", 0.0),
        ("observed_high", 31.0),
        ("unit", ""),
        ("choices", {"no": 0}),
        ("transform", "sqrt"),
    ],
)
def test_impossible_covariates_are_refused(field: str, value: object) -> None:
    covariates = _content()["covariates"]
    covariates[0][field] = value
    with pytest.raises(ManifestError, match=r"covariates\[0\]"):
        _manifest(covariates=covariates)


@pytest.mark.parametrize(
    "value", [4.0, 4, Quantity(value=0.4, unit="cm"), Quantity(value=4000, unit="um")]
)
def test_units_are_converted_where_stated(value: object) -> None:
    found = code_patient(PATIENT | {"thickness": value}, "Stage IIA", _manifest())
    assert isinstance(found, CodedPatient)
    np.testing.assert_allclose(found.covariates, [1.0, 1.0], rtol=1e-6)
    assert found.covariates.dtype == np.float32
    assert not found.warnings


@pytest.mark.parametrize(("answer", "code"), [("No", 0), (" YES ", 1), (True, 1), (False, 0)])
def test_choices_are_read_in_any_case(answer: object, code: float) -> None:
    found = code_patient(PATIENT | {"ulceration": answer}, "I", _manifest())
    assert isinstance(found, CodedPatient)
    assert found.covariates[1] == code


def test_value_beyond_the_training_cohort_is_remarked() -> None:
    found = code_patient(PATIENT | {"thickness": 12.0}, "IB", _manifest())
    assert isinstance(found, CodedPatient)
    assert found.warnings == ("Breslow thickness lies outside the training cohort (0.5 to 10 mm)",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"thickness": None}, "Breslow thickness is missing"),
        ({"ulceration": ""}, "ulceration is missing"),
        ({"thickness": math.nan}, "not a finite number"),
        ({"thickness": Quantity(value=math.inf, unit="mm")}, "not a finite number"),
        ({"thickness": 1200.0}, "is the unit right"),
        ({"thickness": -1.0}, "is the unit right"),
        ({"thickness": Quantity(value=4, unit="[in_i]")}, "must be given in mm"),
        ({"thickness": "4 mm"}, "must be a number in mm"),
        ({"thickness": True}, "must be a number in mm"),
        ({"ulceration": "perhaps"}, "must be one of no, yes"),
        ({"ulceration": 1}, "must be one of no, yes"),
    ],
)
def test_what_cannot_be_used_is_a_reason(changes: dict[str, Any], reason: str) -> None:
    found = code_patient(PATIENT | changes, "II", _manifest())
    assert isinstance(found, NotAssessed)
    assert len(found.reasons) == 1
    assert reason in found.reasons[0].text


@pytest.mark.parametrize("stage", ["III", "stage IIIC", "IV", "0", None, " ", "two", "IIE"])
def test_stages_out_of_scope_are_reasons(stage: str | None) -> None:
    found = code_patient(PATIENT, stage, _manifest())
    assert isinstance(found, NotAssessed)
    assert "stage I and II" in found.reasons[0].text


@pytest.mark.parametrize("stage", ["I", "ii", "Stage IIC", "AJCC Stage IB", "Pathologic Stage II"])
def test_stages_are_read_as_written(stage: str) -> None:
    assert isinstance(code_patient(PATIENT, stage, _manifest()), CodedPatient)


def test_all_reasons_are_given_at_once() -> None:
    found = code_patient({}, None, _manifest())
    assert isinstance(found, NotAssessed)
    assert len(found.reasons) == 3


def _interpret(**changes: Any) -> Any:
    outputs = {
        "linear_predictor": 0.3,
        "survival": np.array([0.9, 0.8, 0.7], np.float32),
        "low": np.array([0.8, 0.6, 0.5], np.float32),
        "high": np.array([0.95, 0.9, 0.9], np.float32),
    }
    patient = CodedPatient(covariates=np.zeros(2, np.float32), warnings=("remark",))
    return interpret(patient, **(outputs | changes), manifest=_manifest())


def test_outputs_become_a_prognosis() -> None:
    found = _interpret()
    assert found.risk_group == "high risk"
    assert found.warnings == ("remark",)
    assert [line.years for line in found.survival] == [3, 5, 7]
    assert found.survival[1].low == pytest.approx(0.6)
    assert found.survival[1].probability == pytest.approx(0.8)
    assert found.survival[1].high == pytest.approx(0.9)


def test_the_cut_is_the_stored_one_and_the_median_stays_below() -> None:
    assert _interpret(linear_predictor=0.25).risk_group == "low risk"
    assert _interpret(linear_predictor=0.2501).risk_group == "high risk"
    # Through float32 the median patient's own score may grow by a rounding.
    cut = 0.1 + 0.2
    manifest = dataclasses.replace(_manifest(), median_cut=cut)
    patient = CodedPatient(covariates=np.zeros(2, np.float32))
    band = np.full(3, 0.5)
    found = interpret(
        patient,
        linear_predictor=float(np.float32(cut)),
        survival=band,
        low=band,
        high=band,
        manifest=manifest,
    )
    assert found.risk_group == "low risk"


@pytest.mark.parametrize(
    "changes",
    [
        {"linear_predictor": math.nan},
        {"survival": np.array([0.9, 0.8])},
        {"survival": np.array([0.9, 0.8, np.nan])},
        {"survival": np.array([0.7, 0.8, 0.9])},
        {"low": np.array([0.8, 0.85, 0.5])},
        {"high": np.array([0.95, 0.9, 1.1])},
    ],
)
def test_impossible_outputs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OutputError):
        _interpret(**changes)
