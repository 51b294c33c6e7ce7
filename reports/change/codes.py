"""Coded concepts of the change reports: what ``reports.coding`` does not already hold."""

from __future__ import annotations

from models.change.result import Reason
from reports.coding import UNREADABLE_IMAGE, Concept, dcm, private, sct, ucum

# --- Time point (TID 1502) ------------------------------------------------------------------------
TIME_POINT = Concept(
    scheme="UMLS", value="C2348792", meaning="Time Point", origin="PS3.16 TID 1502, 2024c"
)

# --- What is said ---------------------------------------------------------------------------------
CHANGE = private("CHANGE", "Change since the earlier image")
CHANGED = private("CHANGED", "Changed")
NO_CHANGE = sct("260388006", "No change", "PS3.16 CID 3606, 2024c")
PROBABILITY_OF_CHANGE = private("P_CHANGE", "Prob. of change")
GROWTH = private("GROWTH", "Growth of the area")
RELATIVE_GROWTH = private("GROWTH_PERCENT", "Growth in percent")
SOURCE_OF_MEASUREMENT = dcm("121112", "Source of Measurement")
DAYS_BETWEEN = private("DAYS", "Days between the images")
DAYS = ucum("d", "day")

# --- How the images belong together ---------------------------------------------------------------
LINKAGE = private("LINKAGE", "Linkage of the images")
LINKAGES: dict[str, Concept] = {
    "tracking_uid": private("LINK_UID", "Tracking Unique Identifier"),
    "tracking_id": private("LINK_ID", "Tracking Identifier of the same patient"),
    "body_site": private("LINK_SITE", "Body site, confirmed by registration"),
}
REGISTRATION = private("REGISTRATION", "Registration of the images")
GOOD = private("REG_GOOD", "Good")
FAIR = private("REG_FAIR", "Fair")
FAILED = private("REG_FAILED", "Failed")
LANDMARKS = private("LANDMARKS", "Landmarks that agree")
LANDMARKS_UNIT = ucum("{landmarks}", "landmarks")
RESIDUAL = private("RESIDUAL", "Registration residual")
OVERLAP = private("OVERLAP", "Overlap of the images")

# --- Sequence -------------------------------------------------------------------------------------
FIRST_SUSPICIOUS = private("FIRST_SUSPICIOUS", "First suspicious time point")
NONE_SUSPICIOUS = private("NONE_SUSPICIOUS", "No time point is suspicious")
THIS_IMAGE = private("THIS_IMAGE", "This image")
AN_EARLIER_IMAGE = private("EARLIER_IMAGE", "An earlier image, see the details")

# --- Why not --------------------------------------------------------------------------------------
REASONS: dict[Reason, Concept] = {
    Reason.NO_PRIOR: private("R_NO_PRIOR", "No earlier image"),
    Reason.PRIORS_UNKNOWN: private("R_PRIORS_UNKNOWN", "Earlier images could not be asked for"),
    Reason.UNDECODABLE: UNREADABLE_IMAGE,
    Reason.QUALITY: private("R_QUALITY", "Image quality"),
    Reason.NO_LESION: private("R_NO_LESION", "No lesion outlined"),
    Reason.SCALE: private("R_SCALE", "Magnifications not comparable"),
    Reason.KEY_POINTS: private("R_KEY_POINTS", "Too few landmarks"),
    Reason.NOT_REGISTERED: private("R_NOT_REGISTERED", "Images do not match"),
    Reason.MIRRORED: private("R_MIRRORED", "Mirrored image"),
    Reason.OVERLAP: private("R_OVERLAP", "Images show other skin"),
    Reason.OTHER_LESION: private("R_OTHER_LESION", "Perhaps another lesion"),
}
