"""The list of studies."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.site import Use, page
from gateway.store import states
from gateway.store.status import StateCount
from gateway.store.study_filter import StudyFilter

PAGE_SIZE = 50
# A study that waits longer than this in a state that is not final wants to be looked at.
LATE_AFTER_S = 15 * 60.0

_MAX_ID = 2**31 - 1
_UNDER_WAY = tuple(state for state in states.STUDY_STATES if state not in states.FINAL_STATES)
router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])

UidPart = Annotated[str, Query(max_length=64)]
BeforeId = Annotated[int | None, Query(ge=1, le=_MAX_ID)]


@router.get("/")
def start() -> Response:
    """Go to the list of studies."""
    return RedirectResponse("/studies", 303)


def study_filter(state: str, uid: str, before: int | None, limit: int) -> StudyFilter:
    """Return the filter that an address asks for; 404 for a state that does not exist."""
    if state and state not in states.STUDY_STATES:
        raise HTTPException(404, "There is no such state.")
    return StudyFilter(
        state=state,
        # What cannot be in a UID is noise of a copy, e.g. blanks and quotes.
        uid_part=re.sub(r"[^0-9.]", "", uid),
        before_id=before,
        limit=limit,
    )


@router.get("/studies")
def show_studies(
    request: Request, use: Use, state: str = "", uid: UidPart = "", before: BeforeId = None
) -> HTMLResponse:
    """Show the states with their oldest studies, and one page of studies."""
    wanted = study_filter(state, uid, before, PAGE_SIZE + 1)
    mark = use.history.marks([])[None]  # before the reads, so that no change is missed
    counts = use.status.counts()
    found = use.status.studies(wanted)
    shown = found[:PAGE_SIZE]
    return page(
        request,
        "studies.html",
        {
            "mark": mark,
            "chips": [_chip(count, state, wanted.uid_part) for count in counts],
            "total": sum(count.count for count in counts),
            "all_address": _list_address("", wanted.uid_part),
            "studies": shown,
            "state": state,
            "uid": wanted.uid_part,
            "before": before,
            "first_address": _list_address(state, wanted.uid_part),
            "older_address": (
                _list_address(state, wanted.uid_part, shown[-1].id)
                if len(found) > PAGE_SIZE
                else ""
            ),
        },
    )


def _chip(count: StateCount, chosen: str, uid: str) -> dict[str, Any]:
    waited_s = (
        (dt.datetime.now(dt.UTC) - count.oldest_at).total_seconds() if count.oldest_at else 0.0
    )
    return {
        "state": count.state,
        "count": count.count,
        "oldest_at": count.oldest_at if count.state != states.COMPLETED else None,
        "is_late": count.state in _UNDER_WAY and waited_s > LATE_AFTER_S,
        "is_chosen": count.state == chosen,
        # A second click takes the choice back.
        "address": _list_address("" if count.state == chosen else count.state, uid),
    }


def _list_address(state: str, uid: str, before: int | None = None) -> str:
    values = {"state": state, "uid": uid, "before": before}
    query = urlencode({name: value for name, value in values.items() if value})
    return f"/studies?{query}" if query else "/studies"
