"""Which lines of the timeline are told outside, to whom, and in which words.

A notice holds ids of the record and words of ours, never a patient attribute, a UID or the text of
a third party. It is written in the transaction that moves the follower's cursor on, so each event
gets one notice for each receiver, whoever is killed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.observation.settings import EventSettings, FhirSettings, MailSettings
from gateway.store.tables import Notice, WorkItem

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given up"

EVENTS: Mapping[str, str] = {
    "study.received": "A study began to arrive",
    "study.completed": "Every result of a study is confirmed",
    "study.failed": "A study failed; a person has to look",
    "study.refused": "Nothing of a study was analysed",
    "study.held": "A study waits for a person to release it",
    "study.not_assessed": "A model could not judge a study",
    "work_item.failed": "An analysis of a study failed for good",
    "instance.conflict": "An instance came again with other bytes; it is in quarantine",
    "generation.deadline_missed": "Results are late",
    "destination.silent": "A destination does not answer",
    "destination.answers": "A destination answers again",
    "commitment.unreported": "A report on storage commitment was given up",
    "source.silent": "A source is silent for longer than its own rhythm explains",
    "source.sends": "A source sends again",
    "drift.began": "A model's answers for a source have moved away from the reference",
    "drift.ended": "A model's answers for a source are like the reference again",
    "notice.given_up": "An event was given up: its receiver does not take it",
    "rules.refused": "A file of rules cannot be used; the ones before stay in force",
    "quota.exceeded": "A source has used up its share of the disk",
    "retention.low_watermark": "The disk is above its low watermark",
    "clock.jumped": "The clock of this host jumped",
    "record.mended": "Work without a next attempt was found and put back",
}
"""Kinds of events that are told outside, with what they mean; an alarm of another kind is told
too."""

# Ids and words of ours; whatever else stands in a timeline's line stays here.
_TOLD = frozenset(
    {
        "analysis",
        "attempt",
        "destination",
        "generation",
        "kind",
        "measure",
        "model_digest",
        "outcome",
        "psi",
        "ks",
        "seconds",
        "source",
        "target",
        "used_percent",
        "work_items",
    }
)
_MAIL_TOO = frozenset({"source.silent", "drift.began", "destination.silent", "study.failed"})


def webhook_target(address: str) -> str:
    """Return how the record names a webhook: its host and a digest, no path and no token.

    Examples
    --------
    >>> webhook_target("https://ris.example/in?key=1")
    'webhook:ris.example:a81b6a10'
    """
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    return f"webhook:{urlsplit(address).hostname or ''}:{digest}"[:128]


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """Who is told what."""

    events: EventSettings
    mail: MailSettings
    fhir: FhirSettings

    @property
    def is_anybody(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.events.addresses) or self.mail.is_on or bool(self.fhir.url)

    def of(self, kind: str, level: str) -> list[str]:
        """Return the targets of one event."""
        found: list[str] = []
        if self.events.wants(kind):
            found += [webhook_target(address) for address in self.events.addresses]
        # A mail about a mail that could not be sent would go the same way.
        is_alarm = level == "alarm" or kind in _MAIL_TOO
        if self.mail.is_on and is_alarm and kind != "notice.given_up":
            found.append("mail")
        if self.fhir.url and kind == "study.completed":
            found.append("fhir")
        return found


def file_notices(
    connection: Connection, rows: Sequence[Any], receivers: Receivers, now: dt.datetime
) -> int:
    """Write a notice for each line that is told outside, and receiver; return how many."""
    if not receivers.is_anybody:
        return 0
    written = 0
    for row in rows:
        kind = _kind(row)
        if kind not in EVENTS and row.level != "alarm":
            continue
        targets = receivers.of(kind, row.level)
        if targets:
            payload = _payload(connection, row, kind)
            for target in targets:
                written += add_notice(connection, f"event:{row.id}", kind, target, payload, now)
    return written


def add_notice(
    connection: Connection,
    cause: str,
    kind: str,
    target: str,
    payload: Mapping[str, Any],
    now: dt.datetime,
) -> int:
    """Write one notice, due at once; 0 when there is one already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return int(
        connection.execute(
            dialect.insert(Notice)
            .values(
                cause=cause,
                kind=kind,
                target=target,
                payload=dict(payload),
                created_at=now,
                state=WAITING,
                attempts=0,
                next_attempt_at=now,
                reason="",
            )
            .on_conflict_do_nothing()
        ).rowcount
    )


def _kind(row: Any) -> str:
    if row.action == "work_item.analysed" and row.detail.get("outcome") == "not_assessed":
        return "study.not_assessed"
    if row.action == "generation.opened" and row.detail.get("generation") == 1:
        return "study.received"  # its state is this from the start: only a late instance sets it
    return str(row.action)


def _payload(connection: Connection, row: Any, kind: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": row.id,
        "kind": kind,
        "level": row.level,
        "at": row.at.isoformat(timespec="milliseconds"),
        "says": EVENTS.get(kind, kind.replace(".", " ").replace("_", " ")),
    }
    if row.study_id is not None:
        said["study"] = row.study_id
    if row.work_item_id is not None:
        said["work_item"] = row.work_item_id
    said |= {
        name: value
        for name, value in row.detail.items()
        if name in _TOLD and isinstance(value, str | int | float)
    }
    if kind in ("study.completed", "study.failed"):
        said["work_items"] = _items(connection, row.study_id)
    return said


def _items(connection: Connection, study_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(
            WorkItem.id, WorkItem.analysis, WorkItem.state, WorkItem.outcome, WorkItem.failure_kind
        )
        .where(WorkItem.study_id == study_id)
        .order_by(WorkItem.id.desc())
        .limit(20)
    )
    return [dict(row._mapping) for row in rows]
