"""Coded concepts of the slide reports: what `reports.coding` does not already hold.

A microscopy viewer prints the finding's code *value* beside an outline, not its meaning, so the
private values below are words that can be read.
"""

from __future__ import annotations

from reports.coding import Concept, dcm, private, sct, ucum

# --- Subject of the report (TID 1006, 1009) -----------------------------------------------------
SUBJECT_CLASS = dcm("121024", "Subject Class")
SPECIMEN = dcm("121027", "Specimen")
SPECIMEN_UID = dcm("121039", "Specimen UID")
SPECIMEN_IDENTIFIER = dcm("121041", "Specimen Identifier")
SPECIMEN_CONTAINER_IDENTIFIER = dcm("111700", "Specimen Container Identifier")

# --- Where (TID 1410) ---------------------------------------------------------------------
IMAGE_REGION = dcm("111030", "Image Region")
LIGHT_MICROSCOPY = sct("104157003", "Light microscopy", "PS3.16 CID 8131")
TISSUE = sct("85756007", "Tissue", "PS3.16 CID 7150 and 7166")
SPATIAL_CONCEPT = sct("309825002", "Spatial and Relational Concept", "PS3.16 CID 7150")

# --- What a pixel of the map means (CID 217, 7180) ----------------------------------------------
SALIENCY = dcm("130404", "Saliency")
QUANTITY = sct("246205007", "Quantity", "PS3.16 TID 5003, PS3.3 C.7.6.16.2.11")

# --- Findings, as a microscopy viewer prints them -----------------------------------------------
POSITIVE = private("AI_POSITIVE", "Slide at or above the threshold")
NEGATIVE = private("AI_NEGATIVE", "Slide below the threshold")
DEMO_POSITIVE = private("DEMO_POSITIVE", "At or above the threshold of a demonstration model")
DEMO_NEGATIVE = private("DEMO_NEGATIVE", "Below the threshold of a demonstration model")
TISSUE_PART = private("TISSUE_PART", "Further part of the tissue")

# --- Reasons not to assess, which are the finding then -------------------------------------------
BLANK = private("BLANK_SLIDE", "Not assessed by AI: blank slide")
INK_ONLY = private("INK_ONLY", "Not assessed by AI: ink only, no tissue")
DARK = private("DARK_SLIDE", "Not assessed by AI: almost entirely black")
NO_SPACING = private("NO_SPACING", "Not assessed by AI: pixel spacing missing or implausible")
TOO_COARSE = private("TOO_COARSE", "Not assessed by AI: resolution too low")
TOO_FEW_TILES = private("TOO_FEW_TILES", "Not assessed by AI: too few usable tiles of tissue")
NOT_READABLE = private("NOT_READABLE", "Not assessed by AI: slide not readable")

# --- What is said -------------------------------------------------------------------------------
MOST_LIKELY_CLASS = private("CLASS", "Most likely class")
IS_POSITIVE = private("POSITIVE", "Positive by threshold")
POSITIVE_PROBABILITY = private("P_POSITIVE", "Prob. of a positive class")
THRESHOLD = private("THRESHOLD", "Threshold for positive")
TILES = private("TILES", "Tiles assessed")
TISSUE_SIZE = private("TISSUE_SIZE", "Extent of tissue on the slide")
"""Not SCT 42798000 Area: Slim replaces the value of every measurement of that name by its own."""
ATTENTION_RANK = private("ATTENTION_RANK", "Attention rank in this slide")
ATTENTION_SCOPE = private("RANK_SCOPE", "Meaning of the attention rank")
WITHIN_SLIDE = private("WITHIN_SLIDE", "Rank within this slide only; not comparable between slides")
EVIDENCE_LEVEL = private("EVIDENCE", "Evidence of the model")
EVIDENCE_REAL = private("EVIDENCE_REAL", "Evaluated on real data")
EVIDENCE_SIMULATED = private("DEMO_SIMULATED", "DEMONSTRATION MODEL, simulated data only")
EVIDENCE_NONE = private("DEMO_NONE", "DEMONSTRATION MODEL, without any evidence")
INTENDED_USE = private("USE", "Intended use")
RESEARCH_ONLY = private("RESEARCH_ONLY", "Research use only, not for diagnosis without review")

EVIDENCE = {"real": EVIDENCE_REAL, "simulated": EVIDENCE_SIMULATED, "none": EVIDENCE_NONE}
"""Evidence level of a manifest -> concept."""

TILES_UNIT = ucum("{tiles}", "tiles")


def top_tile(rank: int) -> Concept:
    """Finding of the tile with the given place in the order of attention, 1 the highest."""
    return private(f"TILE_{rank}", f"Tile number {rank} by attention in this slide")


def concepts() -> dict[str, Concept]:
    """Every concept of this module by name, for the conformance statement and the tests."""
    named = {name: value for name, value in globals().items() if isinstance(value, Concept)}
    return named | {"top_tile(1)": top_tile(1)}
