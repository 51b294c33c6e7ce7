"""The content of a structured report (PS3.3 C.17.3) as a tree that people can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from gateway.dashboard.preview import PreviewError

REPORT_ROLE = "sr"
MAX_NODES = 2000
_MAX_DEPTH = 20


@dataclass(frozen=True, kw_only=True)
class Node:
    """One content item."""

    name: str
    value: str
    children: tuple[Node, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "value": self.value,
            "children": [each.as_json() for each in self.children],
        }


class _Budget:
    """How many nodes may still be made: a hostile file must not fill the memory."""

    def __init__(self) -> None:
        self.left = MAX_NODES


def report_tree(folder: Path, relative_path: str) -> tuple[Node, ...]:
    """Return the content items of a report below its root.

    Raises
    ------
    PreviewError
        The file is gone or is no report.
    """
    path = (folder / relative_path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PreviewError("The file is outside the results folder.")
    try:
        ds = dcmread(path, stop_before_pixels=True)
        return _nodes(ds, _Budget(), 0)
    except FileNotFoundError as exc:
        raise PreviewError("The file is no longer in the results folder.") from exc
    except (OSError, InvalidDicomError, ValueError, AttributeError, KeyError, TypeError) as exc:
        # pydicom says so in many ways; the texts may quote values.
        raise PreviewError("The file cannot be read as a report.") from exc


def _nodes(ds: Dataset, budget: _Budget, depth: int) -> tuple[Node, ...]:
    found: list[Node] = []
    for item in ds.get("ContentSequence") or ():
        if budget.left <= 0 or depth >= _MAX_DEPTH:
            break
        budget.left -= 1
        found.append(
            Node(
                name=_meaning(item.get("ConceptNameCodeSequence")) or _kind(item),
                value=_value(item),
                children=_nodes(item, budget, depth + 1),
            )
        )
    return tuple(found)


def _kind(item: Dataset) -> str:
    return str(item.get("ValueType", "item")).capitalize()


def _meaning(codes: Any) -> str:
    return str(codes[0].get("CodeMeaning", "")) if codes else ""


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        measured = item.get("MeasuredValueSequence")
        if not measured:
            return ""
        unit = _meaning(measured[0].get("MeasurementUnitsCodeSequence"))
        return f"{measured[0].get('NumericValue', '')} {'' if unit == 'no units' else unit}".strip()
    if kind == "PNAME":
        return "(a person's name)"
    if kind in {"IMAGE", "COMPOSITE", "WAVEFORM"}:
        referenced = item.get("ReferencedSOPSequence")
        return UID(str(referenced[0].ReferencedSOPClassUID)).name if referenced else ""
    if kind == "SCOORD":
        return str(item.get("GraphicType", "")).lower()
    names = {"TEXT": "TextValue", "UIDREF": "UID", "DATE": "Date", "TIME": "Time"}
    return str(item.get(names.get(kind, "DateTime"), "") or "")
