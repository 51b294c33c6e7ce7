"""Coded concepts of the slide reports: what `reports.coding` does not already hold.

A microscopy viewer prints the finding's code *value* beside an outline, not its meaning, so the
private values below are words that can be read.
"""

from __future__ import annotations

from reports.coding import PRIVATE_SCHEME, Concept


def _dcm(value: str, meaning: str) -> Concept:
    return Concept(scheme="DCM", value=value, meaning=meaning, origin="PS3.16 Annex D, 2024c")


def _sct(value: str, meaning: str, origin: str) -> Concept:
    return Concept(scheme="SCT", value=value, meaning=meaning, origin=origin)


def _ucum(value: str, meaning: str) -> Concept:
    return Concept(scheme="UCUM", value=value, meaning=meaning, origin="PS3.16 CID 82; UCUM")


def _private(value: str, meaning: str) -> Concept:
    return Concept(scheme=PRIVATE_SCHEME, value=value, meaning=meaning)


# --- Subject of the report (TID 1006, 1009) -----------------------------------------------------
SUBJECT_CLASS = _dcm("121024", "Subject Class")
SPECIMEN = _dcm("121027", "Specimen")
SPECIMEN_UID = _dcm("121039", "Specimen UID")
SPECIMEN_IDENTIFIER = _dcm("121041", "Specimen Identifier")
SPECIMEN_CONTAINER_IDENTIFIER = _dcm("111700", "Specimen Container Identifier")

# --- Where (TID 1410) ---------------------------------------------------------------------
IMAGE_REGION = _dcm("111030", "Image Region")
LIGHT_MICROSCOPY = _sct("104157003", "Light microscopy", "PS3.16 CID 8131")
TISSUE = _sct("85756007", "Tissue", "PS3.16 CID 7150 and 7166")
SPATIAL_CONCEPT = _sct("309825002", "Spatial and Relational Concept", "PS3.16 CID 7150")

# --- What a pixel of the map means (CID 217, 7180) ----------------------------------------------
SALIENCY = _dcm("130404", "Saliency")
QUANTITY = _sct("246205007", "Quantity", "PS3.16 TID 5003, PS3.3 C.7.6.16.2.11")
NO_UNITS = _ucum("1", "no units")

# --- Findings, as a microscopy viewer prints them -----------------------------------------------
POSITIVE = _private("AI_POSITIVE", "Slide at or above the threshold")
NEGATIVE = _private("AI_NEGATIVE", "Slide below the threshold")
DEMO_POSITIVE = _private("DEMO_POSITIVE", "At or above the threshold of a demonstration model")
DEMO_NEGATIVE = _private("DEMO_NEGATIVE", "Below the threshold of a demonstration model")
TISSUE_PART = _private("TISSUE_PART", "Further part of the tissue")

# --- Reasons not to assess, which are the finding then -------------------------------------------
BLANK = _private("BLANK_SLIDE", "Not assessed by AI: blank slide")
INK_ONLY = _private("INK_ONLY", "Not assessed by AI: ink only, no tissue")
DARK = _private("DARK_SLIDE", "Not assessed by AI: almost entirely black")
NO_SPACING = _private("NO_SPACING", "Not assessed by AI: pixel spacing missing or implausible")
TOO_COARSE = _private("TOO_COARSE", "Not assessed by AI: resolution too low")
TOO_FEW_TILES = _private("TOO_FEW_TILES", "Not assessed by AI: too few usable tiles of tissue")
NOT_READABLE = _private("NOT_READABLE", "Not assessed by AI: slide not readable")
REASON = _private("REASON", "Reason not to assess")

# --- What is said -------------------------------------------------------------------------------
MOST_LIKELY_CLASS = _private("CLASS", "Most likely class")
IS_POSITIVE = _private("POSITIVE", "Positive by threshold")
POSITIVE_PROBABILITY = _private("P_POSITIVE", "Prob. of a positive class")
THRESHOLD = _private("THRESHOLD", "Threshold for positive")
TILES = _private("TILES", "Tiles assessed")
TISSUE_SIZE = _private("TISSUE_SIZE", "Extent of tissue on the slide")
"""Not SCT 42798000 Area: Slim replaces the value of every measurement of that name by its own."""
ATTENTION_RANK = _private("ATTENTION_RANK", "Attention rank in this slide")
ATTENTION_SCOPE = _private("RANK_SCOPE", "Meaning of the attention rank")
WITHIN_SLIDE = _private(
    "WITHIN_SLIDE", "Rank within this slide only; not comparable between slides"
)
EVIDENCE_LEVEL = _private("EVIDENCE", "Evidence of the model")
EVIDENCE_REAL = _private("EVIDENCE_REAL", "Evaluated on real data")
EVIDENCE_SIMULATED = _private("DEMO_SIMULATED", "DEMONSTRATION MODEL, simulated data only")
EVIDENCE_NONE = _private("DEMO_NONE", "DEMONSTRATION MODEL, without any evidence")
INTENDED_USE = _private("USE", "Intended use")
RESEARCH_ONLY = _private("RESEARCH_ONLY", "Research use only, not for diagnosis without review")

EVIDENCE = {"real": EVIDENCE_REAL, "simulated": EVIDENCE_SIMULATED, "none": EVIDENCE_NONE}
"""Evidence level of a manifest -> concept."""

TILES_UNIT = _ucum("{tiles}", "tiles")


def top_tile(rank: int) -> Concept:
    """Finding of the tile with the given place in the order of attention, 1 the highest."""
    return _private(f"TILE_{rank}", f"Tile number {rank} by attention in this slide")


def concepts() -> dict[str, Concept]:
    """Every concept of this module by name, for the conformance statement and the tests."""
    named = {name: value for name, value in globals().items() if isinstance(value, Concept)}
    return named | {"top_tile(1)": top_tile(1)}
