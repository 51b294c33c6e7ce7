"""Who sends a request without a session: HTTP Basic (RFC 7617) or an API token (RFC 6750).

A hospital's interface engine has no browser. It needs an account of its own, whose one-time
password was changed; the request carries nothing that a page of another site could make a browser
send along (the gate refuses a foreign Origin before).
"""

from __future__ import annotations

import base64
import binascii
import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from gateway.documents import MAX_BYTES
from gateway.errors import RecordUnavailable
from gateway.roles import Permission
from gateway.store.people.accounts import Accounts, Caller
from gateway.store.people.tokens import Tokens

MAX_BODY_BYTES = MAX_BYTES
_PATH = re.compile(r"/api/studies/[^/]+/documents")
_CHALLENGE = {"www-authenticate": 'Basic realm="Lentigo", charset="UTF-8"'}
_BEARER_CHALLENGE = {"www-authenticate": 'Bearer realm="Lentigo", error="invalid_token"'}


def is_upload(scope: Scope) -> bool:
    """Whether a request sends a document."""
    return scope["method"] == "POST" and _PATH.fullmatch(scope["path"]) is not None


def refusal(
    scope: Scope,
    headers: Headers,
    accounts: Accounts,
    tokens: Tokens,
    permission: Permission = Permission.SEND,
) -> Response | None:
    """Answer to a request that may not pass; None lets it pass, its sender in ``state``."""
    found = caller_of(scope, headers, accounts, tokens)
    if isinstance(found, Response):
        return found
    if found.must_change_password:
        return JSONResponse({"detail": "change the one-time password first"}, 403)
    if not found.may(permission):
        return JSONResponse({"detail": f"this account may not {permission}"}, 403)
    scope["state"]["actor"] = found.username
    return None


def caller_of(
    scope: Scope, headers: Headers, accounts: Accounts, tokens: Tokens
) -> Caller | Response:
    """Return who sends a request, or the answer to one that says so wrongly."""
    header = headers.get("authorization", "")
    try:
        if (token := bearer_of(header)) is not None:
            if (found := tokens.caller(token)) is not None:
                return found
            detail = "the API token is unknown, expired or revoked"
            return JSONResponse({"detail": detail}, 401, _BEARER_CHALLENGE)
        credentials = _credentials(header)
        if credentials is None:
            return JSONResponse({"detail": "name and password are needed"}, 401, _CHALLENGE)
        peer = scope["client"][0] if scope.get("client") else ""
        caller = accounts.authenticate(*credentials, peer=peer)
    except RecordUnavailable:
        return JSONResponse({"detail": "the record does not answer; try again"}, 503)
    if caller is None:
        detail = "name and password do not match, or the account is locked for some minutes"
        return JSONResponse({"detail": detail}, 401, _CHALLENGE)
    return caller


def bearer_of(header: str) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header; None for another header."""
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _credentials(header: str) -> tuple[str, str] | None:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    name, colon, password = decoded.partition(":")
    return (name, password) if colon else None
