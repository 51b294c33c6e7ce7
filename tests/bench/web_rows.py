"""Rows of a record after a month of a large site: studies as they end up, chains, a site's own."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from gateway.store.audit import entry_digest
from gateway.store.people.reviews import Opinion, review_digest
from gateway.store.tables import (
    AuditEntry,
    Base,
    Delivery,
    DestinationHealth,
    DriftSeries,
    Event,
    Generation,
    Identity,
    Instance,
    Notice,
    Refusal,
    ResultObject,
    RetentionHold,
    Review,
    SavedView,
    SourceRhythm,
    Study,
    WorkItem,
)
from tests.records import DERMOSCOPIC, JPEG_BASELINE, PACS, STRUCTURED_REPORT

SENDERS = ("CAMERA_1", "CAMERA_2", "SCANNER", "PACS")
RARE_SENDER = "LOANED"
"""Brought a few of the oldest studies, and nothing since."""
ANALYSES = ("diagnosis", "tbp_screening")
DIGEST = "d" * 64
VIEWS = {
    "Failed today": "state=failed",
    "Urgent": "urgent=yes",
    "Held": "held=yes",
    "Not at the PACS": "delivered=pending",
    "Refused by the PACS": "delivered=refused",
    "Failed from camera 1": "state=failed&sender=CAMERA_1",
}
"""Saved views of the administrator: name -> filter."""

_REASONS = (
    ("REJECTED", "the frame {} cannot be decoded"),
    ("REJECTED", "no image of the study has 256 pixels a side"),
    ("DEFECT", "3 workers died at this step (analyse)"),
)
_REVIEWED_EVERY = 20
_PATIENTS = 40_000
_BEGUN = (
    "generation.opened",
    "generation.closed",
    "generation.rules",
    "work_item.scheduled",
    "work_item.analyse.started",
)
_DONE = ("work_item.analysed", "work_item.deliver.started", "delivery.stored", "delivery.confirmed")
_AUDITED = (("CAMERA_1", "instances.received"), ("lentigo", "instances.sent"))

Row = dict[str, Any]
Rows = dict[type[Base], list[Row]]


# -- one study --------------------------------------------------------------------------------


def add_study(
    rows: Rows,
    number: int,
    at: dt.datetime,
    random_: random.Random,
    *,
    is_new: bool,
    instances: int,
) -> None:
    state = _state(random_, is_new)
    kind, reason = random_.choice(_REASONS) if state == "failed" else ("", "")
    reason = reason.format(random_.randrange(90))
    if state == "refused":
        reason = "no analysis applies to this study"
    seconds = [random_.lognormvariate(mean, 0.5) for mean in (1.0, 0.3, 0.8, 0.2)]
    moments = [at + dt.timedelta(seconds=sum(seconds[: n + 1])) for n in range(4)]
    is_held = is_new and number % 8 == 0
    rows[Study].append(
        {
            "id": number,
            "study_instance_uid": f"2.25.{10**30 + number}",
            "state": state,
            "reason": reason,
            "first_received_at": at,
            "last_received_at": at,
            "state_changed_at": moments[3] if state != "received" else at,
            "urgency": "urgent" if number % 1000 == 0 else "",
            "held_at": at if is_held else None,
            "held_by": "admin" if is_held else "",
            "hold_reason": "to be looked at" if is_held else "",
        }
    )
    rows[Identity].append(
        {
            "study_id": number,
            "patient_key": f"{number % _PATIENTS:064x}",
            "patient_id": f"P{number:07d}",
            "accession_number": f"A{number:07d}",
        }
    )
    is_open = state == "received"
    rows[Generation].append(
        {
            "id": number,
            "study_id": number,
            "number": 1,
            "state": "receiving" if is_open else "routed",
            "opened_at": at,
            "last_instance_at": at,
            "closes_at": at + dt.timedelta(seconds=2),
            "closed_at": None if is_open else moments[0],
            "routed_at": None if is_open else moments[0],
            "next_attempt_at": None,
            "reason": reason if state == "refused" else "",
        }
    )
    sender = RARE_SENDER if number <= 10 else random_.choice(SENDERS)
    for part in range(1, instances + 1):
        rows[Instance].append(_instance(number, part, at, sender, is_odd=number % 2000 == 0))
    if random_.random() < 0.001:
        rows[Refusal].append(_refusal(number, at, sender))
    if state not in {"received", "refused"}:
        _work(rows, number, state, (kind, reason), moments, random_.choice(ANALYSES))
    _timeline(rows, number, state, at, moments)


def _timeline(
    rows: Rows, number: int, state: str, at: dt.datetime, moments: list[dt.datetime]
) -> None:
    actions = [*_BEGUN, *(_DONE if state == "completed" else ()), f"study.{state}"]
    item = number if state not in {"received", "refused"} else None
    for step, action in enumerate(actions):
        rows[Event].append(
            {
                "at": at if step == 0 else moments[min(step // 2, 3)],
                "study_id": number,
                "work_item_id": item if action.startswith("work_item.") else None,
                "action": action,
                "level": "info",
                "detail": {"worker": f"host-{number % 4}"} if action.endswith("started") else {},
            }
        )


def _state(random_: random.Random, is_new: bool) -> str:
    if is_new:
        return random_.choice(("received", "analysing", "delivering"))
    return random_.choices(("completed", "failed", "refused"), (96, 3, 1))[0]


def _instance(number: int, part: int, at: dt.datetime, sender: str, *, is_odd: bool) -> Row:
    is_quarantined = is_odd and part == 2
    return {
        "study_id": number,
        "generation_id": None if is_quarantined else number,
        "sop_instance_uid": f"2.25.{10**34 + number * 10**4 + part}",
        "sop_class_uid": DERMOSCOPIC,
        "series_instance_uid": f"2.25.{10**31 + number}",
        "transfer_syntax_uid": JPEG_BASELINE,
        "modality": "XC",
        "sha256": f"{number * 10**4 + part:064x}",
        "size_bytes": 900_000,
        "path": f"{number}/{part}.dcm",
        "disposition": "quarantined" if is_quarantined else "accepted",
        "reason": "its UID came before with other bytes" if is_quarantined else "",
        "calling_ae_title": sender,
        "association_id": f"{number:032x}",
        "received_at": at,
    }


def _refusal(number: int, at: dt.datetime, sender: str) -> Row:
    return {
        "at": at,
        "study_id": number,
        "association_id": f"{number:032x}",
        "calling_ae_title": sender,
        "status": 0xC001,
        "reason": "the data set ends before its last element",
    }


def _work(
    rows: Rows,
    number: int,
    state: str,
    failure: tuple[str, str],
    moments: list[dt.datetime],
    analysis: str,
) -> None:
    has_failed, is_done = state == "failed", state == "completed"
    is_analysed = state in {"completed", "delivering"}
    rows[WorkItem].append(
        {
            "id": number,
            "study_id": number,
            "generation_id": number,
            "analysis": analysis,
            "model_digest": DIGEST,
            "state": "CANCELED" if has_failed else "COMPLETED" if is_done else "SCHEDULED",
            "step": "deliver" if is_analysed else "analyse",
            "outcome": "assessed" if is_analysed else "",
            "reason": failure[1],
            "failure_kind": failure[0],
            "summary": {"headline": "NV 0.91", "reason": ""} if is_analysed else None,
            "attempts": 1,
            "created_at": moments[0],
            "rank_at": moments[0],
            "started_at": moments[1] if is_analysed else None,
            "analysed_at": moments[2] if is_analysed else None,
            "finished_at": moments[3] if has_failed or is_done else None,
            "next_attempt_at": None if has_failed or is_done else moments[2],
        }
    )
    if not is_analysed:
        return
    rows[ResultObject].append(
        {
            "id": number,
            "work_item_id": number,
            "role": "sr",
            "sop_class_uid": STRUCTURED_REPORT,
            "sop_instance_uid": f"2.25.{10**33 + number}",
            "series_instance_uid": f"2.25.{2 * 10**33 + number}",
            "path": f"{number}/sr.dcm",
            "sha256": "ab" * 32,
            "size_bytes": 4096,
            "created_at": moments[2],
        }
    )
    is_refused = is_done and number % 500 == 0
    rows[Delivery].append(
        {
            "result_object_id": number,
            "destination": PACS,
            "state": "REFUSED" if is_refused else "CONFIRMED" if is_done else "PENDING",
            "status": 0xA900 if is_refused else 0,
            "reason": "the SOP class is not taken" if is_refused else "",
            "confirmed_by": "" if is_refused or not is_done else "c-find",
        }
    )


# -- chains, and what a site has once ---------------------------------------------------------


class Trail:
    """Makes the audit trail and the reviews that it bears witness to."""

    def __init__(self) -> None:
        self.entries, self.sha256 = 0, ""
        self._reviews, self._review_sha256 = 0, ""

    def add(self, rows: Rows, number: int, at: dt.datetime) -> None:
        """Add what one study leaves in both."""
        for actor, action in _AUDITED:
            self._entry(rows, at, actor, action, {"study": number, "instances": 2})
        if number % _REVIEWED_EVERY == 0 and rows[ResultObject]:
            self._review(rows, rows[ResultObject][-1], at)

    def _entry(self, rows: Rows, at: dt.datetime, actor: str, action: str, detail: Row) -> None:
        self.entries += 1
        values: Row = {"id": self.entries, "at": at, "actor": actor, "action": action}
        values["detail"] = detail
        digest = entry_digest(**values, previous_sha256=self.sha256)
        rows[AuditEntry].append({**values, "previous_sha256": self.sha256, "sha256": digest})
        self.sha256 = digest

    def _review(self, rows: Rows, made: Row, at: dt.datetime) -> None:
        self._reviews += 1
        values = {
            "id": self._reviews,
            "at": at,
            "reviewer": "ada",
            "work_item_id": made["work_item_id"],
            "sop_instance_uid": made["sop_instance_uid"],
            "object_sha256": made["sha256"],
            "verdict": "agree",
            "statement": Opinion(verdict="agree").statement(),
            "previous_sha256": self._review_sha256,
        }
        digest = review_digest(**values)
        rows[Review].append({**values, "study_id": made["work_item_id"], "sha256": digest})
        self._review_sha256 = digest
        said = {"review": self._reviews, "sha256": digest}
        self._entry(rows, at, "ada", "review.signed", said)


def site_rows(now: dt.datetime, studies: int) -> Rows:
    """Return what the site has beside its studies."""
    notices = range(max(1, studies // 10))
    return {
        SavedView: [
            {"account": "admin", "name": name, "query": query, "created_at": now}
            for name, query in VIEWS.items()
        ],
        SourceRhythm: [
            {"ae_title": each, "last_at": now, "pauses": {"seconds": [60.0] * 200}}
            for each in SENDERS
        ],
        DestinationHealth: [{"destination": PACS, "state": "closed", "since": now}],
        DriftSeries: [
            {
                "source": source,
                "analysis": analysis,
                "model_digest": DIGEST,
                "measure": "score",
                "reference": {"values": [0.5] * 200},
                "recent": {"values": [0.6] * 200},
                "state": "stable",
                "since": now,
                "updated_at": now,
            }
            for source in SENDERS
            for analysis in ANALYSES
        ],
        Notice: [
            {
                "cause": f"event:{number}",
                "kind": "study.completed",
                "target": "mail",
                "payload": {},
                "created_at": now,
                "state": "waiting" if number < 20 else "delivered",
            }
            for number in notices
        ],
        RetentionHold: [
            {
                "study_instance_uid": f"2.25.{10**30 + number}",
                "reason": "file 12/26",
                "placed_by": "admin",
                "placed_at": now,
            }
            for number in range(1, 6)
        ],
    }
