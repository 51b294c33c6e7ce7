"""The list of studies: filters in the address, saved views, orders about many."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.dashboard.access import OWN, VIEWER, Form, actor_of, require
from gateway.dashboard.site import Use, page
from gateway.dashboard.study_query import MAX_ID, PAGE_SIZE, BeforeId, checked_filter
from gateway.store import states
from gateway.store.people.views import SavedViews
from gateway.store.reading.status import StateCount
from gateway.store.reading.study_filter import DELIVERED, StudyFilter, filter_of

# A study that waits longer than this in a state that is not final wants to be looked at.
LATE_AFTER_S = 15 * 60.0

_UNDER_WAY = tuple(state for state in states.STUDY_STATES if state not in states.FINAL_STATES)

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


@router.get("/studies")
def show_studies(
    request: Request, use: Use, before: BeforeId = None, said: str = ""
) -> HTMLResponse:
    """Show the states with their oldest studies, and one page of studies."""
    wanted = checked_filter(request.query_params, before=before, limit=PAGE_SIZE + 1)
    mark = use.history.marks([])[None]  # before the reads, so that no change is missed
    counts = use.status.counts()
    found = use.status.studies(wanted)
    shown = found[:PAGE_SIZE]
    query = wanted.as_query(before_id=None)
    return page(
        request,
        "studies.html",
        {
            "mark": mark,
            "chips": [_chip(count, wanted) for count in counts],
            "total": sum(count.count for count in counts),
            "all_address": _address(wanted, state=""),
            "studies": shown,
            "wanted": wanted,
            "words": dict(_pairs(query)),
            "is_filtered": bool(query),
            "more_filters": bool(wanted.as_query(before_id=None, state="")),
            "delivered_choices": DELIVERED,
            "states": states.STUDY_STATES,
            "before": before,
            "query": query,
            "views": SavedViews(use.engine).of(actor_of(request)),
            "said": said,
            "first_address": _address(wanted),
            "older_address": (
                _address(wanted, before_id=shown[-1].id) if len(found) > PAGE_SIZE else ""
            ),
        },
    )


@router.post("/studies/views", dependencies=[require(OWN)])
def save_view(request: Request, use: Use, form: Form) -> Response:
    """Keep the present filter under a name."""
    values = dict(_pairs(str(form.get("query", ""))))
    try:
        wanted = filter_of(values)
    except ValueError as exc:
        raise HTTPException(422, f"Not kept: {exc}.") from exc
    SavedViews(use.engine).save(actor_of(request), str(form.get("name", "")), wanted)
    return RedirectResponse(_address(wanted), 303)


@router.post("/studies/views/{view_id}/forget", dependencies=[require(OWN)])
def forget_view(request: Request, use: Use, view_id: int, form: Form) -> Response:
    """Delete a view of one's own."""
    if not 0 < view_id <= MAX_ID or not SavedViews(use.engine).forget(actor_of(request), view_id):
        raise HTTPException(404, "There is no such view.")
    return RedirectResponse("/studies", 303)


def _chip(count: StateCount, wanted: StudyFilter) -> dict[str, Any]:
    waited_s = (
        (dt.datetime.now(dt.UTC) - count.oldest_at).total_seconds() if count.oldest_at else 0.0
    )
    is_chosen = count.state == wanted.state
    return {
        "state": count.state,
        "count": count.count,
        "oldest_at": count.oldest_at if count.state != states.COMPLETED else None,
        "is_late": count.state in _UNDER_WAY and waited_s > LATE_AFTER_S,
        "is_chosen": is_chosen,
        # A second click takes the choice back.
        "address": _address(wanted, state="" if is_chosen else count.state),
    }


def _address(wanted: StudyFilter, **changes: Any) -> str:
    query = wanted.as_query(**{"before_id": None, **changes})
    return f"/studies?{query}" if query else "/studies"


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query[:4000])
