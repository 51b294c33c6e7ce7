"""Every coded concept that reports use: scheme, value, meaning, and where it was checked.

A concept is written only if ``verified`` is true; a diagnosis without a verified code is written
in the private scheme. Public code lists hold invented SNOMED CT identifiers, so a concept counts
as verified only by the DICOM standard itself or by a curated terminology, named in ``origin``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pydicom import Dataset

PRIVATE_SCHEME = "99LENTIGO"  # "99" marks a private scheme, PS3.3 8.2
PRIVATE_SCHEME_NAME = "Lentigo result concepts"
_CODE_VALUE_LENGTH = 16  # SH, PS3.5 6.2
_CODE_MEANING_LENGTH = 64  # LO, PS3.5 6.2
VISIBLE_NAME_LENGTH = 25  # a viewer's text box is narrow: OHIF prints the meaning beside the value


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One coded concept (PS3.3 section 8)."""

    scheme: str
    """Coding Scheme Designator."""
    value: str
    """Code Value, at most 16 characters."""
    meaning: str
    """Code Meaning, at most 64 characters."""
    origin: str = "private scheme, defined in this file"
    """Where the code was checked."""
    verified: bool = True
    """Whether the origin is the standard or a curated terminology."""

    def as_item(self) -> Dataset:
        """As an item of a code sequence."""
        item = Dataset()
        item.CodeValue = self.value
        item.CodingSchemeDesignator = self.scheme
        item.CodeMeaning = self.meaning
        return item


def dcm(value: str, meaning: str) -> Concept:
    """Return a concept of the DICOM standard."""
    return Concept(scheme="DCM", value=value, meaning=meaning, origin="PS3.16 Annex D, 2024c")


def sct(value: str, meaning: str, origin: str) -> Concept:
    """Return a concept of SNOMED CT with where it was checked."""
    return Concept(scheme="SCT", value=value, meaning=meaning, origin=origin)


def ucum(value: str, meaning: str) -> Concept:
    """Return a unit of measurement."""
    return Concept(scheme="UCUM", value=value, meaning=meaning, origin="PS3.16 CID 82; UCUM")


def private(value: str, meaning: str) -> Concept:
    """Return a concept of the private scheme; values are unique over all analyses."""
    return Concept(scheme=PRIVATE_SCHEME, value=value, meaning=meaning)


# --- Document structure (TID 1500, 1501, 1600, 1001 to 1004, 4019) -----------------------------
IMAGING_MEASUREMENT_REPORT = dcm("126000", "Imaging Measurement Report")
ONCOLOGY_MEASUREMENT_REPORT = dcm("126001", "Oncology Measurement Report")
"""Title of a report on no image (CID 7021): viewers print it as text."""
IMAGING_MEASUREMENTS = dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = dcm("125007", "Measurement Group")
IMAGE_LIBRARY = dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = dcm("126200", "Image Library Group")
MODALITY = dcm("121139", "Modality")
LANGUAGE = dcm("121049", "Language of Content Item and Descendants")
ENGLISH = Concept(
    scheme="RFC5646", value="en", meaning="English", origin="PS3.16 CID 5000; RFC 5646"
)
OBSERVER_TYPE = dcm("121005", "Observer Type")
DEVICE = dcm("121007", "Device")
DEVICE_OBSERVER_UID = dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = dcm("121015", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER = dcm("121016", "Device Observer Serial Number")
PROCEDURE_REPORTED = dcm("121058", "Procedure reported")
TRACKING_IDENTIFIER = dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = dcm("112040", "Tracking Unique Identifier")
FINDING = dcm("121071", "Finding")
COMMENT = dcm("121106", "Comment")
AREA_OUTLINE = dcm("121056", "Area outline")
ALGORITHM_NAME = dcm("111001", "Algorithm Name")
ALGORITHM_VERSION = dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS = dcm("111002", "Algorithm Parameters")
ALGORITHM_FAMILY = dcm("111000", "Algorithm Family")
ALGORITHM_MANUFACTURER = dcm("122405", "Algorithm Manufacturer")
ARTIFICIAL_INTELLIGENCE = dcm("123110", "Artificial Intelligence")
FINDING_SITE = sct("363698007", "Finding Site", "PS3.16 TID 1501")
FINDING_CATEGORY = sct("276214006", "Finding category", "PS3.16 TID 1501")
LATERALITY = sct("272741003", "Laterality", "PS3.16 TID 1501")
LEFT = sct("7771000", "Left", "PS3.16 CID 244")
RIGHT = sct("24028007", "Right", "PS3.16 CID 244")

# --- Processing summary (CID 6047) --------------------------------------------------------------
PROCESSING_SUMMARY = dcm("111017", "CAD Processing and Findings Summary")
ALL_SUCCEEDED_WITHOUT_FINDINGS = dcm("111241", "All algorithms succeeded; without findings")
ALL_SUCCEEDED_WITH_FINDINGS = dcm("111242", "All algorithms succeeded; with findings")
NOT_ALL_SUCCEEDED_WITHOUT_FINDINGS = dcm("111243", "Not all algorithms succeeded; without findings")
NOT_ALL_SUCCEEDED_WITH_FINDINGS = dcm("111244", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED = dcm("111245", "No algorithms succeeded; without findings")

# --- Equipment and references --------------------------------------------------------------------
ACQUISITION_EQUIPMENT = dcm("109101", "Acquisition Equipment")
SOURCE_IMAGE = dcm("121322", "Source image for image processing operation")

# --- What is seen ------------------------------------------------------------------------
LESION = sct("52988006", "Lesion", "PS3.16 CID 7151")
MORPHOLOGICALLY_ABNORMAL = sct("49755003", "Morphologically Abnormal Structure", "PS3.16 CID 7150")
DERMOSCOPIC_PHOTOGRAPHY = sct("446078004", "Dermoscopic photography", "PS3.16 Annex O, 2024c")
PHOTOGRAPHY_OF_PATIENT = sct("197157006", "Photography of patient", "PS3.16 CID 8131")
YES = sct("373066001", "Yes", "PS3.16 CID 230")
NO = sct("373067005", "No", "PS3.16 CID 230")
UNDETERMINED = sct("373068000", "Undetermined", "PS3.16 CID 230")
HIGH_RISK = sct("15508007", "High risk", "PS3.16 CID 3118")
LOW_RISK = sct("75976002", "Low risk", "PS3.16 CID 3118")

# --- What is measured ---------------------------------------------------------------------------
PROBABILITY_OF_CANCER = dcm("111047", "Probability of cancer")
AREA = sct("42798000", "Area", "PS3.16 CID 7469")
MAJOR_AXIS = sct("131187009", "Major Axis", "PS3.16 CID 7470")
SHORT_AXIS = sct("103340004", "Short axis", "PS3.16 CID 7470")
PERIMETER = sct("131191004", "Perimeter", "PS3.16 CID 7469")
PERCENT = ucum("%", "percent")
MILLIMETRE = ucum("mm", "millimeter")
SQUARE_MILLIMETRE = ucum("mm2", "square millimeter")
PIXELS = ucum("{pixels}", "pixels")
NO_UNITS = ucum("1", "no units")
REASONS_UNIT = ucum("{reasons}", "reasons")

# --- Private concepts ---------------------------------------------------------------------------
MOST_LIKELY_DIAGNOSIS = private("DIAGNOSIS", "Most likely diagnosis")
RISK_LEVEL = private("RISK", "Risk level")
SUSPICIOUS = private("SUSPICIOUS", "Suspicious of malignancy")
ASSESSMENT_STATUS = private("STATUS", "Assessment status")
ASSESSED = private("ASSESSED", "Assessed")
NOT_ASSESSED = private("NOT_ASSESSED", "Not assessed")
REASONS_AGAINST = private("REASONS", "Reasons not to assess")
REASON_AGAINST = private("REASON", "Reason not to assess")
UNREADABLE_IMAGE = private("R_UNREADABLE", "Image cannot be read")
ASSESSMENT_DETAILS = private("DETAILS", "Assessment details")

# --- Diagnoses, by the labels of public data sets (HAM10000/ISIC, PAD-UFES-20) -------------------
_NEVUS = sct("400096001", "Melanocytic nevus", "SNOMED CT browser page of the concept")
_MELANOMA = sct("1162635006", "Malignant melanoma", "PS3.16 CID 638 and 639")
_BCC = sct("254701007", "Basal cell carcinoma of skin", "cross-reference of MONDO:0005341")
_SCC = sct("254651007", "Squamous cell carcinoma of skin", "PS3.16 CID 638 and 639")
_ACTINIC = sct("201101007", "Actinic keratosis", "PS3.16 CID 4405")
_SEBORRHEIC = Concept(
    scheme="SCT",
    value="25499005",
    meaning="Seborrheic keratosis",
    origin="a morphology value set; the disorder's code was not checked",
    verified=False,
)
_DERMATOFIBROMA = Concept(
    scheme="SCT",
    value="25889007",
    meaning="Benign fibrous histiocytoma",
    origin="a morphology value set; the disorder's code was not checked",
    verified=False,
)

DIAGNOSES: dict[str, Concept] = {
    "MEL": _MELANOMA,
    "NV": _NEVUS,
    "NEV": _NEVUS,
    "BCC": _BCC,
    "SCC": _SCC,
    "AK": _ACTINIC,
    "ACK": _ACTINIC,
    "SEK": _SEBORRHEIC,
    "DF": _DERMATOFIBROMA,
    # AKIEC, BKL and VASC are unions of diagnoses: no single code says what the class means.
}


def _code_value(prefix: str, label: str) -> str:
    """A code value for a label of any length and any characters.

    Examples
    --------
    >>> _code_value("DX_", "BKL")
    'DX_BKL'
    >>> len(_code_value("DX_", "a label beyond sixteen characters"))
    16
    """
    plain = re.fullmatch(r"[A-Za-z0-9_.\-]+", label) is not None
    if plain and len(prefix) + len(label) <= _CODE_VALUE_LENGTH:
        return prefix + label
    digest = hashlib.sha256(label.encode("utf-8")).hexdigest()
    return prefix + digest[: _CODE_VALUE_LENGTH - len(prefix)]


def shorten(text: str, length: int) -> str:
    """Text without control characters and backslashes, at most ``length`` characters.

    A backslash separates values in DICOM (PS3.5 6.1.3).
    """
    clean = " ".join(re.sub(r"[\x00-\x1f\x7f\\]+", " ", text).split())
    return clean if len(clean) <= length else clean[: length - 3].rstrip() + "..."


def diagnosis_concept(label: str, full_name: str) -> Concept:
    """The diagnosis that a label stands for: SNOMED CT where verified, else the private scheme."""
    known = DIAGNOSES.get(label.upper())
    if known is not None and known.verified:
        return known
    meaning = shorten(full_name, _CODE_MEANING_LENGTH) or shorten(label, _CODE_MEANING_LENGTH)
    return private(_code_value("DX_", label), meaning or "Unnamed label")


def probability_concept(label: str, full_name: str) -> Concept:
    """The name of a label's probability, short enough to be read in a viewer."""
    name = shorten(full_name, _CODE_MEANING_LENGTH)
    prefix = "Prob. "
    if not name or len(prefix) + len(name) > VISIBLE_NAME_LENGTH:
        name = label
    return private(_code_value("P_", label), shorten(prefix + name, _CODE_MEANING_LENGTH))


def concepts() -> dict[str, Concept]:
    """Every concept of this module by name, for the conformance statement and the tests."""
    named = {name: value for name, value in globals().items() if isinstance(value, Concept)}
    return named | {f"DIAGNOSES[{label}]": concept for label, concept in DIAGNOSES.items()}


def coding_scheme_item() -> Dataset:
    """Item of Coding Scheme Identification Sequence for the private scheme (PS3.3 C.12.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = PRIVATE_SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = "Lentigo"
    return item
