"""Says in words what the record holds as codes: for ``lentigo status`` and the admin page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.delivery.routes import FOLDER
from gateway.store import states
from gateway.store.reading.status import DeliveryStatus, StudyStatus, WorkItemStatus

_ACTIONS = {
    "association.brought": "An association brought instances",
    "association.accepted": "Association accepted",
    "association.rejected": "Association rejected",
    "association.aborted": "Association aborted",
    "association.released": "Association released",
    "generation.opened": "Instances are arriving",
    "generation.closed": "Complete: nothing new came for the quiet window",
    "generation.postponed": "Choosing analyses postponed",
    "generation.not_routed": "No analysis applies",
    "analysis.left_out": "Analysis left out",
    "document.received": "A document of the site was received",
    "document.attached": "A document that had waited for this study now belongs to it",
    "instance.conflict": "Instance quarantined",
    "instance.own_result": "Our own result came back; filed, not analysed",
    "instance.prior": "An earlier image was fetched for comparison; not analysed",
    "instance.refused": "Instance refused",
    "work_item.scheduled": "Analysis scheduled",
    "work_item.analyse.started": "Analysis started",
    "work_item.analyse.postponed": "Analysis postponed",
    "work_item.analysed": "Analysis done, results written",
    "work_item.deliver.started": "Delivery started",
    "work_item.deliver.postponed": "Delivery postponed",
    "work_item.completed": "Work item completed",
    "work_item.failed": "Work item failed",
    "delivery.stored": "Destination stored an object",
    "delivery.confirmed": "Destination confirmed an object",
    "delivery.refused": "Destination refused an object",
    "commitment.asked": "Destination was asked for storage commitment",
    "commitment.answered": "Destination answered on storage commitment",
    "commitment.received": "A sender asks for storage commitment",
    "commitment.reported": "A sender was told what we hold",
    "commitment.unreported": "A report on storage commitment was given up",
    "destination.silent": "Destination does not answer and is left alone for a while",
    "destination.answers": "Destination answers again",
    "work_item.reopened": "Results are sent again",
    "work_item.canceled": "Work item canceled on request",
    "instance.released": "An instance was released from quarantine in the place of its namesake",
    "study.held": "Study held",
    "study.released": "Study released",
    "study.made_urgent": "Put in front",
    "study.complete_now": "Closed by order",
    "study.retried": "Tried again by order",
    "study.canceled": "Canceled by order",
    "study.resent": "Results ordered to be sent again",
    "study.received": "Study received",
    "study.analysing": "Study is being analysed",
    "study.delivering": "Results are being delivered",
    "study.completed": "Study completed",
    "study.failed": "Study failed",
    "study.refused": "Study refused",
}

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def action_words(action: str) -> str:
    """Return what a timeline's action means; an unknown one as it is, readable.

    Examples
    --------
    >>> action_words("generation.opened"), action_words("peer.gone_away")
    ('Instances are arriving', 'Peer gone away')
    """
    return _ACTIONS.get(action) or action.replace(".", " ").replace("_", " ").capitalize()


def detail_words(detail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of a timeline's line that say something, readable.

    Examples
    --------
    >>> detail_words({"retry_in_s": 4.0, "object": "seg-1", "reason": ""})
    [('retry in', '4.0 s'), ('object', 'seg-1')]
    >>> detail_words({"measured": {"run_s": 1.53, "bytes_sent": 150528}})
    [('run', '1.5 s'), ('sent', '151 kB')]
    """
    flat = {name: value for name, value in detail.items() if not isinstance(value, Mapping)}
    for inner in detail.values():
        flat |= inner if isinstance(inner, Mapping) else {}
    return [_pair(name, value) for name, value in flat.items() if value is not None and value != ""]


def _pair(name: str, value: Any) -> tuple[str, str]:
    if name.startswith("bytes_"):
        return name.removeprefix("bytes_"), size_words(value)
    words = name.removesuffix("_s").replace("_", " ")
    return words, f"{value:.1f} s" if name.endswith("_s") else str(value)


def duration_words(seconds: float) -> str:
    """Return a duration with its two largest units.

    Examples
    --------
    >>> duration_words(0.4), duration_words(75), duration_words(7260), duration_words(90000)
    ('0 s', '1 min 15 s', '2 h 1 min', '1 d 1 h')
    """
    left = int(max(seconds, 0))
    for index, (size, unit) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            if index + 1 == len(_UNITS):
                return f"{whole} {unit}"
            next_size, next_unit = _UNITS[index + 1]
            smaller = rest // next_size
            return f"{whole} {unit} {smaller} {next_unit}" if smaller else f"{whole} {unit}"
    return "0 s"


def size_words(size_bytes: int) -> str:
    """Return a size in decimal units.

    Examples
    --------
    >>> size_words(999), size_words(1_500_000)
    ('999 B', '1.5 MB')
    """
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def headline(summary: Mapping[str, Any] | None) -> str:
    """Return the finding of a work item's summary in a few words, '' when it holds none.

    Examples
    --------
    >>> headline({"label": "MEL", "probability": 0.812, "suspicious": True})
    'MEL 0.81, suspicious'
    >>> headline({"headline": "12 of 40 lesions flagged"})
    '12 of 40 lesions flagged'
    """
    if not summary:
        return ""
    if summary.get("headline"):
        return str(summary["headline"])
    words = str(summary.get("label") or "")
    probability = summary.get("probability")
    if words and isinstance(probability, int | float):
        words += f" {probability:.2f}"
    return words + (", suspicious" if words and summary.get("suspicious") else "")


def item_words(item: WorkItemStatus) -> str:
    """Return one work item's outcome in a few words."""
    if item.state == states.UPS_CANCELED:
        return "failed"
    if item.outcome == "not_assessed":
        return "not assessed"
    if item.outcome == "assessed":
        return headline(item.summary) or "assessed"
    return {states.UPS_SCHEDULED: "waiting"}.get(item.state, "running")


def findings(study: StudyStatus) -> str:
    """Return the outcomes of a study's newest work items, each with its analysis."""
    return "; ".join(f"{item.analysis}: {item_words(item)}" for item in study.newest_items)


@dataclass(frozen=True, kw_only=True)
class DeliveryAnswer:
    """The answer to "did the PACS really get it?"."""

    kind: str
    """``yes``, ``folder``, ``partly``, ``no`` or ``pending``."""
    text: str


def delivery_answer(study: StudyStatus) -> DeliveryAnswer:
    """Say in one sentence whether the newest results have arrived where they should."""
    deliveries = [
        delivery
        for item in study.newest_items
        for made in item.objects
        for delivery in made.deliveries
    ]
    if study.state == states.REFUSED:
        return DeliveryAnswer(kind="no", text="No result was made: the study was not analysed.")
    if not deliveries:
        if study.state == states.FAILED:
            return DeliveryAnswer(kind="no", text="No result was made: the analysis failed.")
        return DeliveryAnswer(kind="pending", text="Not yet: there is no result to deliver so far.")
    answer = _answer(deliveries)
    if study.state in states.FINAL_STATES or answer.kind in {"no", "partly"}:
        return answer
    if any(item.state not in states.UPS_FINAL for item in study.newest_items):
        return DeliveryAnswer(kind="pending", text=f"Under way. {answer.text}")
    return DeliveryAnswer(
        kind="pending",
        text=f"The results so far: {answer.text} New instances came since; they are next.",
    )


def _answer(deliveries: Sequence[DeliveryStatus]) -> DeliveryAnswer:
    total = len(deliveries)
    confirmed = [each for each in deliveries if each.state == "CONFIRMED"]
    refused = [each for each in deliveries if each.state == "REFUSED"]
    where = _names(deliveries)
    if refused:
        reasons = "; ".join(dict.fromkeys(each.reason for each in refused if each.reason))
        said = f": {reasons}" if reasons else ""
        count = f"{_names(refused)} refused {len(refused)} of {_objects(total)}{said}."
        if confirmed:
            return DeliveryAnswer(
                kind="partly", text=f"Partly: {len(confirmed)} confirmed; {count}"
            )
        return DeliveryAnswer(kind="no", text=f"No: {count}")
    if len(confirmed) < total:
        return DeliveryAnswer(
            kind="pending",
            text=f"Not yet: {len(confirmed)} of {_objects(total)} confirmed by {where}.",
        )
    if all(each.destination == FOLDER for each in deliveries):
        return DeliveryAnswer(
            kind="folder",
            text=f"Kept in the results folder: {_objects(total)} written and read back. "
            "No PACS was to get them.",
        )
    held = "the object" if total == 1 else f"all {_objects(total)}"
    return DeliveryAnswer(kind="yes", text=f"Yes: {where} holds {held} ({_evidence(confirmed)}).")


def _evidence(confirmed: Sequence[DeliveryStatus]) -> str:
    by = {each.confirmed_by for each in confirmed if each.destination != FOLDER}
    if by == {"c-find"}:
        return "found there by C-FIND afterwards"
    if "c-store" in by:
        return "by its answer to C-STORE; it offers no query to check"
    return "confirmed by " + ", ".join(sorted(by))


def _objects(number: int) -> str:
    return f"{number} object{'' if number == 1 else 's'}"


def _names(deliveries: Sequence[DeliveryStatus]) -> str:
    names = dict.fromkeys(
        "the results folder" if each.destination == FOLDER else each.destination
        for each in deliveries
    )
    return ", ".join(names)


def local_time(moment: dt.datetime) -> str:
    """Return a moment in this host's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
