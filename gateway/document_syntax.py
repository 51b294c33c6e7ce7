"""Syntax of the documents that a site sends: JSON and CSV, strictly. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import DocumentRefused

_MAX_CELL = 1024 * 1024
_BY_SUFFIX = {".json": "application/json", ".csv": "text/csv"}


def media_type_of(name: str, stated: str) -> str:
    """Media type of a document: as stated, else by the end of its name.

    Parameters
    ----------
    stated
        Content-Type, whose parameters do not count; may be empty or say nothing.

    Raises
    ------
    DocumentRefused
        It is none that is let in.
    """
    plain = stated.partition(";")[0].strip().lower()
    if plain in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        plain = _BY_SUFFIX.get(Path(name).suffix.lower(), "")
    if plain not in SYNTAX:
        raise DocumentRefused(f"the type of the document must be one of {', '.join(SYNTAX)}", 415)
    return plain


def parse_json(content: bytes) -> Any:
    """Parse JSON strictly (RFC 8259): no NaN, no key twice.

    Raises
    ------
    DocumentRefused
        With the place, never with a value.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except json.JSONDecodeError as exc:
        raise DocumentRefused(f"no JSON: {exc.msg} in line {exc.lineno}", 422) from None
    except UnicodeDecodeError:
        raise DocumentRefused("no JSON: the text is not UTF-8", 422) from None
    except RecursionError:
        raise DocumentRefused("no JSON that can be read: it is nested too deeply", 422) from None
    except ValueError:  # a number of thousands of digits
        raise DocumentRefused("no JSON that can be read: a number is too long", 422) from None


def _refuse_constant(_name: str) -> None:
    raise DocumentRefused("no JSON: NaN and Infinity are not numbers there", 422)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DocumentRefused("an object of the JSON has a key twice", 422)
    return found


def _check_json(content: bytes) -> None:
    if not isinstance(parse_json(content), dict | list):
        raise DocumentRefused("the JSON is neither an object nor a list", 422)


def _check_csv(content: bytes) -> None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentRefused("no CSV: the text is not UTF-8", 422) from None
    if "\0" in text:
        raise DocumentRefused("no CSV: it holds a NUL", 422)
    csv.field_size_limit(_MAX_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = len(next(rows, []))
        if not columns:
            raise DocumentRefused("no CSV: the first line names no column", 422)
        for row in rows:
            if row and len(row) != columns:
                raise DocumentRefused(
                    f"line {rows.line_num} has {len(row)} columns, the first one {columns}", 422
                )
    except csv.Error as exc:
        raise DocumentRefused(f"no CSV: {exc} in line {rows.line_num}", 422) from None


SYNTAX: dict[str, Callable[[bytes], None]] = {
    "application/json": _check_json,
    "application/fhir+json": _check_json,
    "text/csv": _check_csv,
}
"""Media types that are let in, and what checks each."""
