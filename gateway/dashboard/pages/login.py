"""Login, logout, change of the password."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.dashboard.access import Form, LoginForm
from gateway.dashboard.identity import auth
from gateway.dashboard.site import Use, page
from gateway.errors import PasswordRefused
from gateway.store.people.accounts import MIN_PASSWORD_CHARACTERS

INITIAL_PASSWORD_FILE = "initial-password.txt"

router = APIRouter(include_in_schema=False)


def _login_page(
    request: Request,
    address: str,
    message: str = "",
    status_code: int = 200,
    *,
    has_ended: bool = False,
) -> HTMLResponse:
    request.state.login_token = secrets.token_urlsafe(32)
    values = {
        "csrf_token": request.state.login_token,
        "next": address,
        "message": message,
        "has_ended": has_ended,
    }
    answer = page(request, "login.html", values, status_code)
    auth.set_login_cookie(request, answer)
    return answer


@router.get("/login")
def show_login(
    request: Request,
    address: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    ended: Annotated[str, Query(max_length=10)] = "",
) -> HTMLResponse:
    """Show the login form."""
    return _login_page(request, auth.local_address(address), has_ended=ended == "yes")


@router.post("/login")
def log_in(request: Request, use: Use, form: LoginForm) -> Response:
    """Open a session."""
    address = auth.local_address(str(form.get("next", "/")))
    opened = use.accounts.log_in(
        str(form.get("username", "")).strip(),
        str(form.get("password", "")),
        hours=use.settings.session_hours,
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
