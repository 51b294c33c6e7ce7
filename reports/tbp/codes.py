"""Coded concepts of the TBP reports: what ``reports.coding`` does not already hold."""

from __future__ import annotations

from models.tbp.lesions import Reason
from models.tbp.remarks import REMARKS
from reports.coding import LEFT, RIGHT, Concept, private, sct, ucum

# --- A lesion -------------------------------------------------------------------------------------
# Names of at most 25 characters: a viewer prints them beside the tile.
TILE_PROBABILITY = private("TBP_P_TILE", "Referral prob. by tile")
TREES_PROBABILITY = private("TBP_P_VALUES", "Malignancy prob. by data")
DISTANCE = private("TBP_DISTANCE", "Ugly duckling, of cut-off")
NEVUS_PROBABILITY = private("TBP_P_NEVUS", "Prob. of nevus")
RANK = private("TBP_RANK", "Rank")
RECOMMENDED = private("TBP_RECOMMENDED", "Closer look recommended")
REASON = private("TBP_REASON", "Reason for a closer look")
REASONS: dict[Reason, Concept] = {
    "risk": private("TBP_R_TILE", "Tile resembles lesions sent to dermoscopy"),
    "ugly duckling": private("TBP_R_DUCKLING", "Ugly duckling: unlike the patient's other lesions"),
    "measurements": private("TBP_R_VALUES", "Measurements resemble malignant lesions"),
}
FILTER = private("TBP_FILTER", "Filter that takes lesions out")
FILTERS: dict[str, Concept] = {
    "majorAxisMM": private("TBP_F_SIZE", "Longest diameter below the limit"),
    "deltaLBnorm": private("TBP_F_CONTRAST", "Contrast below the limit"),
    "out_of_bounds_fraction": private("TBP_F_BOUNDS", "Tile too far outside the image"),
    "dnn_lesion_confidence": private("TBP_F_LESION", "Confidence of a lesion below the limit"),
    "nevi_confidence": private("TBP_F_NEVUS", "Confidence of a nevus not above the limit"),
}
RANK_UNIT = ucum("{rank}", "rank")

# --- The patient ----------------------------------------------------------------------------------
LESIONS = private("TBP_LESIONS", "Lesions received")
ASSESSED_LESIONS = private("TBP_ASSESSED", "Lesions assessed")
FLAGGED_LESIONS = private("TBP_FLAGGED", "Lesions recommended")
EXCLUDED_LESIONS = private("TBP_EXCLUDED", "Lesions taken out by filters")
NOT_ASSESSED_LESIONS = private("TBP_NOT_ASSESSED", "Lesions not assessed")
FLAGGED_BY: dict[Reason, Concept] = {
    "risk": private("TBP_N_TILE", "Recommended by the tile"),
    "ugly duckling": private("TBP_N_DUCKLING", "Recommended as ugly duckling"),
    "measurements": private("TBP_N_VALUES", "Recommended by measurements"),
}
EXCLUDED_BY: dict[str, Concept] = {
    name: private(f"TBP_N{concept.value[5:]}", f"Taken out: {concept.meaning}")
    for name, concept in FILTERS.items()
}
NEVUS_COUNT = private("TBP_NEVI", "Nevus count")
COUNT_UNIT = ucum("{count}", "count")
SOLAR_DEGENERATION = sct("43982006", "Solar degeneration", "PS3.16 CID 4405")
PHOTODAMAGE_GRADE = private("TBP_GRADE", "Photodamage grade")
GRADES: dict[str, Concept] = {
    "low": private("TBP_G_LOW", "Low"),
    "moderate": sct("6736007", "Moderate", "PS3.16 CID 3716"),
    "severe": sct("24484000", "Severe", "PS3.16 CID 3716"),
}
GRADE_PROBABILITIES: dict[str, Concept] = {
    grade: private(f"TBP_PG_{grade.upper()}", f"Prob. of {grade} photodamage") for grade in GRADES
}
SKIN_TILES = private("TBP_SKIN_TILES", "Tiles of skin graded")
REMARK = private("TBP_REMARK", "Remark on the screening")
REMARK_CODES: dict[str, Concept] = {
    code: private(f"T_{code}", meaning) for code, meaning in REMARKS.items()
}

# --- Body regions of the device -------------------------------------------------------------------
_UPPER_LIMB = sct("53120007", "Upper limb", "PS3.16 CID 4031")
_LOWER_LIMB = sct("61685007", "Lower limb", "PS3.16 CID 4031")
SITES: dict[str, tuple[Concept, Concept | None]] = {
    "Torso Front": (sct("181491009", "Skin of anterior trunk", "PS3.16 CID 4029"), None),
    "Torso Back": (sct("66643007", "Skin of back", "PS3.16 CID 4029"), None),
    "Left Arm": (_UPPER_LIMB, LEFT),
    "Right Arm": (_UPPER_LIMB, RIGHT),
    "Left Leg": (_LOWER_LIMB, LEFT),
    "Right Leg": (_LOWER_LIMB, RIGHT),
    "Head & Neck": (sct("774007", "Head and Neck", "PS3.16 CID 4031"), None),
}
"""The device's region -> site and side; ``Unknown`` has none."""


def concepts() -> list[Concept]:
    """Every concept of this module, for the conformance statement and the tests."""
    found = [value for value in globals().values() if isinstance(value, Concept)]
    tables = (REASONS, FILTERS, FLAGGED_BY, EXCLUDED_BY, GRADES, GRADE_PROBABILITIES, REMARK_CODES)
    for table in tables:
        found += table.values()
    return found + [site for site, _ in SITES.values()]
