"""Content items of an SR document tree, one function for each value type (PS3.3 C.17.3).

The items are encoded as they are made (``reports.elements``), so that a report on hundreds of
lesions takes a fraction of a second; they read like any other Dataset.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from reports.coding import Concept
from reports.elements import Element, floats, item, sequence
from reports.elements import text as text_element

_REFERENCED_SOP_CLASS_UID = 0x0008_1150
_REFERENCED_SOP_INSTANCE_UID = 0x0008_1155
_REFERENCED_FRAME_NUMBER = 0x0008_1160
_REFERENCED_SOP_SEQUENCE = 0x0008_1199
_CODE_VALUE = 0x0008_0100
_CODING_SCHEME_DESIGNATOR = 0x0008_0102
_CODE_MEANING = 0x0008_0104
_MAPPING_RESOURCE = 0x0008_0105
_MEASUREMENT_UNITS_CODE_SEQUENCE = 0x0040_08EA
_RELATIONSHIP_TYPE = 0x0040_A010
_VALUE_TYPE = 0x0040_A040
_CONCEPT_NAME_CODE_SEQUENCE = 0x0040_A043
_CONTINUITY_OF_CONTENT = 0x0040_A050
_UID = 0x0040_A124
_TEXT_VALUE = 0x0040_A160
_CONCEPT_CODE_SEQUENCE = 0x0040_A168
_MEASURED_VALUE_SEQUENCE = 0x0040_A300
_NUMERIC_VALUE = 0x0040_A30A
_CONTENT_TEMPLATE_SEQUENCE = 0x0040_A504
_CONTENT_SEQUENCE = 0x0040_A730
_TEMPLATE_IDENTIFIER = 0x0040_DB00
_GRAPHIC_DATA = 0x0070_0022
_GRAPHIC_TYPE = 0x0070_0023


class Relationship(StrEnum):
    """Relationship Type of an item to its parent (PS3.3 C.17.3.2.4)."""

    CONTAINS = "CONTAINS"
    CONCEPT_MOD = "HAS CONCEPT MOD"
    OBS_CONTEXT = "HAS OBS CONTEXT"
    ACQ_CONTEXT = "HAS ACQ CONTEXT"
    INFERRED_FROM = "INFERRED FROM"
    SELECTED_FROM = "SELECTED FROM"


def _item(
    value_type: str,
    name: Concept | None,
    relationship: Relationship | None,
    value: Iterable[Element],
    children: list[Dataset] | None = None,
) -> Dataset:
    elements = [*_kind(value_type, name, relationship), *value]
    if children:
        elements.append(sequence(_CONTENT_SEQUENCE, children))
    return item(*elements)


@functools.lru_cache(maxsize=4096)
def _kind(
    value_type: str, name: Concept | None, relationship: Relationship | None
) -> tuple[Element, ...]:
    """What items of one kind and name have in common."""
    elements = [text_element(_VALUE_TYPE, "CS", value_type)]
    if relationship is not None:
        elements.append(text_element(_RELATIONSHIP_TYPE, "CS", relationship.value))
    if name is not None:
        elements.append(_code_sequence(_CONCEPT_NAME_CODE_SEQUENCE, name))
    return tuple(elements)


@functools.lru_cache(maxsize=4096)
def _code_sequence(tag: int, concept: Concept) -> Element:
    return sequence(
        tag,
        [
            item(
                text_element(_CODE_VALUE, "SH", concept.value),
                text_element(_CODING_SCHEME_DESIGNATOR, "SH", concept.scheme),
                text_element(_CODE_MEANING, "LO", concept.meaning),
            )
        ],
    )


def container(
    name: Concept,
    children: list[Dataset],
    *,
    relationship: Relationship | None = Relationship.CONTAINS,
    template: str | None = None,
) -> Dataset:
    """CONTAINER; the root of a document has no relationship."""
    value = [text_element(_CONTINUITY_OF_CONTENT, "CS", "SEPARATE")]
    if template is not None:
        identification = item(
            text_element(_MAPPING_RESOURCE, "CS", "DCMR"),
            text_element(_TEMPLATE_IDENTIFIER, "CS", template),
        )
        value.append(sequence(_CONTENT_TEMPLATE_SEQUENCE, [identification]))
    return _item("CONTAINER", name, relationship, value, children)


def code(
    name: Concept,
    value: Concept | Dataset,
    relationship: Relationship = Relationship.CONTAINS,
    children: list[Dataset] | None = None,
) -> Dataset:
    """CODE; the value is a concept of ours or a code sequence item of the source."""
    if isinstance(value, Concept):
        coded = _code_sequence(_CONCEPT_CODE_SEQUENCE, value)
    else:
        coded = sequence(_CONCEPT_CODE_SEQUENCE, [value])
    return _item("CODE", name, relationship, [coded], children)


def text(name: Concept, value: str, relationship: Relationship = Relationship.CONTAINS) -> Dataset:
    """TEXT on one line; empty text is written as ``unknown``, since a value is required."""
    line = " ".join(value.split()) or "unknown"
    return _item("TEXT", name, relationship, [text_element(_TEXT_VALUE, "UT", line)])


def uid_reference(name: Concept, uid: str, relationship: Relationship) -> Dataset:
    """UIDREF."""
    return _item("UIDREF", name, relationship, [text_element(_UID, "UI", uid)])


def number(
    name: Concept, value: float, unit: Concept, children: list[Dataset] | None = None
) -> Dataset:
    """NUM; a fraction is rounded to two decimals: more would claim a precision no model has."""
    written = str(value) if isinstance(value, int) else format_number_as_ds(round(float(value), 2))
    measured = item(
        _code_sequence(_MEASUREMENT_UNITS_CODE_SEQUENCE, unit),
        text_element(_NUMERIC_VALUE, "DS", written),
    )
    value_sequence = sequence(_MEASURED_VALUE_SEQUENCE, [measured])
    return _item("NUM", name, Relationship.CONTAINS, [value_sequence], children)


def image(
    sop_class_uid: str,
    sop_instance_uid: str,
    frame_number: int | None,
    relationship: Relationship,
    children: list[Dataset] | None = None,
) -> Dataset:
    """IMAGE; the frame number, 1-based, is for multi-frame images only."""
    value = sequence(
        _REFERENCED_SOP_SEQUENCE,
        [sop_reference(sop_class_uid, sop_instance_uid, frame_number)],
    )
    return _item("IMAGE", None, relationship, [value], children)


def sop_reference(
    sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None
) -> Dataset:
    """Item of a Referenced SOP Sequence (PS3.3 Table 10-11)."""
    elements = [
        text_element(_REFERENCED_SOP_CLASS_UID, "UI", sop_class_uid),
        text_element(_REFERENCED_SOP_INSTANCE_UID, "UI", sop_instance_uid),
    ]
    if frame_number is not None:
        elements.append(text_element(_REFERENCED_FRAME_NUMBER, "IS", str(frame_number)))
    return item(*elements)


def polyline(
    name: Concept, points: NDArray[np.float32], relationship: Relationship, source: Dataset
) -> Dataset:
    """SCOORD of type POLYLINE, closed when the last point repeats the first.

    Parameters
    ----------
    points
        (N, 2), (column, row); the top left corner of the image is (0, 0) (PS3.3 C.18.6.1.1).
    source
        The IMAGE item that the points are selected from.
    """
    value = [floats(_GRAPHIC_DATA, points), text_element(_GRAPHIC_TYPE, "CS", "POLYLINE")]
    return _item("SCOORD", name, relationship, value, [source])
