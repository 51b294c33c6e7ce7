"""What a source says of a patient, before anybody decides whether it counts. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.prognosis.patient import Given, Quantity
from models.prognosis.reasons import Reason

STAGE = "stage"
"""Name of the stage beside those of the covariates."""

FROM_BIRTH_DATE = 5
"""Rank of an age that a source does not state, but that follows from its birth date."""

# Arabic stage groups are used by some registries: 2A is IIA.
_ROMAN = {"0": "0", "1": "I", "2": "II", "3": "III", "4": "IV"}
_STAGE = re.compile(
    r"\bSTAGE\s+(?:GROUP\s+)?(0|IV|I{1,3}|[1-4])([A-D]?)\b|^(0|IV|I{1,3}|[1-4])([A-D]?)$"
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One value as a source gives it."""

    name: str
    """Name of the covariate, or ``stage``."""
    value: Given
    rank: int = 0
    """Within its source a lower rank goes first, such as the pathologic stage."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that one source says."""

    source: str
    """In words, e.g. ``JSON document``."""
    statements: tuple[Statement, ...] = ()
    remarks: tuple[str, ...] = ()
    """What a reader of the report should know about it."""
    reasons: tuple[Reason, ...] = ()
    """Why it cannot be used; nothing is taken from elsewhere then."""


def stage_text(text: str) -> str:
    """A stage as ``IIA``, where the text holds one; else the text itself.

    Examples
    --------
    >>> stage_text("American Joint Committee on Cancer stage IIA (qualifier value)")
    'IIA'
    >>> stage_text("2a"), stage_text("T2b")
    ('IIA', 'T2b')
    """
    found = _STAGE.search(" ".join(text.upper().split()))
    if found is None:
        return text.strip()
    group, letter = (found[1], found[2]) if found[1] else (found[3], found[4])
    return _ROMAN.get(group, group) + letter


def shown(value: Given) -> str:
    """A value for a reader of the report.

    Examples
    --------
    >>> shown(Quantity(value=2.1, unit="mm")), shown(True)
    ('2.1 mm', 'yes')
    """
    if isinstance(value, Quantity):
        return f"{value.value:g} {'years' if value.unit == 'a' else value.unit or '(no unit)'}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
