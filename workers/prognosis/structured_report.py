"""Covariates in structured reports that came with a study. Pure.

Own reports never get here: they are filed, not analysed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset

from models.prognosis.patient import Given, Quantity
from workers.prognosis.codes import answer_of, find_name
from workers.prognosis.statements import STAGE, Reading, Statement, stage_text

_MAX_DEPTH = 32
_MAX_ITEMS = 20_000


def read_report(header: Dataset, source: str) -> Reading:
    """Read the NUM, CODE and TEXT items whose concept is a covariate.

    An SR with an item that cannot be read gives what its other items say.
    """
    statements = []
    for item in _items(header, 0, [0]):
        found = find_name(*_concept(item, "ConceptNameCodeSequence"))
        if found is None:
            continue
        name, rank = found
        value = _value(name, item)
        if value is not None:
            statements.append(Statement(name=name, value=value, rank=rank))
    return Reading(source=source, statements=tuple(statements))


def states_tumour(reading: Reading) -> bool:
    """Whether a reading speaks of a melanoma: thickness or ulceration, not only age or stage."""
    return any(each.name in ("thickness", "ulceration") for each in reading.statements)


def _items(ds: Dataset, depth: int, seen: list[int]) -> Iterator[Dataset]:
    for item in _sequence(ds, "ContentSequence"):
        seen[0] += 1
        if seen[0] > _MAX_ITEMS or depth > _MAX_DEPTH:
            return
        yield item
        yield from _items(item, depth + 1, seen)


def _sequence(ds: Dataset, keyword: str) -> list[Dataset]:
    value = _attribute(ds, keyword)
    return [item for item in value or [] if isinstance(item, Dataset)]


def _attribute(ds: Dataset, keyword: str) -> Any:
    """An attribute, or None where it is absent or pydicom cannot convert it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote the value
            return ds.get(keyword)
    except (ValueError, TypeError, LookupError, NotImplementedError, OverflowError):
        return None


def _concept(item: Dataset, keyword: str) -> tuple[list[tuple[str, str]], str]:
    codings, text = [], ""
    for code in _sequence(item, keyword)[:1]:
        scheme = str(_attribute(code, "CodingSchemeDesignator") or "")
        value = _attribute(code, "CodeValue") or _attribute(code, "LongCodeValue") or ""
        codings.append((scheme, str(value)))
        text = str(_attribute(code, "CodeMeaning") or "")
    return codings, text


def _value(name: str, item: Dataset) -> Given:
    kind = _attribute(item, "ValueType")
    if kind == "NUM":
        return _number(item)
    if kind == "CODE":
        codings, text = _concept(item, "ConceptCodeSequence")
        answer = answer_of(name, codings, text)
        return stage_text(answer) if name == STAGE else answer
    if kind == "TEXT":
        text = str(_attribute(item, "TextValue") or "")
        return stage_text(text) if name == STAGE else answer_of(name, [], text)
    return None


def _number(item: Dataset) -> Given:
    for measured in _sequence(item, "MeasuredValueSequence"):
        value = _attribute(measured, "NumericValue")
        (_, unit), *_ = _concept(measured, "MeasurementUnitsCodeSequence")[0] or [("", "")]
        try:
            return Quantity(value=float(value), unit=unit)
        except (TypeError, ValueError):
            return str(value)  # refused later as no number
    return None
