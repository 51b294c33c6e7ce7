"""Measurements in a structured report of the same study (TID 1500, one TID 1501 group a lesion).

A lesion's group names it by Tracking Identifier and Tracking Unique Identifier, and its tile by an
IMAGE item, anywhere in the group; each measurement is a NUM whose concept is one of
``_STANDARD_NAMES`` or whose Code Meaning is the column's name. The body region is the group's item
named ``location_simple``, else its Finding Site. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydicom import Dataset

from models.tbp.measurements import CONFIDENCES, LOCATIONS
from models.tbp.remarks import Remark
from workers.tbp.content import (
    CODE_MEANING,
    CODE_VALUE,
    CODING_SCHEME,
    CONCEPT_CODE,
    CONCEPT_NAME,
    CONTENT,
    MEASURED_VALUE,
    NUMERIC_VALUE,
    REFERENCED_SOP_INSTANCE_UID,
    REFERENCED_SOP_SEQUENCE,
    TEXT_VALUE,
    UID_VALUE,
    UNITS,
    VALUE_TYPE,
    Item,
    content_of,
    items,
    text,
)
from workers.tbp.rows import (
    MAX_LESIONS,
    MIN_MEASUREMENTS,
    LesionRow,
    Reading,
    UnknownUnit,
    canonical,
    in_expected_unit,
)

SR_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D
)
"""SOP Classes that can hold measurements (PS3.4 Table B.5-1)."""

_IMAGING_MEASUREMENTS = ("DCM", "126010")
_GROUP = ("DCM", "125007")
_TRACKING_ID, _TRACKING_UID = ("DCM", "112039"), ("DCM", "112040")
_FINDING_SITES = (("SCT", "363698007"), ("SRT", "G-C0E3"))
_LEFT, _RIGHT = ("7771000", "G-A101"), ("24028007", "G-A100")
_STANDARD_NAMES = {  # PS3.16 CID 7469 and 7470
    ("SCT", "42798000"): "areaMM2",
    ("SRT", "G-A166"): "areaMM2",
    ("SCT", "131191004"): "perimeterMM",
    ("SCT", "131187009"): "majorAxisMM",
    ("SRT", "G-A193"): "majorAxisMM",
    ("SCT", "103340004"): "minorAxisMM",
    ("SRT", "G-A194"): "minorAxisMM",
}
_SITES = {  # SNOMED CT body region -> the device's; those of PS3.16 CID 4029 and 4031
    "181491009": "Torso Front",
    "66643007": "Torso Back",
    "49943": "Torso Back",
    "53120007": "Arm",
    "61685007": "Leg",
    "774007": "Head & Neck",
    "70762009": "Head & Neck",
    "43081002": "Head & Neck",
}
_MAX_ITEMS = 128
"""Items of one group that are read: 32 measurements and what identifies the lesion are fewer."""


def read_structured_report(report: Dataset) -> Reading:
    """Read the lesions of one report.

    Parameters
    ----------
    report
        The whole object. One of another template, or with hardly a measurement that the model
        knows, gives nothing and says nothing.

    Returns
    -------
    Reading
        Rows in the order of the groups. A number in an unknown unit is left out, and said.

    Raises
    ------
    DamagedReport
        The document's tree cannot be read to its end.
    """
    rows: list[LesionRow] = []
    refused: Counter[str] = Counter()
    unitless: dict[str, list[float]] = {}
    for group in _groups(report):
        row = _row(group, refused, unitless)
        if row is not None:
            rows.append(row)
        if len(rows) > MAX_LESIONS:
            said = f"a structured report holds more than {MAX_LESIONS} lesions: not used"
            return Reading(remarks=(Remark(code="TOO_MANY", text=said),))
    names = {name for row in rows for name in row.values}
    if len(names - set(_STANDARD_NAMES.values())) < MIN_MEASUREMENTS:
        return Reading()  # lengths and areas alone are those of another kind of report
    rows = [_with_percentages(row, unitless) for row in rows]
    remarks = [
        Remark(code="UNKNOWN_UNIT", text=f"{times} values not used: {what}")
        for what, times in sorted(refused.items())
    ]
    return Reading(rows=tuple(rows), remarks=tuple(remarks))


def _code(item: Item, tag: int) -> tuple[str, str, str]:
    """Scheme, value and meaning of an item's first code; empty where there is none."""
    codes = items(item, tag)
    if not codes:
        return ("", "", "")
    first = codes[0]
    return text(first, CODING_SCHEME), text(first, CODE_VALUE), text(first, CODE_MEANING)


def _groups(report: Dataset) -> Iterator[Item]:
    for child in content_of(report):
        if _code(child, CONCEPT_NAME)[:2] == _IMAGING_MEASUREMENTS:
            for group in items(child, CONTENT):
                if _code(group, CONCEPT_NAME)[:2] == _GROUP:
                    yield group


def _row(group: Item, refused: Counter[str], unitless: dict[str, list[float]]) -> LesionRow | None:
    """The lesion of one group; None when it has no measurement that the model knows."""
    values: dict[str, object] = {}
    twice: set[str] = set()
    found = {"tracking_id": "", "tracking_uid": "", "tile": "", "site": ""}
    for item in items(group, CONTENT)[:_MAX_ITEMS]:
        kind = text(item, VALUE_TYPE)
        scheme, value, meaning = _code(item, CONCEPT_NAME)
        if kind == "IMAGE":
            found["tile"] = found["tile"] or _referenced(item)
        elif (scheme, value) == _TRACKING_ID:
            found["tracking_id"] = text(item, TEXT_VALUE)
        elif (scheme, value) == _TRACKING_UID:
            found["tracking_uid"] = text(item, UID_VALUE)
        elif (scheme, value) in _FINDING_SITES and kind == "CODE":
            found["site"] = _site(item)
        else:
            name = _STANDARD_NAMES.get((scheme, value)) or canonical(meaning)
            if name is None:
                continue
            read = _value(item, kind, name, refused, unitless)
            if name in values and values[name] != read:
                twice.add(name)
            values[name] = read
            found["tile"] = found["tile"] or _tile_below(item)
    if not values:
        return None
    values.update(dict.fromkeys(twice))  # two answers are none
    if found["site"]:
        values.setdefault("location_simple", found["site"])
    return LesionRow(
        values=values,
        sop_instance_uid=found["tile"],
        tracking_uid=found["tracking_uid"],
        lesion_id=found["tracking_id"],
    )


def _value(
    item: Item,
    kind: str,
    name: str,
    refused: Counter[str],
    unitless: dict[str, list[float]],
) -> object:
    """The value of a NUM in the expected unit, else the text of a TEXT or CODE."""
    if kind == "CODE":
        return _code(item, CONCEPT_CODE)[2] or None
    if kind != "NUM":
        return text(item, TEXT_VALUE) or None
    measured = items(item, MEASURED_VALUE)
    if not measured:
        return None
    try:
        number = float(text(measured[0], NUMERIC_VALUE))
    except ValueError:
        return "not a number"  # it is there, and no number: the table says so
    unit = _code(measured[0], UNITS)[1]
    try:
        converted = in_expected_unit(name, number, unit)
    except UnknownUnit as exc:
        refused[str(exc)] += 1
        return None
    if name in CONFIDENCES and unit != "%":
        unitless.setdefault(name, []).append(converted)
    return converted


def _with_percentages(row: LesionRow, unitless: dict[str, list[float]]) -> LesionRow:
    """Confidences without a unit are fractions (UCUM 1) where none of the report exceeds 1."""
    scaled = dict(row.values)
    for name, numbers in unitless.items():
        value = scaled.get(name)
        if max(numbers) <= 1 and isinstance(value, float):
            scaled[name] = 100 * value
    return LesionRow(
        values=scaled,
        sop_instance_uid=row.sop_instance_uid,
        tracking_uid=row.tracking_uid,
        lesion_id=row.lesion_id,
    )


def _site(item: Item) -> str:
    """The device's name of a body region; the code's meaning where it has none."""
    _, value, meaning = _code(item, CONCEPT_CODE)
    site = _SITES.get(value, meaning)
    if site not in ("Arm", "Leg"):
        return site
    for modifier in items(item, CONTENT):
        side = _code(modifier, CONCEPT_CODE)[1]
        if side in _LEFT or side in _RIGHT:
            return f"{'Left' if side in _LEFT else 'Right'} {site}"
    return LOCATIONS[-1]


def _referenced(item: Item) -> str:
    references = items(item, REFERENCED_SOP_SEQUENCE)
    return text(references[0], REFERENCED_SOP_INSTANCE_UID) if references else ""


def _tile_below(item: Item) -> str:
    """The image that a measurement was made on, down to the region that it lies in."""
    for child in items(item, CONTENT):
        kind = text(child, VALUE_TYPE)
        uid = _referenced(child) if kind == "IMAGE" else ""
        if kind in ("SCOORD", "SCOORD3D"):
            uid = _tile_below(child)
        if uid:
            return uid
    return ""
