"""Which studies a list shows: one meaning for the page, REST, the command line and orders."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, literal_column, select

from gateway.rules.plan import URGENT
from gateway.store import states
from gateway.store.tables import Delivery, Instance, ResultObject, Study, WorkItem

MAX_TEXT_CHARACTERS = 200
DELIVERED = ("confirmed", "pending", "refused")
"""Answers of destinations that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class StudyFilter:
    """Which studies a list shows; every field that is set narrows it."""

    state: str = ""
    uid_part: str = ""
    """Characters anywhere in the Study Instance UID."""
    sender: str = ""
    """Calling AE title of an instance, whole."""
    analysis: str = ""
    """An analysis that was scheduled for it."""
    delivered: str = ""
    """``confirmed``: all its objects; ``pending`` or ``refused``: one of them."""
    reason: str = ""
    """Characters anywhere in the reason, upper and lower case alike."""
    since: dt.datetime | None = None
    """First instance at or after this moment."""
    until: dt.datetime | None = None
    """First instance before this moment."""
    is_urgent: bool = False
    is_held: bool = False
    before_id: int | None = None
    """Only studies older than this internal id: the next page."""
    up_to_id: int | None = None
    """Only studies up to this internal id: what was there when they were counted."""
    ids: tuple[int, ...] = ()
    """Only these; empty for all."""
    limit: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on ``studies``."""
        found = [*self._own_columns(), *self._range()]
        # Sets of studies, each from an index alone: asked study by study, a sender that never
        # brought anything would be looked for in the whole record.
        if self.sender:
            brought = select(Instance.study_id).where(Instance.calling_ae_title == self.sender)
            found.append(Study.id.in_(brought))
        if self.analysis:
            scheduled = select(WorkItem.study_id).where(WorkItem.analysis == self.analysis)
            found.append(Study.id.in_(scheduled))
        if self.delivered:
            found += self._deliveries()
        return found

    def _own_columns(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.state:
            found.append(Study.state == self.state)
        if self.uid_part:
            found.append(Study.study_instance_uid.contains(self.uid_part, autoescape=True))
        if self.reason:
            found.append(Study.reason != "")  # cheaper to look at than into
            found.append(Study.reason.icontains(self.reason, autoescape=True))
        if self.is_urgent:
            found.append(Study.urgency == URGENT)
        if self.is_held:
            found.append(Study.held_at.is_not(None))
        return found

    def _range(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.since is not None:
            found.append(Study.first_received_at >= self.since)
        if self.until is not None:
            found.append(Study.first_received_at < self.until)
        if self.before_id is not None:
            found.append(Study.id < self.before_id)
        if self.up_to_id is not None:
            found.append(Study.id <= self.up_to_id)
        if self.ids:
            found.append(Study.id.in_(self.ids))
        return found

    def _deliveries(self) -> list[ColumnElement[bool]]:
        sent = (
            select(WorkItem.study_id)
            .join(ResultObject, ResultObject.work_item_id == WorkItem.id)
            .join(Delivery, Delivery.result_object_id == ResultObject.id)
        )
        unconfirmed = sent.where(is_unconfirmed())
        if self.delivered == "confirmed":
            return [
                sent.where(WorkItem.study_id == Study.id).exists(),
                Study.id.not_in(unconfirmed),
            ]
        if self.delivered == "refused":
            return [Study.id.in_(unconfirmed.where(Delivery.state == "REFUSED"))]
        return [Study.id.in_(unconfirmed.where(Delivery.state.in_(("PENDING", "STORED"))))]

    # -- addresses ------------------------------------------------------------------------------

    def as_query(self, **changes: Any) -> str:
        """Return the filter as the query of an address, '' for all studies.

        Examples
        --------
        >>> StudyFilter(state="failed", is_urgent=True).as_query()
        'state=failed&urgent=yes'
        """
        values = {**asdict(self), **changes}
        words = {
            "state": values["state"],
            "uid": values["uid_part"],
            "sender": values["sender"],
            "analysis": values["analysis"],
            "delivered": values["delivered"],
            "reason": values["reason"],
            "since": _minute(values["since"]),
            "until": _minute(values["until"]),
            "urgent": "yes" if values["is_urgent"] else "",
            "held": "yes" if values["is_held"] else "",
            "before": values["before_id"],
        }
        return urlencode({name: word for name, word in words.items() if word})


def is_unconfirmed() -> ColumnElement[bool]:
    """Condition: a delivery is not confirmed, in the words of the index over the few that are not.

    Databases use a partial index where its own condition stands in the query.
    """
    return Delivery.state != literal_column("'CONFIRMED'")


def _minute(moment: dt.datetime | None) -> str:
    if moment is None:
        return ""
    return moment.astimezone().strftime("%Y-%m-%dT%H:%M")


def filter_of(values: Mapping[str, str]) -> StudyFilter:
    """Return the filter that an address or a call asks for.

    Parameters
    ----------
    values
        Names as ``as_query`` writes them; others are left alone. Moments without a time zone are
        in that of this host.

    Raises
    ------
    ValueError
        A value that cannot be used; the message names it.
    """
    state, delivered = values.get("state", ""), values.get("delivered", "")
    if state and state not in states.STUDY_STATES:
        raise ValueError("there is no such state")
    if delivered and delivered not in DELIVERED:
        raise ValueError("delivered is confirmed, pending or refused")
    return StudyFilter(
        state=state,
        # What cannot be in a UID is noise of a copy, e.g. blanks and quotes.
        uid_part=re.sub(r"[^0-9.]", "", values.get("uid", ""))[:64],
        sender=_text(values, "sender", 16),
        analysis=_text(values, "analysis", 64),
        delivered=delivered,
        reason=_text(values, "reason", MAX_TEXT_CHARACTERS),
        since=_moment(values, "since"),
        until=_moment(values, "until"),
        is_urgent=values.get("urgent", "") == "yes",
        is_held=values.get("held", "") == "yes",
    )


def _text(values: Mapping[str, str], name: str, characters: int) -> str:
    word = values.get(name, "").replace("\0", "").strip()
    if len(word) > characters:
        raise ValueError(f"{name} has at most {characters} characters")
    return word


def _moment(values: Mapping[str, str], name: str) -> dt.datetime | None:
    word = values.get(name, "").strip()
    if not word:
        return None
    try:
        return dt.datetime.fromisoformat(word).astimezone(dt.UTC)
    except (ValueError, OverflowError, OSError) as exc:  # years that no clock of ours knows
        raise ValueError(f"{name} is no moment like 2026-03-01T09:30") from exc
