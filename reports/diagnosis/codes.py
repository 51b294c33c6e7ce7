"""Coded concepts of the diagnosis reports: what ``reports.coding`` does not already hold."""

from __future__ import annotations

from models.quality import UNREADABLE, Reason, Remark
from reports.coding import UNREADABLE_IMAGE, Concept, private

# --- Why, and with what reserve -------------------------------------------------------------------
QUALITY_REMARK = private("IMAGE_REMARK", "Remark on the image")

OTHER_REASON = private("R_OTHER", "Other reason, see the comment")
OTHER_REMARK = private("Q_OTHER", "Other remark, see the comment")
REASONS: dict[str, Concept] = {
    Reason.TOO_SMALL: private("R_TOO_SMALL", "Image too small"),
    Reason.STRIP: private("R_STRIP", "Image far longer than wide"),
    Reason.BLACK: private("R_BLACK", "Image almost entirely black"),
    Reason.OVEREXPOSED: private("R_OVEREXPOSED", "Image almost entirely overexposed"),
    Reason.UNIFORM: private("R_UNIFORM", "Image almost uniform"),
    Reason.BLURRED: private("R_BLURRED", "Image extremely blurred"),
    Reason.OUT_OF_DISTRIBUTION: private("R_OOD", "Image unlike the training images"),
}
REMARKS: dict[str, Concept] = {
    Remark.LOW_RESOLUTION: private("Q_RESOLUTION", "Low resolution"),
    Remark.SOFT_FOCUS: private("Q_FOCUS", "Soft focus"),
    Remark.DARK_AREA: private("Q_DARK", "Large dark area"),
    Remark.OVEREXPOSED_AREA: private("Q_OVEREXPOSED", "Large overexposed area"),
    Remark.NO_COLOUR: private("Q_NO_COLOUR", "Almost no colour"),
    Remark.COLOUR_CAST: private("Q_CAST", "Strong colour cast"),
    Remark.FAR_FROM_TRAINING: private("Q_FAR", "Image unlike most training images"),
    Remark.NO_LESION: private("Q_NO_LESION", "No lesion outlined"),
    Remark.NOT_DERMOSCOPIC: private("Q_CLINICAL", "Not marked as dermoscopic"),
}

# --- Sets of diagnoses ----------------------------------------------------------------------------
POSSIBLE_DIAGNOSIS = private("POSSIBLE", "Possible diagnosis")
SET_COVERAGE = private("SET_COVERAGE", "Coverage of the diagnoses")
REFERRAL = private("REFERRAL", "Referral to a reader")
REFERRAL_REASON = private("REFERRAL_WHY", "Reason for the referral")
TOO_MANY_POSSIBLE = private("F_TOO_MANY", "Too many diagnoses are possible")
NONE_PROBABLE = private("F_NONE", "No diagnosis is probable enough")

# --- One lesion in several images -----------------------------------------------------------------
LESION_UID = private("LESION_UID", "Lesion, over its images")
IMAGE_ROLE = private("IMAGE_ROLE", "Role of the image for its lesion")
DECIDES = private("DECIDES", "Stands for the lesion")
SEEN_BESIDE = private("SEEN_BESIDE", "Seen beside the image that stands")


def reason_concept(reason: str) -> Concept:
    """The code of a reason not to assess an image."""
    if reason.startswith(UNREADABLE):
        return UNREADABLE_IMAGE
    return REASONS.get(reason, OTHER_REASON)


def remark_concept(remark: str) -> Concept:
    """The code of a remark on an image."""
    return REMARKS.get(remark, OTHER_REMARK)
