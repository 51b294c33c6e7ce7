"""The small JSON document of a site: ``{"lentigo": "prognosis", ...}`` (``docs/prognosis.md``)."""

from __future__ import annotations

from typing import Any

from models.prognosis.patient import Given, Quantity
from models.prognosis.reasons import Obstacle, Reason
from workers.prognosis.statements import STAGE, Reading, Statement, stage_text

_KEYS = {"lentigo", "stage", "covariates", "comment"}
_SEX = {"m": "male", "f": "female", "w": "female"}


class _Misfit(Exception):
    """The document has another shape; the message says where."""


def is_ours(content: Any) -> bool:
    """Whether parsed JSON is a document for the prognosis."""
    return isinstance(content, dict) and content.get("lentigo") == "prognosis"


def read_site_document(content: dict[str, Any], source: str) -> Reading:
    """Read a document; one of another shape is refused as a whole, since a part may mislead."""
    try:
        return Reading(source=source, statements=tuple(_statements(content)))
    except _Misfit as exc:
        reason = Reason(kind=Obstacle.UNREADABLE, text=f"the {source} cannot be used: {exc}")
        return Reading(source=source, reasons=(reason,))


def _statements(content: dict[str, Any]) -> list[Statement]:
    if set(content) - _KEYS:
        raise _Misfit(f"it has keys other than {', '.join(sorted(_KEYS))}")
    found = []
    stage = content.get("stage")
    if stage is not None:
        if not isinstance(stage, str):
            raise _Misfit("the stage is no text")
        found.append(Statement(name=STAGE, value=stage_text(stage)))
    covariates = content.get("covariates", {})
    if not isinstance(covariates, dict):
        raise _Misfit("the covariates are no object")
    for name, value in covariates.items():
        if value is not None:
            found.append(Statement(name=name, value=_value(name, value)))
    return found


def _value(name: str, value: Any) -> Given:
    unit = None
    if isinstance(value, dict):
        if set(value) - {"value", "unit"} or "value" not in value:
            raise _Misfit("a covariate has keys other than value and unit")
        value, unit = value["value"], value.get("unit")
        if unit is not None and not isinstance(unit, str):
            raise _Misfit("a unit is no text")
    if isinstance(value, dict | list):
        raise _Misfit("a value is neither text, number nor truth value")
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Without a unit it is refused later: millimetres are not guessed.
        return Quantity(value=_float(value), unit=unit or "")
    if name == "sex" and isinstance(value, str):
        return _SEX.get(value.strip().lower(), value)
    assert isinstance(value, str | bool | None)
    return value


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")
