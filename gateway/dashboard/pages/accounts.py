"""Accounts and API tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import Form, Permission, actor_of, may, require
from gateway.dashboard.identity.auth import session_of
from gateway.dashboard.site import RowId, Services, Use, page
from gateway.errors import AccountRefused
from gateway.roles import ROLES, SUMMARIES, is_within
from gateway.store.people.account_desk import AccountDesk
from gateway.store.people.tokens import MAX_DAYS, Tokens

router = APIRouter(include_in_schema=False, dependencies=[require(Permission.ADMINISTER)])
own = APIRouter(include_in_schema=False, dependencies=[require(Permission.OWN)])


def desk_of(use: Services) -> AccountDesk:
    """Return what changes accounts."""
    return AccountDesk(use.engine, use.accounts)


def _accounts(
    request: Request,
    use: Services,
    *,
    message: str = "",
    created: str = "",
    password: str = "",
    status_code: int = 200,
) -> HTMLResponse:
    values = {
        "accounts": desk_of(use).all(),
        "roles": ROLES,
        "permissions": list(Permission),
        "summaries": SUMMARIES,
        "message": message,
        "is_bad": status_code >= 400,
        "created": created,
        "password": password,
    }
    return page(request, "accounts.html", values, status_code)


@router.get("/accounts")
def show_accounts(request: Request, use: Use) -> HTMLResponse:
    """Show every account and what the roles may do."""
    return _accounts(request, use)


@router.post("/accounts")
def create_account(request: Request, use: Use, form: Form) -> HTMLResponse:
    """Make an account; its one-time password is shown once."""
    name = str(form.get("username", "")).strip()
    try:
        password = desk_of(use).create(name, str(form.get("role", "")), actor=actor_of(request))
    except AccountRefused as exc:
        return _accounts(request, use, message=f"Not made: {exc}.", status_code=422)
    return _accounts(request, use, created=name, password=password)


@router.post("/accounts/{number}/role")
def set_role(request: Request, use: Use, number: RowId, form: Form) -> HTMLResponse:
    """Give an account another role."""
    try:
        desk_of(use).set_role(number, str(form.get("role", "")), actor=actor_of(request))
    except AccountRefused as exc:
        return _accounts(request, use, message=f"Not changed: {exc}.", status_code=422)
    return _accounts(request, use, message="The role counts from now on.")


@router.post("/accounts/{number}/disable")
def disable(request: Request, use: Use, number: RowId, _form: Form) -> HTMLResponse:
    """Let nobody in with an account; its logins and tokens end."""
    return _set_disabled(request, use, number, is_disabled=True)


@router.post("/accounts/{number}/enable")
def enable(request: Request, use: Use, number: RowId, _form: Form) -> HTMLResponse:
    """Let an account in again; its tokens stay revoked."""
    return _set_disabled(request, use, number, is_disabled=False)


def _set_disabled(
    request: Request, use: Services, number: int, *, is_disabled: bool
) -> HTMLResponse:
    try:
        desk_of(use).set_disabled(number, is_disabled, actor=actor_of(request))
    except AccountRefused as exc:
        return _accounts(request, use, message=f"Not changed: {exc}.", status_code=422)
    return _accounts(request, use, message="Disabled." if is_disabled else "Enabled.")


@router.post("/accounts/{number}/reset")
def reset_password(request: Request, use: Use, number: RowId, _form: Form) -> HTMLResponse:
    """Give an account a new one-time password, shown once."""
    desk = desk_of(use)
    try:
        password = desk.reset_password(number, actor=actor_of(request))
    except AccountRefused as exc:
        return _accounts(request, use, message=f"Not changed: {exc}.", status_code=422)
    name = next(each.username for each in desk.all() if each.id == number)
    return _accounts(request, use, created=name, password=password)


# -- tokens -----------------------------------------------------------------------------------


def visible_owner(request: Request) -> str:
    """Return whose tokens somebody may see and revoke: '' for everybody's."""
    return "" if may(request, Permission.ADMINISTER) else actor_of(request)


def _tokens(
    request: Request,
    use: Services,
    *,
    message: str = "",
    issued: str = "",
    status_code: int = 200,
) -> HTMLResponse:
    role = session_of(request).role
    values = {
        "tokens": Tokens(use.engine).all(visible_owner(request)),
        "roles": [each for each in ROLES if is_within(each, role)],
        "max_days": MAX_DAYS,
        "message": message,
        "is_bad": status_code >= 400,
        "issued": issued,
    }
    return page(request, "tokens.html", values, status_code)


@own.get("/tokens")
def show_tokens(request: Request, use: Use) -> HTMLResponse:
    """Show one's own tokens; an administrator sees all."""
    return _tokens(request, use)


@own.post("/tokens")
def issue_token(request: Request, use: Use, form: Form) -> HTMLResponse:
    """Issue a token of one's own account, shown once."""
    days = str(form.get("days", ""))
    try:
        if not days.isascii() or not days.isdigit() or len(days) > len(str(MAX_DAYS)):
            raise AccountRefused(f"a token lasts 1 to {MAX_DAYS} days")
        issued = Tokens(use.engine).issue(
            actor_of(request),
            name=str(form.get("name", "")),
            role=str(form.get("role", "")),
            days=int(days),
            actor=actor_of(request),
        )
    except AccountRefused as exc:
        return _tokens(request, use, message=f"Not issued: {exc}.", status_code=422)
    return _tokens(request, use, issued=issued)


@own.post("/tokens/{number}/revoke")
def revoke_token(request: Request, use: Use, number: RowId, _form: Form) -> HTMLResponse:
    """End a token at once."""
    try:
        Tokens(use.engine).revoke(number, actor=actor_of(request), owner=visible_owner(request))
    except AccountRefused as exc:
        return _tokens(request, use, message=f"Not revoked: {exc}.", status_code=404)
    return _tokens(request, use, message="Revoked.")
