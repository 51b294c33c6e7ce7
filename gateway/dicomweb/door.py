"""Who may use DICOMweb: an account (HTTP Basic or an API token), from an admitted network.

Password hashes are slow on purpose. A sender that stores one instance a request would pay for one
each time, so a password that was right is remembered for some minutes, as a digest under a key
that lives as long as the process. The account itself is looked up at every request: a changed
password, a lock or a new role counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import Engine, select
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from gateway.dashboard.identity import basic
from gateway.dicomweb.settings import DicomwebSettings
from gateway.errors import RecordUnavailable
from gateway.roles import Permission, may
from gateway.store.engine import reading, utc_now
from gateway.store.people.accounts import Accounts
from gateway.store.people.tokens import Tokens
from gateway.store.tables import Account

PREFIX = "/dicomweb"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_REMEMBER_S = 300.0
_MAX_REMEMBERED = 256


@dataclass(frozen=True, kw_only=True)
class _Remembered:
    """A password that was right."""

    username: str
    password_hash: str
    """Of the account at that time."""
    until: float


class Door:
    """Lets requests for DICOMweb in, or answers why not."""

    def __init__(self, settings: DicomwebSettings, accounts: Accounts, engine: Engine) -> None:
        self._settings = settings
        self._accounts = accounts
        self._tokens = Tokens(engine)
        self._engine = engine
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, _Remembered] = {}
        self._lock = threading.Lock()

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Answer to a request that may not pass; None lets it pass, its sender in ``state``."""
        if not self._settings.enabled:
            return JSONResponse({"detail": "DICOMweb is switched off here"}, 404)
        if not self._admits(scope["client"][0] if scope.get("client") else ""):
            return JSONResponse({"detail": "this address may not use DICOMweb"}, 403)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host", ""):
            return JSONResponse({"detail": "the request comes from another site"}, 403)
        # What is read names patients.
        permission = Permission.REVEAL if scope["method"] in _READS else Permission.SEND
        credential = headers.get("authorization", "")
        if basic.bearer_of(credential) is not None:  # its digest is quick: nothing to remember
            return basic.refusal(scope, headers, self._accounts, self._tokens, permission)
        digest = hmac.new(self._key, credential.encode("latin-1", "replace"), hashlib.sha256)
        try:
            known = self._recall(digest.digest(), permission)
            if known is not None:
                scope["state"]["actor"] = known
                return None
            refusal = basic.refusal(scope, headers, self._accounts, self._tokens, permission)
            if refusal is None:
                self._remember(digest.digest(), scope["state"]["actor"], permission)
        except RecordUnavailable:
            detail = "the record does not answer; try again later"
            return JSONResponse({"detail": detail}, 503, {"retry-after": "10"})
        return refusal

    def _admits(self, address: str) -> bool:
        networks = self._settings.networks
        if not networks:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None) or found
        return any(mapped in network for network in networks)

    def _recall(self, digest: bytes, permission: Permission) -> str | None:
        """Return the account of a credential that was right and still would be."""
        with self._lock:
            known = self._remembered.get(digest)
        if known is None or time.monotonic() > known.until:
            return None
        account = self._account(known.username, permission)
        if account is None or account != known.password_hash:
            with self._lock:
                self._remembered.pop(digest, None)
            return None
        return known.username

    def _remember(self, digest: bytes, username: str, permission: Permission) -> None:
        account = self._account(username, permission)
        if account is None:
            return
        with self._lock:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = _Remembered(
                username=username,
                password_hash=account,
                until=time.monotonic() + _REMEMBER_S,
            )

    def _account(self, username: str, permission: Permission) -> str | None:
        """Return the password hash of an account that may do this now."""
        with reading(self._engine) as connection:
            row = connection.execute(select(Account).where(Account.username == username)).first()
        if row is None or row.must_change_password or row.disabled_at is not None:
            return None
        if not may(row.role, permission):
            return None
        if row.locked_until is not None and row.locked_until > utc_now():
            return None
        return str(row.password_hash)
