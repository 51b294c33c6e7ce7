"""The pages and their JSON twins: reads the record, fills templates, decides nothing."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from gateway.dashboard import auth
from gateway.dashboard.live import LiveFeed
from gateway.dashboard.preview import PICTURE_ROLES, PreviewError, preview_png
from gateway.errors import PasswordRefused
from gateway.store import states
from gateway.store.accounts import MIN_PASSWORD_CHARACTERS, Accounts
from gateway.store.history import MAX_EVENTS, HistoryReader
from gateway.store.status import StateCount, StatusReader, StudyFilter, StudyStatus
from gateway.wording import delivery_answer

PAGE_SIZE = 50
INITIAL_PASSWORD_FILE = "initial-password.txt"
# A study that waits longer than this in a state that is not final wants to be looked at.
LATE_AFTER_S = 15 * 60.0

_MAX_ID = 2**31 - 1
_UNDER_WAY = tuple(state for state in states.STUDY_STATES if state not in states.FINAL_STATES)
# The short form of the answer to "did the PACS get it?".
_ARRIVALS = {
    "yes": "✓ yes",
    "folder": "folder only",
    "partly": "⚠ partly",
    "no": "✕ no",
    "pending": "not yet",
}

router = APIRouter()

UidPart = Annotated[str, Query(max_length=64)]
BeforeId = Annotated[int | None, Query(ge=1, le=_MAX_ID)]
Form = Annotated[FormData, Depends(auth.checked_form)]
LoginForm = Annotated[FormData, Depends(auth.checked_login_form)]


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the views work with."""

    accounts: Accounts
    status: StatusReader
    history: HistoryReader
    feed: LiveFeed
    templates: Jinja2Templates
    home: Path
    results_folder: Path
    session_hours: float


def services(request: Request) -> Services:
    """Return the services of the running application."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Use = Annotated[Services, Depends(services)]


def page(
    request: Request, name: str, values: dict[str, Any], status_code: int = 200
) -> HTMLResponse:
    """Fill a template."""
    shared = {"session": request.state.session, "now": dt.datetime.now(dt.UTC)}
    return services(request).templates.TemplateResponse(
        request, name, {**shared, **values}, status_code=status_code
    )


# -- login ------------------------------------------------------------------------------------


def _login_page(
    request: Request, address: str, message: str = "", status_code: int = 200
) -> HTMLResponse:
    request.state.login_token = secrets.token_urlsafe(32)
    values = {"csrf_token": request.state.login_token, "next": address, "message": message}
    answer = page(request, "login.html", values, status_code)
    auth.set_login_cookie(request, answer)
    return answer


@router.get("/login")
def show_login(
    request: Request, address: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> HTMLResponse:
    """Show the login form."""
    return _login_page(request, auth.local_address(address))


@router.post("/login")
def log_in(request: Request, use: Use, form: LoginForm) -> Response:
    """Open a session."""
    address = auth.local_address(str(form.get("next", "/")))
    opened = use.accounts.log_in(
        str(form.get("username", "")).strip(),
        str(form.get("password", "")),
        hours=use.session_hours,
        peer=request.client.host if request.client else "",
    )
    if opened is None:
        message = (
            "Name and password do not match, or the account is locked for some minutes "
            "after too many failures."
        )
        return _login_page(request, address, message, 401)
    answer = RedirectResponse("/password" if opened.must_change_password else address, 303)
    auth.set_session_cookie(request, answer, opened)
    return answer


@router.post("/logout")
def log_out(request: Request, use: Use, _form: Form) -> Response:
    """End the session."""
    use.accounts.log_out(auth.session_of(request))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(request.app.state.cookie)
    return answer


@router.get("/password")
def show_password(request: Request) -> HTMLResponse:
    """Show the form that changes the password."""
    return page(request, "password.html", {"characters": MIN_PASSWORD_CHARACTERS})


@router.post("/password")
def change_password(request: Request, use: Use, form: Form) -> Response:
    """Change the password; the file of the one-time password goes with it."""
    session = auth.session_of(request)
    new = str(form.get("new", ""))
    try:
        if new != str(form.get("again", "")):
            raise PasswordRefused("the two new passwords differ")
        use.accounts.change_password(session, str(form.get("old", "")), new)
    except PasswordRefused as exc:
        values = {"characters": MIN_PASSWORD_CHARACTERS, "message": f"Not changed: {exc}."}
        return page(request, "password.html", values, 422)
    if session.must_change_password:
        (use.home / INITIAL_PASSWORD_FILE).unlink(missing_ok=True)
    return RedirectResponse("/", 303)


# -- studies ----------------------------------------------------------------------------------


@router.get("/")
def start() -> Response:
    """Go to the list of studies."""
    return RedirectResponse("/studies", 303)


def _wanted(state: str, uid: str, before: int | None, limit: int) -> StudyFilter:
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
    wanted = _wanted(state, uid, before, PAGE_SIZE + 1)
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
            "arrivals": _ARRIVALS,
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


def _study(use: Services, uid: str) -> StudyStatus:
    study = use.status.study(uid)
    if study is None:
        raise HTTPException(404, "No study with this UID is known.")
    return study


@router.get("/studies/{uid}")
def show_study(request: Request, use: Use, uid: str) -> HTMLResponse:
    """Show one study."""
    study_id = _study(use, uid).id
    mark = use.history.marks([study_id]).get(study_id, "")
    study = _study(use, uid)
    history = use.history.history(study_id)
    return page(
        request,
        "study.html",
        {
            "mark": mark,
            "study": study,
            "answer": delivery_answer(study),
            "history": history,
            "is_cut": len(history.events) == MAX_EVENTS,
            "picture_roles": PICTURE_ROLES,
        },
    )


@router.get("/studies/{uid}/objects/{sop_instance_uid}/preview.png")
def show_preview(request: Request, use: Use, uid: str, sop_instance_uid: str) -> Response:
    """Show the picture of an overview object."""
    found = use.history.result_object(uid, sop_instance_uid)
    if found is None or not found.role.startswith(PICTURE_ROLES):
        raise HTTPException(404, "There is no such picture.")
    tag = f'"{found.sha256}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        content = preview_png(use.results_folder, found.path)
    except PreviewError as exc:
        raise HTTPException(404, str(exc)) from exc
    return Response(content, media_type="image/png", headers=headers)


# -- JSON -------------------------------------------------------------------------------------


@router.get("/api/studies")
def list_studies(
    use: Use,
    state: str = "",
    uid: UidPart = "",
    before: BeforeId = None,
    limit: Annotated[int, Query(ge=1, le=500)] = PAGE_SIZE,
) -> Response:
    """Return one page of studies as ``lentigo status --json`` does; ``Link`` names the next."""
    found = use.status.studies(_wanted(state, uid, before, limit + 1))
    headers = {}
    if len(found) > limit:
        values = {"state": state, "uid": uid, "limit": limit, "before": found[limit - 1].id}
        query = urlencode({name: value for name, value in values.items() if value})
        headers["link"] = f'</api/studies?{query}>; rel="next"'  # RFC 8288
    return JSONResponse([study.as_json() for study in found[:limit]], headers=headers)


@router.get("/api/studies/{uid}")
def get_study(use: Use, uid: str) -> Response:
    """Return one study as ``lentigo status --json`` does."""
    return JSONResponse(_study(use, uid).as_json())


@router.get("/api/mark")
def get_mark(use: Use, study: UidPart = "") -> Response:
    """Return the mark of the record, or of one study, for pages without an event stream."""
    study_id = _study(use, study).id if study else None
    marks = use.history.marks([study_id] if study_id is not None else [])
    return JSONResponse({"mark": marks.get(study_id, "")})


@router.get("/live")
async def live(request: Request, use: Use, study: UidPart = "") -> Response:
    """Stream the mark of the record, or of one study, whenever it changes."""
    study_id = (await run_in_threadpool(_study, use, study)).id if study else None
    token = auth.cookie_of(request.headers, request.app.state.cookie)

    def is_welcome() -> bool:
        return use.accounts.session(token) is not None

    stream: AsyncIterator[str] = use.feed.stream(study_id, is_welcome)
    return StreamingResponse(
        stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


@router.get("/healthz")
def health(use: Use) -> Response:
    """Answer 200 while the record answers."""
    use.history.marks([])
    return JSONResponse({"status": "ok"})
