"""Coded concepts of the prognosis report: what ``reports.coding`` does not already hold."""

from __future__ import annotations

from models.prognosis.reasons import Obstacle
from reports.coding import PRIVATE_SCHEME, Concept, shorten

_VISIBLE_NAME_LENGTH = 25  # OHIF prints the meaning beside the value in a narrow box


def _private(value: str, meaning: str) -> Concept:
    return Concept(scheme=PRIVATE_SCHEME, value=value, meaning=meaning)


ONCOLOGY_REPORT = Concept(
    scheme="DCM",
    value="126001",
    meaning="Oncology Measurement Report",
    origin="PS3.16 CID 7021, 2024c",
)
"""Title of a report on no image: viewers print it as text."""
NO_UNITS = Concept(scheme="UCUM", value="1", meaning="no units", origin="PS3.16 CID 82; UCUM")
RISK_SCORE = _private("RISK_SCORE", "Risk score (log HR)")
RISK_GROUP = _private("RISK_GROUP", "Risk group")
COVARIATE_USED = _private("COVARIATE", "Covariate")
STAGE = _private("STAGE", "Stage")
ENDPOINT = _private("ENDPOINT", "Endpoint")
REASON = _private("REASON", "Reason not to assess")
REMARK = _private("REMARK", "Remark")

_SHORT = {  # a code value has 16 characters at most
    Obstacle.STAGE_UNREADABLE: "STAGE_ODD",
    Obstacle.STAGE_OUT_OF_SCOPE: "STAGE_SCOPE",
}
REASONS: dict[Obstacle, Concept] = {
    kind: _private(f"P_{_SHORT.get(kind, kind.name)}", kind.value) for kind in Obstacle
}
"""Code of each kind of reason."""


def free_of_concept(free_of: str, years: float) -> Concept:
    """Name of the probability at a horizon, short enough to be read in a viewer."""
    name = f"{free_of[:1].upper()}{free_of[1:]} {years:g} y"
    if len(name) > _VISIBLE_NAME_LENGTH:
        name = f"Free of endpoint {years:g} y"
    return _private(f"FREE_{years:g}Y"[:16], shorten(name, 64))


def limit_concept(years: float, *, is_upper: bool) -> Concept:
    """Name of one end of the interval at a horizon."""
    side = "Upper" if is_upper else "Lower"
    return _private(f"{side.upper()}_{years:g}Y"[:16], f"{side} 95 % limit {years:g} y")
