"""Copying attributes out of a source instance: decoded, legal, and without a word in any log.

A source may come from any device: text in any character set, illegal values, attributes missing.
What can be copied is copied unchanged, as Unicode. Identifiers are kept even where they break a
length limit, since a changed Patient ID would file the result under nobody; any other illegal
value is left out, so that the source's fault does not become the result's.
"""

from __future__ import annotations

import warnings
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.valuerep import format_number_as_ds, validate_value

IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "SOPInstanceUID",
)
"""Copied as they are, legal or not: another system finds things by them."""

_ENUMERATED = {  # Enumerated Values, PS3.3 C.7
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "Laterality": ("R", "L"),
    "ImageLaterality": ("R", "L", "U", "B"),
    "LossyImageCompression": ("00", "01"),
}
_DS_LENGTH = 16  # PS3.5 6.2


def copied(ds: Dataset, keywords: tuple[str, ...]) -> Dataset:
    """The named attributes of ``ds`` that are present, legal and not empty.

    Text is decoded by the character sets of ``ds`` and of its sequence items, so that the copy
    can be written in any character set.
    """
    with warnings.catch_warnings():
        # pydicom's warnings about illegal values quote the values: patients' attributes.
        warnings.simplefilter("ignore")
        return _copied(ds, keywords)


def _copied(ds: Dataset, keywords: tuple[str, ...]) -> Dataset:
    copy = Dataset()
    for keyword in keywords:
        element = _element(ds, keyword)
        if element is not None:
            copy.add(element)
    return copy


def _copied_item(ds: Dataset) -> Dataset:
    keywords = (keyword_for_tag(tag) for tag in sorted(ds.keys()))
    return _copied(ds, tuple(k for k in keywords if k and k != "SpecificCharacterSet"))


def _element(ds: Dataset, keyword: str) -> DataElement | None:
    """The decoded element, or None if it is absent, empty, unreadable or illegal."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag)
    try:
        value = ds[tag].value if tag in ds else None
    except (ValueError, TypeError, LookupError, NotImplementedError, OverflowError):
        return None  # pydicom cannot convert the bytes: as good as absent
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    if vr == "SQ":
        return _sequence(tag, value)
    plain = _plain(vr, value)
    if keyword not in IDENTIFIERS and not _is_legal(keyword, vr, plain):
        return None
    return DataElement(tag, vr, plain, validation_mode=config.IGNORE)


def _sequence(tag: int, value: Any) -> DataElement | None:
    if not all(isinstance(item, Dataset) for item in value):
        return None
    items = [copy for copy in map(_copied_item, value) if len(copy)]
    return DataElement(tag, "SQ", items) if items else None


def _plain(vr: str, value: Any) -> Any:
    """The value as plain text, numbers or lists of them."""
    if isinstance(value, (MultiValue, list, tuple)):
        return [_plain(vr, part) for part in value]
    if vr == "DS":
        text = str(value)
        return text if len(text) <= _DS_LENGTH else _shortened_decimal(text)
    return value if type(value) in (int, float) else str(value)


def _shortened_decimal(text: str) -> str:
    try:
        return format_number_as_ds(float(text))
    except ValueError:
        return text  # not a number: left to the check of legality


def _is_legal(keyword: str, vr: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    allowed = _ENUMERATED.get(keyword)
    if allowed is not None and any(part not in allowed for part in values):
        return False
    try:
        for part in values:
            validate_value(vr, part, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True
