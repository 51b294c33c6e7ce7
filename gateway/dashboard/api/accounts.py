"""Accounts and API tokens over REST."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import CheckedCall, Permission, actor_of, require
from gateway.dashboard.identity.auth import session_of
from gateway.dashboard.pages.accounts import desk_of, visible_owner
from gateway.dashboard.site import RowId, Use
from gateway.errors import AccountRefused
from gateway.store.people.tokens import MAX_DAYS, Tokens

router = APIRouter(
    prefix="/api/accounts", tags=["accounts"], dependencies=[require(Permission.ADMINISTER)]
)
own = APIRouter(prefix="/api/tokens", tags=["accounts"], dependencies=[require(Permission.OWN)])

Role = Literal["viewer", "operator", "reviewer", "admin"]


class NewAccount(BaseModel):
    """An account to make."""

    model_config = ConfigDict(extra="forbid")

    username: str = Field(min_length=1, max_length=64)
    """Letters, digits, dots, hyphens, underscores and @."""
    role: Role
    """What it may do."""


class RoleChange(BaseModel):
    """Another role for an account."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    """What it may do from now on."""


class NewToken(BaseModel):
    """An API token to issue to one's own account."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    """What it is for."""
    role: Role
    """It may do what both this role and the account's may."""
    days: int = Field(default=90, ge=1, le=MAX_DAYS)
    """Until it expires."""


@router.get("")
def list_accounts(use: Use) -> Any:
    """Return every account."""
    return jsonable_encoder([asdict(each) for each in desk_of(use).all()])


@router.post("", status_code=201, dependencies=[CheckedCall])
def create_account(request: Request, use: Use, wanted: NewAccount) -> dict[str, str]:
    """Make an account; the answer holds its one-time password, once."""
    try:
        password = desk_of(use).create(wanted.username, wanted.role, actor=actor_of(request))
    except AccountRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"username": wanted.username, "one_time_password": password}


@router.post("/{number}/role", dependencies=[CheckedCall])
def set_role(request: Request, use: Use, number: RowId, wanted: RoleChange) -> dict[str, str]:
    """Give an account another role."""
    try:
        desk_of(use).set_role(number, wanted.role, actor=actor_of(request))
    except AccountRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"role": wanted.role}


@router.post("/{number}/disable", dependencies=[CheckedCall])
def disable(request: Request, use: Use, number: RowId) -> dict[str, str]:
    """Let nobody in with an account; its logins and tokens end."""
    return _set_disabled(request, use, number, is_disabled=True)


@router.post("/{number}/enable", dependencies=[CheckedCall])
def enable(request: Request, use: Use, number: RowId) -> dict[str, str]:
    """Let an account in again; its tokens stay revoked."""
    return _set_disabled(request, use, number, is_disabled=False)


def _set_disabled(request: Request, use: Use, number: int, *, is_disabled: bool) -> dict[str, str]:
    try:
        desk_of(use).set_disabled(number, is_disabled, actor=actor_of(request))
    except AccountRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"state": "disabled" if is_disabled else "enabled"}


@router.post("/{number}/reset", dependencies=[CheckedCall])
def reset_password(request: Request, use: Use, number: RowId) -> dict[str, str]:
    """Give an account a new one-time password, which the answer holds once."""
    try:
        password = desk_of(use).reset_password(number, actor=actor_of(request))
    except AccountRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"one_time_password": password}


@own.get("")
def list_tokens(request: Request, use: Use) -> Any:
    """Return one's own tokens without their secrets; an administrator gets all."""
    found = Tokens(use.engine).all(visible_owner(request))
    return jsonable_encoder([asdict(each) for each in found])


@own.post("", status_code=201, dependencies=[CheckedCall])
def issue_token(request: Request, use: Use, wanted: NewToken) -> dict[str, str]:
    """Issue a token of one's own account; the answer holds it, once."""
    if session_of(request).token_role:
        raise HTTPException(403, "A token issues no tokens: log in.")
    try:
        issued = Tokens(use.engine).issue(
            actor_of(request),
            name=wanted.name,
            role=wanted.role,
            days=wanted.days,
            actor=actor_of(request),
        )
    except AccountRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"token": issued}


@own.post("/{number}/revoke", dependencies=[CheckedCall])
def revoke_token(request: Request, use: Use, number: RowId) -> dict[str, str]:
    """End a token at once."""
    try:
        Tokens(use.engine).revoke(number, actor=actor_of(request), owner=visible_owner(request))
    except AccountRefused as exc:
        raise HTTPException(404, str(exc)) from exc
    return {"state": "revoked"}
