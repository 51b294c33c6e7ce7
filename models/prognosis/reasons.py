"""Why a prognosis is not given, as values that reports have codes for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Obstacle(Enum):
    """Kind of a reason; the value is its meaning in a code."""

    STAGE_MISSING = "Stage is not stated"
    STAGE_UNREADABLE = "Stage cannot be read"
    STAGE_OUT_OF_SCOPE = "Stage is out of the model's scope"
    MISSING = "Covariate is missing"
    WRONG_UNIT = "Covariate is in a wrong unit, or in none"
    NOT_A_NUMBER = "Covariate is not a finite number"
    IMPOSSIBLE = "Covariate has an impossible value"
    NOT_A_CHOICE = "Covariate is none of the model's choices"
    AMBIGUOUS = "Covariate is stated more than once, differently"
    UNREADABLE = "A source of covariates cannot be read"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One reason against a prognosis."""

    kind: Obstacle
    text: str
    """Readable; names covariates and sources, never a patient's value."""
