"""Who may send documents: HTTP Basic (RFC 7617), one request at a time, without a session.

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
from gateway.store.accounts import ADMIN, Accounts

MAX_BODY_BYTES = MAX_BYTES
SENDERS = frozenset({ADMIN})
"""Roles that may send documents."""

_PATH = re.compile(r"/api/studies/[^/]+/documents")
_CHALLENGE = {"www-authenticate": 'Basic realm="Lentigo", charset="UTF-8"'}


def is_upload(scope: Scope) -> bool:
    """Whether a request sends a document."""
    return scope["method"] == "POST" and _PATH.fullmatch(scope["path"]) is not None


def refusal(scope: Scope, headers: Headers, accounts: Accounts) -> Response | None:
    """Answer to a request that may not pass; None lets it pass, its sender in ``state``."""
    credentials = _credentials(headers.get("authorization", ""))
    if credentials is None:
        return JSONResponse({"detail": "name and password are needed"}, 401, _CHALLENGE)
    peer = scope["client"][0] if scope.get("client") else ""
    try:
        caller = accounts.authenticate(*credentials, peer=peer)
    except RecordUnavailable:
        return JSONResponse({"detail": "the record does not answer; try again"}, 503)
    if caller is None:
        detail = "name and password do not match, or the account is locked for some minutes"
        return JSONResponse({"detail": detail}, 401, _CHALLENGE)
    if caller.must_change_password:
        return JSONResponse({"detail": "change the one-time password first"}, 403)
    if caller.role not in SENDERS:
        return JSONResponse({"detail": "this account may not send documents"}, 403)
    scope["state"]["actor"] = caller.username
    return None


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
