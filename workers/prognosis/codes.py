"""Codes under which covariates arrive in FHIR resources and structured reports.

A code is read only if ``verified`` is true. Public lists hold wrong ones: LOINC 97816-3 goes round
as "Ulceration present in melanoma of skin", and is the ASA class of anaesthetists.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.prognosis.statements import STAGE

FHIR_SYSTEMS = {
    "http://loinc.org": "LN",
    "http://snomed.info/sct": "SCT",
    "http://dicom.nema.org/resources/ontology/DCM": "DCM",
}
"""FHIR code system -> Coding Scheme Designator (PS3.16 Table 8-1)."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What one code means to the model."""

    scheme: str
    value: str
    meaning: str
    name: str
    """The covariate, or ``stage``."""
    origin: str
    rank: int = 0
    """As that of a statement."""
    verified: bool = True


_MCODE = "mCODE STU4, cancer staging value sets"
_MII = "profiles of module oncology, Medizininformatik-Initiative 2025"

CODES = (
    Code(
        scheme="SCT",
        value="106243009",
        meaning="Breslow depth staging for melanoma of skin",
        name="thickness",
        origin=f"mCODE STU4; with a quantity in mm in the {_MII}",
    ),
    Code(
        scheme="LN",
        value="44661-7",
        meaning="Depth of invasion of melanoma",
        name="thickness",
        origin="only named in the text of LOINC 86668-1",
        verified=False,
    ),
    Code(
        scheme="SCT",
        value="6270001000004106",
        meaning="Presence of ulcer in primary malignant melanoma of skin",
        name="ulceration",
        origin=_MII,
    ),
    Code(
        scheme="LN",
        value="44660-9",
        meaning="Tumor involved by ulceration, Skin melanoma",
        name="ulceration",
        origin="LOINC page of the code",
    ),
    Code(
        scheme="LN",
        value="97816-3",
        meaning="American Society of Anesthesiologists morbidity state",
        name="ulceration",
        origin="wrong in public lists, see above",
        verified=False,
    ),
    Code(scheme="LN", value="21902-2", meaning="Stage group.pathology", name=STAGE, origin=_MCODE),
    Code(
        scheme="LN",
        value="21908-9",
        meaning="Stage group.clinical",
        name=STAGE,
        origin=_MCODE,
        rank=1,
    ),
    Code(
        scheme="LN", value="21914-7", meaning="Stage group.other", name=STAGE, origin=_MCODE, rank=2
    ),
    Code(
        scheme="SCT",
        value="399588009",
        meaning="Pathologic TNM stage grouping",
        name=STAGE,
        origin=_MCODE,
    ),
    Code(
        scheme="SCT",
        value="399537006",
        meaning="Clinical TNM stage grouping",
        name=STAGE,
        origin=_MCODE,
        rank=1,
    ),
    Code(
        scheme="SCT",
        value="399390009",
        meaning="TNM stage grouping",
        name=STAGE,
        origin=_MCODE,
        rank=2,
    ),
    Code(scheme="LN", value="30525-0", meaning="Age", name="age", origin="LOINC page of the code"),
    Code(scheme="DCM", value="121033", meaning="Subject Age", name="age", origin="PS3.16 TID 1007"),
    Code(scheme="DCM", value="121032", meaning="Subject Sex", name="sex", origin="PS3.16 TID 1007"),
)

# Names in words, for sources whose code is their own (99...) or a text alone.
_WORDS = {
    "breslow thickness": ("thickness", 0),
    "breslow depth": ("thickness", 0),
    "breslow tumor thickness": ("thickness", 0),
    "breslow tumour thickness": ("thickness", 0),
    "ulceration": ("ulceration", 0),
    "tumor ulceration": ("ulceration", 0),
    "tumour ulceration": ("ulceration", 0),
    "pathologic stage": (STAGE, 0),
    "pathological stage": (STAGE, 0),
    "ajcc pathologic stage": (STAGE, 0),
    "clinical stage": (STAGE, 1),
    "ajcc stage": (STAGE, 2),
    "stage group": (STAGE, 2),
    "age at operation": ("age", 0),
    "age at diagnosis": ("age", 1),
}

_YES = {("SCT", "373066001"), ("SCT", "52101004")}  # Yes (CID 230), Present (CID 240)
_NO = {("SCT", "373067005"), ("SCT", "2667000")}  # No (CID 230), Absent (CID 240)
_SEX = {"m": "male", "f": "female"}
_PRESENCE = {
    "j": "yes",  # oBDS, module oncology
    "n": "no",
    "present": "yes",
    "absent": "no",
    "not identified": "no",
    "ja": "yes",
    "nein": "no",
}


def find_name(codings: list[tuple[str, str]], text: str) -> tuple[str, int] | None:
    """Name of the covariate and rank that codes or words stand for; None for any other.

    Parameters
    ----------
    codings
        (scheme, value) of each.
    text
        Words of the concept.
    """
    for scheme, value in codings:
        for known in CODES:
            if known.verified and (known.scheme, known.value) == (scheme, value):
                return known.name, known.rank
    return _WORDS.get(" ".join(text.lower().split()))


def answer_of(name: str, codings: list[tuple[str, str]], text: str) -> str:
    """A coded answer in the model's words, or the text where nothing better is known."""
    if name == "ulceration":
        if _YES.intersection(codings):
            return "yes"
        if _NO.intersection(codings):
            return "no"
        known = [_PRESENCE.get(each.strip().lower()) for each in (*(c[1] for c in codings), text)]
        return next((each for each in known if each), text)
    if name == "sex":
        known = [_SEX.get(each.strip().lower()) for each in (*(c[1] for c in codings), text)]
        return next((each for each in known if each), text)
    return text
