"""Measurements that the site sent as a table (CSV) or as JSON, or wrote into a tile's header. Pure.

Other documents of the site (covariates of another analysis, say) are left alone: a table counts
when it has at least three of the measurements.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.errors import BytesLengthException

from models.tbp.measurements import OTHER_COLUMNS, is_leak
from models.tbp.remarks import Remark
from workers.ports import Document
from workers.tbp.detect import PRIVATE_CREATOR, PRIVATE_GROUP
from workers.tbp.rows import MAX_LESIONS, MIN_MEASUREMENTS, LesionRow, Reading, canonical

MAX_BYTES = 64 * 2**20
"""Largest document that is read."""

# Spelling of a column, without case, blanks and underscores -> what it says of the row. Of those
# that name the lesion within the patient, the first in this order counts.
_SOP_INSTANCE_UID = ("sopinstanceuid", "imageuid")
_TRACKING_UID = ("trackinguid", "trackinguniqueidentifier")
_LESION_ID = ("trackingid", "trackingidentifier", "isicid", "lesionid", "lesion", "tileid")
_INSTANCE_NUMBER = ("instancenumber",)
_PATIENT_ID = ("patientid",)
_KEYS = (*_SOP_INSTANCE_UID, *_TRACKING_UID, *_LESION_ID, *_INSTANCE_NUMBER, *_PATIENT_ID)


class _Unreadable(ValueError):
    """A document of measurements cannot be read; the message is the reason."""


def read_document(document: Document) -> Reading:
    """Read one document.

    Returns
    -------
    Reading
        Nothing at all for a document that is no table of lesions.
    """
    if len(document.content) > MAX_BYTES:
        return _refused("it is larger than 64 MiB")
    try:
        records = _records(document)
        if not _is_measurement_table(records):
            return Reading()
        if len(records) > MAX_LESIONS:
            text = f"a document holds {len(records)} lesions, more than {MAX_LESIONS}: not used"
            return Reading(remarks=(Remark(code="TOO_MANY", text=text),))
        return Reading(
            rows=tuple(_row(record) for record in records), remarks=tuple(_about(records))
        )
    except _Unreadable as exc:
        return _refused(str(exc))


def read_private_block(header: Dataset) -> Mapping[str, object] | None:
    """Read the measurements in a tile's own header; None where it has none.

    Raises
    ------
    ValueError
        The block is there, and its element 01 holds no JSON object.
    """
    try:
        block = header.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        value = block[0x01].value
    except KeyError:
        return None
    except BytesLengthException as exc:
        raise ValueError("the private block cannot be read") from exc
    # After a PACS that stored it in implicit VR its VR is unknown.
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    try:
        found = json.loads(text.rstrip("\0 "))
    except RecursionError as exc:
        raise ValueError("the private block nests too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("the private block holds no JSON object")
    return _measurements(found)


def _refused(reason: str) -> Reading:
    text = f"a document of measurements was not used: {reason}"
    return Reading(remarks=(Remark(code="BAD_DOCUMENT", text=text),))


def _records(document: Document) -> list[dict[str, object]]:
    text = _decoded(document.content)
    if text.lstrip()[:1] in ("{", "["):
        return _json_records(text)
    name, media_type = document.name.casefold(), document.media_type.casefold()
    if name.endswith((".csv", ".tsv", ".txt")) or "csv" in media_type or "text/" in media_type:
        return _csv_records(text)
    return []


def _decoded(content: bytes) -> str:
    """UTF-8 with or without a mark, UTF-16 with one, else the Western code page of spreadsheets."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _json_records(text: str) -> list[dict[str, object]]:
    """A list of objects, ``{"lesions": [...]}``, or objects by lesion id."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # Whose it is cannot be told; other analyses say so too if it was for them.
        return []
    if isinstance(found, dict) and isinstance(found.get("lesions"), list | dict):
        found = found["lesions"]
    if isinstance(found, dict):
        inner = [(key, value) for key, value in found.items() if isinstance(value, dict)]
        if inner and len(inner) == len(found):
            return [{"tracking_id": key} | value for key, value in inner]
        return [found]
    return [record for record in found if isinstance(record, dict)]


def _csv_records(text: str) -> list[dict[str, object]]:
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if line]
    except csv.Error:
        return []
    if len(lines) < 1:
        return []
    columns = [column.strip() for column in lines[0]]
    known = [name for name in map(canonical, columns) if name is not None]
    if len(known) < MIN_MEASUREMENTS:
        return []
    if any(times > 1 for times in Counter(known).values()):
        raise _Unreadable("a measurement has two columns")
    ragged = sum(len(line) != len(columns) for line in lines[1:])
    if ragged:
        raise _Unreadable(f"{ragged} rows have another number of columns than the head")
    decimal_comma = delimiter == ";"
    return [
        {
            column: _with_point(value) if decimal_comma else value
            for column, value in zip(columns, line, strict=True)
        }
        for line in lines[1:]
    ]


def _with_point(value: str) -> str:
    """A number with a decimal comma, as spreadsheets write it beside semicolons."""
    changed = value.strip().replace(",", ".")
    try:
        float(changed)
    except ValueError:
        return value
    return changed


def _is_measurement_table(records: Sequence[Mapping[str, object]]) -> bool:
    names = {canonical(column) for record in records[:10] for column in record}
    return len(names - {None}) >= MIN_MEASUREMENTS


def _row(record: Mapping[str, object]) -> LesionRow:
    keys = {_plain(column): value for column, value in record.items() if _plain(column) in _KEYS}
    return LesionRow(
        values=_measurements(record),
        sop_instance_uid=_text(keys, _SOP_INSTANCE_UID),
        tracking_uid=_text(keys, _TRACKING_UID),
        lesion_id=_text(keys, _LESION_ID),
        instance_number=_whole(_text(keys, _INSTANCE_NUMBER)),
        patient_id=_text(keys, _PATIENT_ID),
    )


def _measurements(record: Mapping[Any, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for column, value in record.items():
        name = canonical(str(column))
        if name is None:
            continue
        if name in found and found[name] != value:
            raise _Unreadable("a row gives a measurement twice, under two spellings")
        found[name] = value
    return found


def _plain(column: str) -> str:
    return column.casefold().replace("_", "").replace(" ", "")


def _text(keys: Mapping[str, object], names: Iterable[str]) -> str:
    for name in names:
        value = keys.get(name)
        text = "" if value is None else str(value).strip()
        if text and text.casefold() not in ("nan", "none", "null", "na"):
            return text
    return ""


def _whole(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _about(records: Sequence[Mapping[str, object]]) -> list[Remark]:
    """Columns that were not used: those that tell the outcome, and those that are not known."""
    columns = dict.fromkeys(column for record in records for column in record)
    strange = [c for c in columns if canonical(c) is None and _plain(c) not in _KEYS]
    leaks = sum(is_leak(column) for column in strange)
    unknown = sum(
        not is_leak(column) and column.strip().casefold() not in OTHER_COLUMNS for column in strange
    )
    remarks = []
    if leaks:
        text = f"{leaks} columns that tell the outcome were not used"
        remarks.append(Remark(code="OUTCOME_COLUMN", text=text))
    if unknown:
        text = f"{unknown} unknown columns were not used"
        remarks.append(Remark(code="COLUMN_IGNORED", text=text))
    return remarks
