"""Who may do what on the admin page and in its REST interface.

Every route names the least role that may use it: ``dependencies=[require(OPERATOR)]``, or on the
router for all of its routes. The gate has found out before who is there.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import FormData

from gateway.dashboard import auth

VIEWER = "viewer"
OPERATOR = "operator"
REVIEWER = "reviewer"
ADMIN = "admin"

_MAY = {
    VIEWER: frozenset({VIEWER, OPERATOR, REVIEWER, ADMIN}),
    OPERATOR: frozenset({OPERATOR, ADMIN}),
    REVIEWER: frozenset({REVIEWER, ADMIN}),
    ADMIN: frozenset({ADMIN}),
}


def may(request: Request, role: str) -> bool:
    """Whether who is logged in may do what this role may do."""
    return auth.session_of(request).role in _MAY[role]


def require(role: str) -> Any:
    """Return the dependency that answers 403 to whoever may not do what this role may do."""

    def check(request: Request) -> None:
        if not may(request, role):
            raise HTTPException(403, f"This needs the role {role}.")

    check.role = role  # type: ignore[attr-defined]  # read by the test that walks over all routes
    return Depends(check)


def actor_of(request: Request) -> str:
    """Return the account, for the timeline and the audit trail."""
    return auth.session_of(request).username


def checked_call(request: Request) -> None:
    """Check a REST call that changes something and comes with a session's cookie.

    A page of another site can make a browser send the cookie, but not this header.
    """
    expected = auth.session_of(request).csrf_token
    given = request.headers.get("x-csrf-token", "")
    if expected and not secrets.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(403, "The header X-CSRF-Token is missing or has run out.")


CheckedCall = Depends(checked_call)
Form = Annotated[FormData, Depends(auth.checked_form)]
LoginForm = Annotated[FormData, Depends(auth.checked_login_form)]
