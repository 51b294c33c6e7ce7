"""Search keys of a worklist query (PS3.18 8.3.4) as conditions on the record."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from sqlalchemy import and_, false, func, true

from gateway.dicomweb.ups import LABEL, UPS_PUSH, priority_of
from gateway.dicomweb.workitem_uid import work_item_id_of
from gateway.errors import WebRequestRefused
from gateway.store.tables import Identity, Study, WorkItem
from gateway.store.work.worklist import CHANGED_AT

_MAX_VALUE = 1024
_DATE_TIME = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\.\d{1,6})?([+-]\d{4})?")
_RANGE = re.compile(r"([\d.]*(?:[+]\d{4}|-(?:0\d|1[0-4])\d\d(?=-|$))?)(-)?(.*)")


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search, read."""

    conditions: tuple[Any, ...]
    unsupported: tuple[str, ...]
    """Keywords of keys that do not restrict the matches here."""
    fields: frozenset[str]
    """Keywords of ``includefield``; ``all`` among them."""
    keys: tuple[str, ...]
    """Keywords of all matching keys, as they were given; for the audit trail."""
    limit: int
    offset: int


def read_query(parameters: Sequence[tuple[str, str]], *, max_results: int) -> Query:
    """Read the query of a search.

    Parameters
    ----------
    parameters
        Name and value, in order; a name may be repeated.

    Raises
    ------
    WebRequestRefused
        400: a name that is no attribute, or a value that cannot be read. Neither is repeated in
        the message: queries hold names of patients.
    """
    conditions: list[Any] = []
    unsupported: list[str] = []
    keys: dict[str, None] = {}
    fields: set[str] = set()
    numbers = {"limit": max_results, "offset": 0}
    for name, value in parameters:
        if name in numbers:
            numbers[name] = _number(name, value)
        elif name == "includefield":
            fields |= {_keyword(each) if each != "all" else each for each in value.split(",")}
        elif name == "fuzzymatching":
            if value.lower() == "true":
                unsupported.append("fuzzymatching")
        else:
            keyword = _keyword(name)
            keys[keyword] = None
            match = _MATCHES.get(keyword)
            if match is None:
                unsupported.append(keyword)
            elif value not in ("", "*"):
                if len(value) > _MAX_VALUE or "\0" in value:
                    raise WebRequestRefused(f"the value of {keyword} cannot be used")
                conditions.append(match(value))
    return Query(
        conditions=tuple(conditions),
        unsupported=tuple(unsupported),
        fields=frozenset(fields),
        keys=tuple(keys),
        limit=min(numbers["limit"], max_results),
        offset=numbers["offset"],
    )


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise WebRequestRefused(f"{name} must be a number")
    return int(value)


def _keyword(name: str) -> str:
    """Return the keyword path of an attribute that is named by keywords or tags."""
    return ".".join(_one_keyword(part) for part in name.split("."))


def _one_keyword(name: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        name = keyword_for_tag(int(name, 16))
    if not name or tag_for_keyword(name) is None:
        raise WebRequestRefused("a key of the query is no DICOM attribute")
    return name


# -- one key -----------------------------------------------------------------------------------


def _text(column: Any, *, folds_case: bool = False) -> Callable[[str], Any]:
    """Match as single value, or with * and ? (PS3.4 C.2.2.2.4)."""

    def match(value: str) -> Any:
        left = func.lower(column) if folds_case else column
        value = value.lower() if folds_case else value
        if "*" not in value and "?" not in value:
            return left == value
        pattern = re.sub(r"([%_/])", r"/\1", value).replace("*", "%").replace("?", "_")
        return left.like(pattern, escape="/")

    return match


def _uids(column: Any) -> Callable[[str], Any]:
    """Match any of a list of UIDs (PS3.4 C.2.2.2.2)."""
    return lambda value: column.in_(re.split(r"[\\,]", value))


def _work_items(value: str) -> Any:
    ids = [work_item_id_of(uid) for uid in re.split(r"[\\,]", value)]
    return WorkItem.id.in_([each for each in ids if each is not None])


def _priority(value: str) -> Any:
    urgencies = [each for each in ("urgent", "routine", "low", "") if priority_of(each) == value]
    return WorkItem.urgency.in_(urgencies)


def _constant(text: str) -> Callable[[str], Any]:
    def match(value: str) -> Any:
        pattern = re.escape(value).replace(r"\*", ".*").replace(r"\?", ".")
        return true() if re.fullmatch(pattern, text) else false()

    return match


def _moment(column: Any) -> Callable[[str], Any]:
    """Match a moment or a range of them (PS3.4 C.2.2.2.5)."""

    def match(value: str) -> Any:
        found = _RANGE.fullmatch(value)
        assert found is not None
        first, dash, last = found.groups()
        if not first and not last:
            raise WebRequestRefused("a date-time of the query cannot be read")
        begin = _span(first)[0] if first else None
        end = _span(last)[1] if last else None
        if not dash:
            end = _span(first)[1]
        bounds = [column >= begin] if begin is not None else []
        return and_(*bounds, *([column < end] if end is not None else []))

    return match


def _span(text: str) -> tuple[dt.datetime, dt.datetime]:
    """Return the first moment that a DT means and the first after it: it may be cut short."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        raise WebRequestRefused("a date-time of the query cannot be read")
    *parts, fraction, zone = found.groups()
    numbers = [int(each) for each in parts if each is not None]
    try:
        start = dt.datetime(*(numbers + [1] * (3 - len(numbers))))  # type: ignore[arg-type]
        if fraction:
            start += dt.timedelta(seconds=float(fraction))
        start = _zoned(start, zone)
        return start, start + _unit(start, len(numbers), fraction)
    except (ValueError, OverflowError) as exc:
        raise WebRequestRefused("a date-time of the query cannot be read") from exc


def _zoned(moment: dt.datetime, zone: str | None) -> dt.datetime:
    if zone is None:
        return moment.astimezone(dt.UTC)  # the time zone of this host (PS3.5 6.2)
    sign = -1 if zone[0] == "-" else 1
    offset = sign * dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
    return moment.replace(tzinfo=dt.timezone(offset)).astimezone(dt.UTC)


def _unit(start: dt.datetime, precision: int, fraction: str | None) -> dt.timedelta:
    if fraction:
        return dt.timedelta(microseconds=10 ** (6 - len(fraction) + 1))
    return {
        1: dt.timedelta(days=366 if start.year % 4 == 0 else 365),
        2: dt.timedelta(days=31),
        3: dt.timedelta(days=1),
        4: dt.timedelta(hours=1),
        5: dt.timedelta(minutes=1),
        6: dt.timedelta(seconds=1),
    }[precision]


_STUDY = _uids(Study.study_instance_uid)
_ACCESSION = _text(Identity.accession_number)
_MATCHES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "SOPClassUID": _constant(UPS_PUSH),
        "SOPInstanceUID": _work_items,
        "ProcedureStepState": lambda value: WorkItem.state == value,
        "ScheduledProcedureStepPriority": _priority,
        "ScheduledProcedureStepStartDateTime": _moment(WorkItem.created_at),
        "ScheduledProcedureStepModificationDateTime": _moment(CHANGED_AT),
        "ProcedureStepLabel": _text(WorkItem.analysis),
        "WorklistLabel": _constant(LABEL),
        "InputReadinessState": _constant("READY"),
        "StudyInstanceUID": _STUDY,
        "ReferencedRequestSequence.StudyInstanceUID": _STUDY,
        "InputInformationSequence.StudyInstanceUID": _STUDY,
        "AccessionNumber": _ACCESSION,
        "ReferencedRequestSequence.AccessionNumber": _ACCESSION,
        "PatientID": _text(Identity.patient_id),
        "IssuerOfPatientID": _text(Identity.issuer_of_patient_id),
        "PatientName": _text(Identity.patient_name, folds_case=True),
    }
)
SUPPORTED_KEYS: tuple[str, ...] = tuple(_MATCHES)
"""Keywords of the matching keys."""
