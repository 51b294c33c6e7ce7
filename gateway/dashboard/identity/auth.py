"""Who may see the admin page: the gate in front of every route, the login, forged requests.

The gate is closed by default: what is not listed in ``PUBLIC`` needs a session, whatever routes are
added later.
"""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import quote, urlsplit

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dashboard.identity import basic
from gateway.dicomweb import door as dicomweb
from gateway.errors import RecordUnavailable
from gateway.store.people.accounts import Accounts, Caller, NewSession, Session
from gateway.store.people.tokens import Tokens

PUBLIC = frozenset({"/healthz", "/metrics", "/login", "/login/openid", "/login/openid/back"})
PUBLIC_FOLDER = "/static/"
# What a session may do before its one-time password is changed.
_BEFORE_CHANGE = frozenset({"/password", "/logout"})
_MAX_BODY_BYTES = 16 * 1024
_OUTAGE = Path(__file__).parents[1] / "templates" / "outage.html"
# A text of routing rules, and the opinions on the lesions of a whole body.
_LARGE_BODIES = {"/rules": 1024 * 1024, "/reviews": 512 * 1024}

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Study UIDs are part of addresses.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""On every answer: no inline script or style, nothing from elsewhere, no frames."""


class Gate:
    """ASGI middleware: lets a request through when it is public or has a session."""

    def __init__(
        self, app: ASGIApp, accounts: Accounts, tokens: Tokens, cookie: str, door: dicomweb.Door
    ) -> None:
        self._app = app
        self._door = door
        self._tokens = tokens
        self._accounts = accounts
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                is_static = scope["path"].startswith(PUBLIC_FOLDER)
                headers.setdefault("cache-control", "no-cache" if is_static else "no-store")
            await send(message)

        refusal = await self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that may not pass; None lets it pass."""
        headers, path = Headers(scope=scope), scope["path"]
        if path.startswith(dicomweb.PREFIX + "/"):  # bodies of any length, no sessions
            scope.setdefault("state", {})["session"] = None
            return await run_in_threadpool(self._door.refusal, scope, headers)
        is_upload = basic.is_upload(scope)
        max_bytes = basic.MAX_BODY_BYTES if is_upload else _max_body(path)
        if (refusal := _unfit(scope["method"], headers, max_bytes)) is not None:
            return refusal
        scope.setdefault("state", {})["session"] = None
        if is_upload:
            return await run_in_threadpool(
                basic.refusal, scope, headers, self._accounts, self._tokens
            )
        if path in PUBLIC or path.startswith(PUBLIC_FOLDER):
            return None
        try:
            session = await run_in_threadpool(self._who, scope, headers)
        except RecordUnavailable:
            return _outage(scope)
        if isinstance(session, Response):
            return session
        return _unwelcome(scope, session, has_ended=bool(cookie_of(headers, self._cookie)))

    def _who(self, scope: Scope, headers: Headers) -> Session | Response | None:
        """Return who asks: a program by its API token, below /api/ alone, or a login."""
        is_call = scope["path"].startswith("/api/")
        if is_call and basic.bearer_of(headers.get("authorization", "")) is not None:
            found = basic.caller_of(scope, headers, self._accounts, self._tokens)
            return _session_of_token(found) if isinstance(found, Caller) else found
        token = cookie_of(headers, self._cookie)
        return self._accounts.session(token) if token else None


def _unwelcome(scope: Scope, session: Session | None, *, has_ended: bool) -> Response | None:
    """Return the answer to who has no session, or a one-time password; None lets pass.

    Parameters
    ----------
    has_ended
        Whether the browser had a session once: its cookie came.
    """
    path = scope["path"]
    wants_json = path.startswith("/api/") or path == "/live"
    if session is None:
        if wants_json:
            return JSONResponse({"detail": "log in first"}, 401)
        return RedirectResponse(_login_address(scope, has_ended=has_ended), 303)
    if session.must_change_password and path not in _BEFORE_CHANGE:
        if wants_json:
            return JSONResponse({"detail": "change the one-time password first"}, 403)
        return RedirectResponse("/password", 303)
    scope["state"]["session"] = session
    return None


def _session_of_token(caller: Caller) -> Session:
    """Return what stands for a login in a request with an API token: it has no CSRF token."""
    assert caller.expires_at is not None
    return Session(
        account_id=caller.account_id,
        username=caller.username,
        role=caller.role,
        must_change_password=caller.must_change_password,
        csrf_token="",
        expires_at=caller.expires_at,
        token_sha256="",
        token_role=caller.token_role,
    )


def _max_body(path: str) -> int:
    place = path.removeprefix("/api")
    return next(
        (size for start, size in _LARGE_BODIES.items() if place.startswith(start)),
        _MAX_BODY_BYTES,
    )


def cookie_of(headers: Headers, name: str) -> str:
    """Return the value of a cookie; '' when it is missing or the header cannot be read."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _unfit(method: str, headers: Headers, max_bytes: int) -> Response | None:
    """Refuse bodies that no form of ours has, and requests that come from another site."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return None
    length = headers.get("content-length", "")
    if not length.isdigit():
        return PlainTextResponse("Content-Length is needed.", 411)
    if int(length) > max_bytes:
        return PlainTextResponse("The request is too large.", 413)
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
        return PlainTextResponse("The request comes from another site.", 403)
    return None


def _outage(scope: Scope) -> Response:
    """Say that the record does not answer: without it nobody knows who asks."""
    if scope["path"].startswith("/api/") or scope["path"] == "/live":
        return JSONResponse({"detail": "the record does not answer; try again"}, 503)
    return HTMLResponse(_OUTAGE.read_text(encoding="utf-8"), 503)


def _login_address(scope: Scope, *, has_ended: bool) -> str:
    said = "ended=yes" if has_ended else ""
    if scope["method"] != "GET" or scope["path"] == "/":
        return f"/login?{said}" if said else "/login"
    query = scope.get("query_string", b"").decode("latin-1")
    wanted = scope["path"] + (f"?{query}" if query else "")
    return f"/login?next={quote(wanted, safe='/')}" + (f"&{said}" if said else "")


def local_address(address: str) -> str:
    """Return an address of this site to go on to; the start page in the place of any other.

    Examples
    --------
    >>> local_address("/studies?state=failed"), local_address("//evil.example/")
    ('/studies?state=failed', '/')
    """
    is_local = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_local and address.isprintable() and "\\" not in address else "/"


def session_of(request: Request) -> Session:
    """Return the session that the gate found."""
    session = request.state.session
    assert isinstance(session, Session)
    return session


async def checked_form(request: Request) -> FormData:
    """Return the form of a logged-in request after checking its CSRF token."""
    form = await request.form()
    _compare(str(form.get("csrf_token", "")), session_of(request).csrf_token)
    return form


async def checked_login_form(request: Request) -> FormData:
    """Return the login form; its token must be that of the cookie set with the form."""
    form = await request.form()
    cookie = cookie_of(request.headers, f"{request.app.state.cookie}_login")
    _compare(str(form.get("csrf_token", "")), cookie)
    return form


def _compare(given: str, expected: str) -> None:
    if not expected or not secrets.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(403, "The form has run out; load the page again.")


def set_login_cookie(request: Request, response: Response) -> None:
    """Send the cookie whose value the login form must repeat."""
    response.set_cookie(
        f"{request.app.state.cookie}_login",
        request.state.login_token,
        path="/login",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def set_session_cookie(request: Request, response: Response, session: NewSession) -> None:
    """Send the session's token, to this site only and out of the reach of scripts."""
    response.set_cookie(
        request.app.state.cookie,
        session.token,
        expires=session.expires_at,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
