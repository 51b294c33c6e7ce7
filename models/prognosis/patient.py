"""Prognosis: what a patient's covariates let a Cox model say, and when it says nothing.

Covariates are checked and coded here before the model sees them: nothing is imputed, a unit is
converted only where it is stated, and a patient outside the model's scope gets reasons instead of
numbers. ``models.prognosis.cox`` holds the arithmetic. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import OutputError
from models.manifest import Manifest
from models.prognosis.reasons import Obstacle, Reason

_STAGE = re.compile(
    r"(?:AJCC\s+)?(?:(?:PATHOLOGIC(?:AL)?|CLINICAL)\s+)?(?:STAGE\s+)?(0|IV|I{1,3})([A-D]?)"
)
_IN_UNIT = {
    "mm": {"mm": 1.0, "cm": 10.0, "um": 1e-3},
    "a": {"a": 1.0, "mo": 1 / 12, "d": 1 / 365.25},
}
"""UCUM unit of a covariate -> units it may be given in -> factor."""
HIGH_RISK, LOW_RISK = "high risk", "low risk"


@dataclass(frozen=True, kw_only=True)
class CovariateSpec:
    """One covariate: what it means, and how a value becomes a number for the model."""

    name: str
    """Name under which values are given, e.g. ``thickness``."""
    meaning: str
    """In words, e.g. ``Breslow thickness``."""
    unit: str
    """UCUM unit of the value; empty for a choice."""
    choices: dict[str, float]
    """Answer in lower case -> number; empty for a measured value."""
    transform: Literal["identity", "log2"]
    """Applied to a measured value first."""
    centre: float
    """Subtracted after the transform; a fixed reference, not a mean of the cohort."""
    scale: float
    """Divided by last: the hazard ratio is that of so many units, positive."""
    observed_low: float
    """Smallest value of the training cohort; below it the model extrapolates, with a warning."""
    observed_high: float
    """Largest value of the training cohort."""
    possible_low: float
    """Below it a value is taken for a mistake (such as a wrong unit) and refused."""
    possible_high: float
    """Above it likewise."""

    def __post_init__(self) -> None:
        """Refuse what no covariate can be."""
        numbers = (self.centre, self.scale, self.possible_low, self.possible_high)
        if not self.name.strip() or not self.meaning.strip():
            raise ValueError("a covariate needs a name and a meaning")
        if not all(map(math.isfinite, numbers)) or self.scale <= 0:
            raise ValueError(
                f"{self.name}: centre, scale and limits must be finite, scale positive"
            )
        if bool(self.choices) == bool(self.unit):
            raise ValueError(f"{self.name}: give either a unit or choices")
        if not (self.possible_low <= self.observed_low <= self.observed_high <= self.possible_high):
            raise ValueError(f"{self.name}: the observed range must lie within the possible one")
        if self.transform == "log2" and self.possible_low <= 0:
            raise ValueError(f"{self.name}: log2 needs positive values")

    @property
    def unit_words(self) -> str:
        """The unit for people."""
        return "years" if self.unit == "a" else self.unit

    def code(self, value: NDArray[np.floating] | float) -> NDArray[np.float64]:
        """Code values in ``unit``, or the numbers of choices, for the model."""
        number = np.asarray(value, np.float64)
        if self.transform == "log2":
            number = np.log2(number)
        return np.asarray((number - self.centre) / self.scale)


@dataclass(frozen=True, kw_only=True)
class HazardRatio:
    """One line of the forest plot."""

    covariate: str
    """Name of the covariate."""
    contrast: str
    """What the ratio compares, e.g. ``per doubling``."""
    ratio: float
    """Hazard ratio."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    p_value: float
    """Of Wald's test."""


@dataclass(frozen=True, kw_only=True)
class GroupCurve:
    """Kaplan-Meier curve of one risk group of the training cohort, for the plot in reports."""

    group: str
    """``high risk`` or ``low risk``."""
    n: int
    """Patients."""
    events: int
    """Patients with the event."""
    years: tuple[float, ...]
    """Times at which the curve steps."""
    survival: tuple[float, ...]
    """From each of these times on."""
    low: tuple[float | None, ...]
    """Lower end of the pointwise 95 % interval; None where it is undefined."""
    high: tuple[float | None, ...]
    """Upper end."""
    at_risk: dict[str, int]
    """Whole year -> patients still followed."""

    def __post_init__(self) -> None:
        """Refuse columns of different length or a curve that rises."""
        columns = (self.survival, self.low, self.high)
        if any(len(column) != len(self.years) for column in columns):
            raise ValueError(f"{self.group}: the columns of the curve differ in length")
        if list(self.survival) != sorted(self.survival, reverse=True):
            raise ValueError(f"{self.group}: the curve rises")


@dataclass(frozen=True, kw_only=True)
class PrognosisManifest(Manifest):
    """What travels with the arrays of a Cox model."""

    endpoint: str
    """The event, and what is done with other ends of follow-up."""
    free_of: str
    """What the survival probabilities mean, e.g. ``alive or dead of another cause``."""
    time_origin: str
    """Where the years begin."""
    covariates: tuple[CovariateSpec, ...]
    """In the order of the model's input."""
    horizons_years: tuple[float, ...]
    """Times of the stated probabilities, ascending."""
    follow_up_years: float
    """Longest follow-up of the training cohort; no horizon lies beyond it."""
    median_cut: float
    """Linear predictor above which a patient is of high risk. Never taken from new patients."""
    median_cut_meaning: str
    """Where the cut comes from."""
    stages: tuple[str, ...]
    """Stages (I, II, ...) of the patients to whom the model applies."""
    scope: str
    """In words: whose course the model describes."""
    interval_method: str
    """How the intervals of the probabilities are made."""
    competing_risks: str
    """What other deaths do to the probabilities."""
    hazard_ratios: tuple[HazardRatio, ...]
    """One for each covariate, in the order of the input."""
    curves: tuple[GroupCurve, ...]
    """Training cohort by risk group."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        names = [covariate.name for covariate in self.covariates]
        return {
            "covariates": lambda: bool(names) and len(set(names)) == len(names),
            "horizons_years": lambda: (
                bool(self.horizons_years)
                and list(self.horizons_years) == sorted(set(self.horizons_years))
                and self.horizons_years[0] > 0
                and self.horizons_years[-1] <= self.follow_up_years
            ),
            "follow_up_years": lambda: 0 < self.follow_up_years < math.inf,
            "median_cut": lambda: math.isfinite(self.median_cut),
            "stages": lambda: (
                bool(self.stages)
                and all(_split_stage(stage) == (stage, "") for stage in self.stages)
            ),
            "hazard_ratios": lambda: (
                [line.covariate for line in self.hazard_ratios] == names
                and all(0 < line.low <= line.ratio <= line.high for line in self.hazard_ratios)
            ),
            "curves": lambda: {curve.group for curve in self.curves} == {LOW_RISK, HIGH_RISK},
        }


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measured value with its unit."""

    value: float
    unit: str
    """UCUM, e.g. ``mm``."""


Given = Quantity | float | int | str | bool | None
"""A covariate as it arrives: a quantity, a plain number in the model's unit, or a choice."""


@dataclass(frozen=True, kw_only=True)
class CodedPatient:
    """Covariates of a patient within the model's scope, ready for the model."""

    covariates: NDArray[np.float32]
    """(K,) in the order of the manifest."""
    warnings: tuple[str, ...] = ()
    """Readable remarks, such as a value beyond the training cohort."""


@dataclass(frozen=True, kw_only=True)
class NotAssessed:
    """A patient of whom the model says nothing, and why."""

    reasons: tuple[Reason, ...]
    """At least one."""


@dataclass(frozen=True, kw_only=True)
class HorizonSurvival:
    """Probability of being free of the event at one time."""

    years: float
    probability: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""


@dataclass(frozen=True, kw_only=True)
class Prognosis:
    """What the model says of one patient."""

    risk_score: float
    """Linear predictor: log hazard ratio against the reference patient."""
    risk_group: Literal["low risk", "high risk"]
    """By the stored median cut."""
    survival: tuple[HorizonSurvival, ...]
    """One for each horizon of the manifest."""
    warnings: tuple[str, ...] = ()


def code_patient(
    given: Mapping[str, Given], stage: str | None, manifest: PrognosisManifest
) -> CodedPatient | NotAssessed:
    """Check a patient's covariates and code them, or say why the model does not apply.

    Parameters
    ----------
    given
        Name of a covariate -> value. Names that the model does not know are left alone.
    stage
        Stage of the disease in words, e.g. ``IIA`` or ``Stage IIA``; None when not known.
    manifest
        Manifest of the model.

    Returns
    -------
    CodedPatient or NotAssessed
        With all reasons at once: stage out of scope or not stated, covariates missing, in a wrong
        unit or impossible.
    """
    reasons = _stage_reasons(stage, manifest)
    warnings: list[str] = []
    coded = []
    for spec in manifest.covariates:
        found = read_covariate(given.get(spec.name), spec)
        if isinstance(found, Reason):
            reasons.append(found)
            continue
        if not spec.observed_low <= found <= spec.observed_high:
            warnings.append(
                f"{spec.meaning} lies outside the training cohort "
                f"({spec.observed_low:g} to {spec.observed_high:g} {spec.unit_words}".rstrip()
                + ")"
            )
        coded.append(float(spec.code(found)))
    if reasons:
        return NotAssessed(reasons=tuple(reasons))
    return CodedPatient(covariates=np.array(coded, np.float32), warnings=tuple(warnings))


def _split_stage(text: str) -> tuple[str, str] | None:
    found = _STAGE.fullmatch(text.strip().upper())
    return (found[1], found[2]) if found else None


def _stage_reasons(stage: str | None, manifest: PrognosisManifest) -> list[Reason]:
    scope = f"the model applies to stage {' and '.join(manifest.stages)}"
    if stage is None or not stage.strip():
        kind, text = Obstacle.STAGE_MISSING, "the stage is not stated"
    elif (found := _split_stage(stage)) is None:
        kind, text = Obstacle.STAGE_UNREADABLE, "the stage cannot be read"
    elif found[0] not in manifest.stages:
        kind, text = Obstacle.STAGE_OUT_OF_SCOPE, f"stage {found[0]} is out of scope"
    else:
        return []
    return [Reason(kind=kind, text=f"{text}; {scope}")]


def read_covariate(value: Given, spec: CovariateSpec) -> float | Reason:
    """Value in the unit of the covariate, or the number of a choice, or why there is none.

    A plain number is taken to be in the unit of the covariate.
    """
    if value is None or value == "":
        return Reason(kind=Obstacle.MISSING, text=f"{spec.meaning} is missing")
    if spec.choices:
        return _read_choice(value, spec)
    if isinstance(value, Quantity):
        factor = _IN_UNIT.get(spec.unit, {spec.unit: 1.0}).get(value.unit)
        if factor is None:
            text = f"{spec.meaning} must be given in {spec.unit_words}"
            return Reason(kind=Obstacle.WRONG_UNIT, text=text)
        value = value.value * factor
    if isinstance(value, bool | str):
        text = f"{spec.meaning} must be a number in {spec.unit_words}"
        return Reason(kind=Obstacle.NOT_A_NUMBER, text=text)
    if not math.isfinite(value):
        text = f"{spec.meaning} is not a finite number"
        return Reason(kind=Obstacle.NOT_A_NUMBER, text=text)
    if not spec.possible_low <= value <= spec.possible_high:
        text = (
            f"{spec.meaning} must lie within {spec.possible_low:g} to {spec.possible_high:g} "
            f"{spec.unit_words}: is the unit right?"
        )
        return Reason(kind=Obstacle.IMPOSSIBLE, text=text)
    return float(value)


def _read_choice(value: Quantity | float | str | bool, spec: CovariateSpec) -> float | Reason:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, str) and value.strip().lower() in spec.choices:
        return spec.choices[value.strip().lower()]
    text = f"{spec.meaning} must be one of {', '.join(spec.choices)}"
    return Reason(kind=Obstacle.NOT_A_CHOICE, text=text)


def interpret(
    patient: CodedPatient,
    *,
    linear_predictor: float,
    survival: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    manifest: PrognosisManifest,
) -> Prognosis:
    """Interpret the model's outputs for one patient.

    Parameters
    ----------
    patient
        What was sent to the model.
    linear_predictor
        Its log hazard ratio.
    survival, low, high
        (M,) for the horizons of the manifest.

    Raises
    ------
    OutputError
        If the outputs have the wrong shape, are no probabilities, rise with time or leave their
        interval.
    """
    size = (len(manifest.horizons_years),)
    bands = [np.asarray(band, np.float64) for band in (low, survival, high)]
    if any(band.shape != size for band in bands) or not math.isfinite(linear_predictor):
        raise OutputError(f"the outputs must be finite and of shape {size}")
    stacked = np.stack(bands)
    rounding = 1e-6  # of float32 on the wire
    if (
        not ((stacked >= 0) & (stacked <= 1)).all()
        or (np.diff(stacked, axis=0) < -rounding).any()
        or (np.diff(stacked[1]) > rounding).any()
    ):
        raise OutputError("the outputs are not survival probabilities within their intervals")
    # Compared as sent: a patient at the median itself stays below the cut.
    is_high = np.float32(linear_predictor) > np.float32(manifest.median_cut)
    return Prognosis(
        risk_score=float(linear_predictor),
        risk_group="high risk" if is_high else "low risk",
        survival=tuple(
            HorizonSurvival(years=years, probability=float(p), low=float(a), high=float(b))
            for years, a, p, b in zip(manifest.horizons_years, *bands, strict=True)
        ),
        warnings=patient.warnings,
    )
