"""Content items of an SR document tree, one function for each value type (PS3.3 C.17.3)."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from reports.coding import Concept


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
    children: list[Dataset] | None = None,
) -> Dataset:
    item = Dataset()
    if relationship is not None:
        item.RelationshipType = relationship.value
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [name.as_item()]
    if children:
        item.ContentSequence = children
    return item


def container(
    name: Concept,
    children: list[Dataset],
    *,
    relationship: Relationship | None = Relationship.CONTAINS,
    template: str | None = None,
) -> Dataset:
    """CONTAINER; the root of a document has no relationship."""
    item = _item("CONTAINER", name, relationship, children)
    item.ContinuityOfContent = "SEPARATE"
    if template is not None:
        identification = Dataset()
        identification.MappingResource = "DCMR"
        identification.TemplateIdentifier = template
        item.ContentTemplateSequence = [identification]
    return item


def code(
    name: Concept,
    value: Concept | Dataset,
    relationship: Relationship = Relationship.CONTAINS,
    children: list[Dataset] | None = None,
) -> Dataset:
    """CODE; the value is a concept of ours or a code sequence item of the source."""
    item = _item("CODE", name, relationship, children)
    item.ConceptCodeSequence = [value.as_item() if isinstance(value, Concept) else value]
    return item


def text(name: Concept, value: str, relationship: Relationship = Relationship.CONTAINS) -> Dataset:
    """TEXT on one line; empty text is written as ``unknown``, since a value is required."""
    item = _item("TEXT", name, relationship)
    item.TextValue = " ".join(value.split()) or "unknown"
    return item


def uid_reference(name: Concept, uid: str, relationship: Relationship) -> Dataset:
    """UIDREF."""
    item = _item("UIDREF", name, relationship)
    item.UID = uid
    return item


def number(
    name: Concept, value: float, unit: Concept, children: list[Dataset] | None = None
) -> Dataset:
    """NUM, rounded to two decimals: more would claim a precision that no model has."""
    item = _item("NUM", name, Relationship.CONTAINS, children)
    measured = Dataset()
    measured.NumericValue = format_number_as_ds(round(float(value), 2))
    measured.MeasurementUnitsCodeSequence = [unit.as_item()]
    item.MeasuredValueSequence = [measured]
    return item


def image(
    sop_class_uid: str,
    sop_instance_uid: str,
    frame_number: int | None,
    relationship: Relationship,
    children: list[Dataset] | None = None,
) -> Dataset:
    """IMAGE; the frame number, 1-based, is for multi-frame images only."""
    item = _item("IMAGE", None, relationship, children)
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    if frame_number is not None:
        reference.ReferencedFrameNumber = frame_number
    item.ReferencedSOPSequence = [reference]
    return item


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
    item = _item("SCOORD", name, relationship, [source])
    item.GraphicType = "POLYLINE"
    item.GraphicData = [float(value) for value in points.ravel()]
    return item
