"""Coded concepts of the prognosis report: what ``reports.coding`` does not already hold."""

from __future__ import annotations

from models.prognosis.reasons import Obstacle
from reports.coding import VISIBLE_NAME_LENGTH, Concept, private, shorten

RISK_SCORE = private("RISK_SCORE", "Risk score (log HR)")
RISK_GROUP = private("RISK_GROUP", "Risk group")
COVARIATE_USED = private("COVARIATE", "Covariate")
STAGE = private("STAGE", "Stage")
ENDPOINT = private("ENDPOINT", "Endpoint")
REMARK = private("REMARK", "Remark")

_SHORT = {  # a code value has 16 characters at most
    Obstacle.STAGE_UNREADABLE: "STAGE_ODD",
    Obstacle.STAGE_OUT_OF_SCOPE: "STAGE_SCOPE",
}
REASONS: dict[Obstacle, Concept] = {
    kind: private(f"P_{_SHORT.get(kind, kind.name)}", kind.value) for kind in Obstacle
}
"""Code of each kind of reason."""


def free_of_concept(free_of: str, years: float) -> Concept:
    """Name of the probability at a horizon, short enough to be read in a viewer."""
    name = f"{free_of[:1].upper()}{free_of[1:]} {years:g} y"
    if len(name) > VISIBLE_NAME_LENGTH:
        name = f"Free of endpoint {years:g} y"
    return private(f"FREE_{years:g}Y"[:16], shorten(name, 64))


def limit_concept(years: float, *, is_upper: bool) -> Concept:
    """Name of one end of the interval at a horizon."""
    side = "Upper" if is_upper else "Lower"
    return private(f"{side.upper()}_{years:g}Y"[:16], f"{side} 95 % limit {years:g} y")
