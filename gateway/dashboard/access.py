"""Who may do what on the admin page and in its REST interface.

Every route names what it takes: ``dependencies=[require(OPERATOR)]`` or a permission of
``gateway.roles``, or its router does for all of its routes. Which role has what stands there, and
nowhere else. The gate has found out before who is there.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import FormData

from gateway.dashboard.identity import auth
from gateway.roles import ADMIN, OPERATOR, REVIEWER, ROLES, VIEWER, Permission

__all__ = [
    "ADMIN",
    "OPERATOR",
    "OWN",
    "REVIEWER",
    "VIEWER",
    "CheckedCall",
    "Form",
    "LoginForm",
    "Permission",
    "actor_of",
    "may",
    "require",
]

OWN = Permission.OWN

# A route may name the least role instead of a permission of ``gateway.roles``.
_PERMISSIONS = {
    VIEWER: Permission.VIEW,
    OPERATOR: Permission.OPERATE,
    REVIEWER: Permission.REVIEW,
    ADMIN: Permission.ADMINISTER,
}


def may(request: Request, wanted: str) -> bool:
    """Whether who is logged in may do what this permission, or the least role, says."""
    permission = _PERMISSIONS.get(wanted) or Permission(wanted)
    return auth.session_of(request).may(permission)


def require(wanted: str) -> Any:
    """Return the dependency that answers 403 to whoever lacks a permission.

    Parameters
    ----------
    wanted
        A permission of ``gateway.roles``, or the least role that has it.
    """
    permission = _PERMISSIONS.get(wanted) or Permission(wanted)

    def check(request: Request) -> None:
        session = auth.session_of(request)
        if not session.may(permission):
            roles = ", ".join(role for role, granted in ROLES.items() if permission in granted)
            raise HTTPException(403, f"This needs one of the roles {roles}.")

    check.permission = permission  # type: ignore[attr-defined]  # for the walk over all routes
    return Depends(check)


def actor_of(request: Request) -> str:
    """Return the account, for the timeline and the audit trail."""
    return auth.session_of(request).username


def checked_call(request: Request) -> None:
    """Check a REST call that changes something and comes with a session's cookie.

    A page of another site can make a browser send the cookie, but not this header.
    """
    session = auth.session_of(request)
    expected, given = session.csrf_token, request.headers.get("x-csrf-token", "")
    # A request with an API token has no cookie that could be misused.
    if not session.token_role and not secrets.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(403, "The header X-CSRF-Token is missing or has run out.")


CheckedCall = Depends(checked_call)
Form = Annotated[FormData, Depends(auth.checked_form)]
LoginForm = Annotated[FormData, Depends(auth.checked_login_form)]
