"""Login by the OpenID provider: there, and back."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from gateway.dashboard.identity import auth
from gateway.dashboard.identity.openid import OpenidLogin
from gateway.dashboard.site import Use, page
from gateway.errors import AccountRefused, LoginRefused
from gateway.store.people.account_desk import AccountDesk

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)


def _login(request: Request) -> OpenidLogin:
    found = request.app.state.openid
    assert isinstance(found, OpenidLogin)
    return found


@router.get("/login/openid")
def leave(
    request: Request, address: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Send the browser to the provider."""
    login = _login(request)
    if not login.is_on:
        return _refused(request, "No OpenID provider is set here.", 404)
    try:
        url, state = login.begin(auth.local_address(address))
    except LoginRefused as exc:
        log.warning("no login: %s", exc, extra={"action": "login.openid_unavailable"})
        return _refused(request, f"Not now: {exc}.", 503)
    answer = RedirectResponse(url, 303)
    answer.set_cookie(
        _cookie(request),
        state,
        max_age=600,
        path="/login/openid",
        httponly=True,
        # The provider sends the browser back from another site: a strict cookie would stay away.
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get("/login/openid/back")
def come_back(request: Request, use: Use) -> Response:
    """Open a session for whom the provider vouches for."""
    login = _login(request)
    if not login.is_on:
        return _refused(request, "No OpenID provider is set here.", 404)
    peer = request.client.host if request.client else ""
    state = auth.cookie_of(request.headers, _cookie(request))
    try:
        person = login.finish(request.query_params, state)
        opened = AccountDesk(use.engine, use.accounts).log_in_external(
            issuer=person.issuer,
            subject=person.subject,
            username=person.username,
            role=person.role,
            hours=use.settings.session_hours,
            peer=peer,
        )
    except (LoginRefused, AccountRefused) as exc:
        use.accounts.audit("", "login.failed", peer=peer, cause="openid", reason=str(exc))
        return _refused(request, f"Not logged in: {exc}.", 403)
    # A redirect would still count as coming from the provider, and the session's cookie is strict.
    answer = page(request, "openid.html", {"address": auth.local_address(person.address)})
    auth.set_session_cookie(request, answer, opened)
    answer.delete_cookie(_cookie(request), path="/login/openid")
    return answer


def _cookie(request: Request) -> str:
    return f"{request.app.state.cookie}_openid"


def _refused(request: Request, message: str, status_code: int) -> Response:
    return page(request, "error.html", {"message": message, "code": status_code}, status_code)
