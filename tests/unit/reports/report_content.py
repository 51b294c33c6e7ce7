"""Reading a report's content items, as the tests of all analyses look at them."""

from __future__ import annotations

from pydicom import Dataset


def children(item: Dataset, meaning: str) -> list[Dataset]:
    """The content items of a name."""
    return [
        child
        for child in item.ContentSequence
        if "ConceptNameCodeSequence" in child
        and child.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def measurement_groups(ds: Dataset) -> list[Dataset]:
    (measurements,) = children(ds, "Imaging Measurements")
    return children(measurements, "Measurement Group")


def coded(item: Dataset, meaning: str) -> str:
    (child,) = children(item, meaning)
    return str(child.ConceptCodeSequence[0].CodeMeaning)


def numbers(item: Dataset) -> list[tuple[str, float, str]]:
    """(name, value, unit) of each number."""
    return [
        (
            child.ConceptNameCodeSequence[0].CodeMeaning,
            float(child.MeasuredValueSequence[0].NumericValue),
            child.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for child in item.ContentSequence
        if child.ValueType == "NUM"
    ]


def texts(item: Dataset, meaning: str) -> list[str]:
    return [str(child.TextValue) for child in children(item, meaning)]
