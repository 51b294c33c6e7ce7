"""Covariates in FHIR R4 resources: a Bundle, or a resource alone. Pure."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.prognosis.patient import Given, Quantity
from models.prognosis.reasons import Obstacle, Reason
from workers.prognosis.codes import FHIR_SYSTEMS, answer_of, find_name
from workers.prognosis.statements import (
    FROM_BIRTH_DATE,
    STAGE,
    Reading,
    Statement,
    stage_text,
)

_UCUM = "http://unitsofmeasure.org"
_UNITS = {"mm": "mm", "cm": "cm", "um": "um", "a": "a", "mo": "mo", "d": "d"}
_WRITTEN_OUT = {
    "mm": "mm",
    "millimeter": "mm",
    "millimetre": "mm",
    "cm": "cm",
    "years": "a",
    "year": "a",
    "months": "mo",
}
_VOID = ("entered-in-error", "cancelled")
MAX_RESOURCES = 10_000


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A value that cannot be used as it stands, such as a bound."""

    text: str


def is_fhir(content: Any) -> bool:
    """Whether parsed JSON is a FHIR resource."""
    return isinstance(content, dict) and isinstance(content.get("resourceType"), str)


def holds_covariates(content: dict[str, Any]) -> bool:
    """Whether a resource states thickness, ulceration or stage."""
    return any(
        (found := _name_of(resource)) is not None and found[0] not in ("age", "sex")
        for resource in _resources(content)
    )


def read_fhir(content: dict[str, Any], source: str, *, study_date: str) -> Reading:
    """Read the Observations and the Patient of a resource.

    Parameters
    ----------
    study_date
        YYYYMMDD; with a birth date it gives the age where no Observation does. May be empty.
    """
    statements: list[Statement] = []
    remarks: list[str] = []
    reasons: list[Reason] = []
    patients = 0
    for resource in _resources(content):
        if resource.get("resourceType") == "Patient":
            patients += 1
            statements += _patient(resource, study_date)
            continue
        found = _name_of(resource)
        if found is None:
            continue
        name, rank = found
        if resource.get("status") in _VOID:
            remarks.append(f"the {source} withdraws an observation of {name}; it is left out")
            continue
        value = _value(name, resource)
        if isinstance(value, _Measured):
            reasons.append(Reason(kind=Obstacle.NOT_A_NUMBER, text=f"{name} {value.text}"))
        elif value is not None:
            statements.append(Statement(name=name, value=value, rank=rank))
    if patients > 1:
        text = f"the {source} speaks of more than one patient"
        return Reading(source=source, reasons=(Reason(kind=Obstacle.UNREADABLE, text=text),))
    return Reading(
        source=source,
        statements=tuple(statements),
        remarks=tuple(dict.fromkeys(remarks)),
        reasons=tuple(reasons),
    )


def _resources(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The resource itself, or those of a Bundle, one level deep; components as Observations."""
    if content.get("resourceType") != "Bundle":
        yield from _with_components(content)
        return
    entries = content.get("entry")
    for entry in entries[:MAX_RESOURCES] if isinstance(entries, list) else []:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            yield from _with_components(resource)


def _with_components(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield resource
    components = resource.get("component")
    for part in components if isinstance(components, list) else []:
        if isinstance(part, dict):
            yield {**part, "resourceType": "Observation", "status": resource.get("status")}


def _name_of(resource: dict[str, Any]) -> tuple[str, int] | None:
    if resource.get("resourceType") != "Observation":
        return None
    codings, text = _concept(resource.get("code"))
    return find_name(codings, text)


def _concept(concept: Any) -> tuple[list[tuple[str, str]], str]:
    """(scheme, value) of each coding and the text of a CodeableConcept."""
    if not isinstance(concept, dict):
        return [], ""
    given = concept.get("coding")
    listed = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    codings = [
        (FHIR_SYSTEMS.get(str(each.get("system", "")), ""), str(each.get("code", "")))
        for each in listed
    ]
    words = [concept.get("text"), *(each.get("display") for each in listed)]
    text = next((each for each in words if isinstance(each, str) and each.strip()), "")
    return codings, text


def _value(name: str, resource: dict[str, Any]) -> Given | _Measured:
    """The value; None where the resource says that there is none."""
    if "valueQuantity" in resource:
        return _quantity(resource["valueQuantity"])
    if "valueCodeableConcept" in resource:
        codings, text = _concept(resource["valueCodeableConcept"])
        answer = answer_of(name, codings, text or (codings[0][1] if codings else ""))
        return stage_text(answer) if name == STAGE else answer
    for key in ("valueBoolean", "valueString", "valueInteger"):
        value = resource.get(key)
        if isinstance(value, str):
            return stage_text(value) if name == STAGE else answer_of(name, [], value)
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return Quantity(value=float(value), unit="")
    return None


def _quantity(quantity: Any) -> Given | _Measured:
    if not isinstance(quantity, dict):
        return _Measured(text="has a quantity that is no object")
    if quantity.get("comparator"):
        return _Measured(text="is stated as a bound, not as a value")
    value = quantity.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _Measured(text="has a quantity without a number")
    if not _is_representable(value):
        return _Measured(text="has a quantity out of all bounds")
    code, unit = str(quantity.get("code", "")), str(quantity.get("unit", ""))
    if quantity.get("system") == _UCUM and code:
        return Quantity(value=float(value), unit=_UNITS.get(code, code))
    return Quantity(value=float(value), unit=_WRITTEN_OUT.get(unit.strip().lower(), unit))


def _is_representable(value: int | float) -> bool:
    """Whether a float can hold it: JSON knows integers of hundreds of digits."""
    return abs(value) <= sys.float_info.max


def _patient(resource: dict[str, Any], study_date: str) -> Iterator[Statement]:
    gender = resource.get("gender")
    if isinstance(gender, str) and gender != "unknown":
        yield Statement(name="sex", value=gender)
    birth = resource.get("birthDate")
    years = years_between(birth.replace("-", ""), study_date) if isinstance(birth, str) else None
    if years is not None:
        value = Quantity(value=years, unit="a")
        yield Statement(name="age", value=value, rank=FROM_BIRTH_DATE)


def years_between(birth_date: str, date: str) -> float | None:
    """Whole years from one date (YYYYMMDD) to another; None where one is no full date.

    Examples
    --------
    >>> years_between("19700615", "20250614")
    54.0
    """
    try:
        born = dt.datetime.strptime(birth_date, "%Y%m%d").date()
        then = dt.datetime.strptime(date, "%Y%m%d").date()
    except ValueError:
        return None
    has_had_birthday = (then.month, then.day) >= (born.month, born.day)
    years = then.year - born.year - (not has_had_birthday)
    return float(years) if years >= 0 else None
