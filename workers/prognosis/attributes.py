"""Covariates in DICOM attributes of the patient and the study. Pure."""

from __future__ import annotations

import re
import warnings

from pydicom import Dataset

from models.prognosis.patient import Quantity
from workers.prognosis.fhir import years_between
from workers.prognosis.statements import Reading, Statement

SOURCE = "DICOM header"
_AGE_UNITS = {"Y": ("a", 1.0), "M": ("mo", 1.0), "W": ("d", 7.0), "D": ("d", 1.0)}
_SEX = {"M": "male", "F": "female", "O": "other"}
AGE_REMARK = "the age at the date of the study is taken for the age at the operation"


def text_of(header: Dataset, keyword: str) -> str:
    """An attribute as text; empty where it is absent or cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote the value
            return str(header.get(keyword) or "").strip()
    except (ValueError, TypeError, LookupError, NotImplementedError, OverflowError):
        return ""


def read_attributes(header: Dataset) -> Reading:
    """Read Patient's Sex and Patient's Age, or the age from birth date and study date."""
    statements = []
    sex = text_of(header, "PatientSex").upper()
    if sex in _SEX:
        statements.append(Statement(name="sex", value=_SEX[sex]))
    age = _age(header)
    if age is not None:
        statements.append(Statement(name="age", value=age))
    return Reading(source=SOURCE, statements=tuple(statements))


def _age(header: Dataset) -> Quantity | None:
    stated = re.fullmatch(r"(\d{3})([DWMY])", text_of(header, "PatientAge"))  # PS3.5 6.2, VR AS
    if stated is not None:
        unit, factor = _AGE_UNITS[stated[2]]
        return Quantity(value=int(stated[1]) * factor, unit=unit)
    years = years_between(text_of(header, "PatientBirthDate"), text_of(header, "StudyDate"))
    return None if years is None else Quantity(value=years, unit="a")
