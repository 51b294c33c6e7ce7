"""Accounts of the admin page, their logins and sessions.

Passwords are kept as argon2id hashes (RFC 9106), session tokens as SHA-256: the record alone lets
nobody in. Rows of the audit trail are only ever added.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Engine, Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import PasswordRefused
from gateway.roles import ADMIN, Permission, may
from gateway.store.audit import append
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Account, Reveal, WebSession

__all__ = ["ADMIN", "Accounts", "Caller", "NewSession", "Session"]

MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 256
FAILURES_BEFORE_LOCK = 5
LOCK_S = 15 * 60.0

_MAX_NAME_CHARACTERS = 64
# Each hash takes 64 MiB (RFC 9106, second recommended option); a flood of logins must not take all.
_HASHING = threading.BoundedSemaphore(2)


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who is logged in."""

    account_id: int
    username: str
    role: str
    must_change_password: bool
    csrf_token: str
    expires_at: dt.datetime
    token_sha256: str
    """Of the session; empty for a request with an API token."""
    token_role: str = ""
    """Scope of the API token; empty for a login."""

    def may(self, permission: Permission) -> bool:
        """Whether this request may do something."""
        return may(self.role, permission) and (
            not self.token_role or may(self.token_role, permission)
        )


@dataclass(frozen=True, kw_only=True)
class NewSession:
    """What the browser gets after a login; ``token`` is not kept anywhere else."""

    token: str
    expires_at: dt.datetime
    must_change_password: bool


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent one request, by name and password or by an API token."""

    username: str
    role: str
    must_change_password: bool
    account_id: int = 0
    expires_at: dt.datetime | None = None
    """Of the API token; null for a password."""
    token_role: str = ""
    """Scope of the API token; empty for a password."""

    def may(self, permission: Permission) -> bool:
        """Whether this request may do something."""
        return may(self.role, permission) and (
            not self.token_role or may(self.token_role, permission)
        )


def _forgive_failures(connection: Connection, account_id: int, now: dt.datetime) -> bool:
    """Forget failed logins; False when the account was locked meanwhile."""
    opened = connection.execute(
        update(Account)
        .where(
            Account.id == account_id,
            or_(Account.locked_until.is_(None), Account.locked_until <= now),
        )
        .values(failed_logins=0, locked_until=None)
    ).rowcount
    return bool(opened)


class Accounts:
    """Reads and writes accounts; every change is one transaction with its audit row."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock
        self._hasher = PasswordHasher()
        self._nobody = ""

    # -- accounts ---------------------------------------------------------------------------

    def create_first(self, username: str, password: str) -> bool:
        """Make the first account, whose password must be changed at the first login.

        Returns
        -------
        False, and nothing is written, when there is an account already.
        """
        if self._has_account():
            return False
        now = self._clock()
        values = {
            "username": username,
            "password_hash": self._hash(password),
            "role": ADMIN,
            "must_change_password": True,
            "failed_logins": 0,
            "created_at": now,
        }
        try:
            with writing(self._engine) as connection:
                if connection.execute(select(Account.id).limit(1)).first() is not None:
                    return False
                connection.execute(insert(Account).values(**values))
                append(connection, now, username, "account.created")
        except IntegrityError:
            return False  # another process was first
        return True

    def _has_account(self) -> bool:
        with reading(self._engine) as connection:
            return connection.execute(select(Account.id).limit(1)).first() is not None

    def change_password(self, session: Session, old: str, new: str) -> None:
        """Set a new password and end every other session of the account.

        Raises
        ------
        PasswordRefused
            The old one is wrong or the new one will not do; the message is for the person.
        """
        now = self._clock()
        with reading(self._engine) as connection:
            kept = connection.execute(
                select(Account.password_hash).where(Account.id == session.account_id)
            ).scalar_one()
        if not kept:
            raise PasswordRefused("this account logs in by the OpenID provider")
        if not self._matches(kept, old):
            self.audit(session.username, "password.change_refused")
            raise PasswordRefused("the present password is wrong")
        _check_new_password(session.username, old, new)
        new_hash = self._hash(new)
        with writing(self._engine) as connection:
            connection.execute(
                update(Account)
                .where(Account.id == session.account_id)
                .values(password_hash=new_hash, must_change_password=False)
            )
            connection.execute(
                delete(WebSession).where(
                    WebSession.account_id == session.account_id,
                    WebSession.token_sha256 != session.token_sha256,
                )
            )
            append(connection, now, session.username, "password.changed")

    # -- sessions ---------------------------------------------------------------------------

    def log_in(self, username: str, password: str, *, hours: float, peer: str) -> NewSession | None:
        """Open a session; None when name and password do not match or the account is locked.

        Notes
        -----
        The three refusals look and take the same, so that nobody learns which names exist.
        """
        now = self._clock()
        account = self._right_account(username, password, peer, now)
        if account is None:
            return None
        username = account.username
        with writing(self._engine) as connection:
            # Looked at again: guesses sent all at once would pass the first look together.
            if not _forgive_failures(connection, account.id, now):
                append(connection, now, username, "login.failed", peer=peer, cause="locked")
                return None
            opened = open_session(
                connection, account.id, now, hours, must_change=account.must_change_password
            )
            append(connection, now, username, "login", peer=peer)
        return opened

    def authenticate(self, username: str, password: str, *, peer: str) -> Caller | None:
        """Check name and password of one request, without a session.

        Refusals are counted and look as those of ``log_in``.
        """
        now = self._clock()
        account = self._right_account(username, password, peer, now)
        if account is None:
            return None
        with writing(self._engine) as connection:
            if not _forgive_failures(connection, account.id, now):
                return None
        return Caller(
            username=account.username,
            role=account.role,
            must_change_password=account.must_change_password,
        )

    def _right_account(
        self, username: str, password: str, peer: str, now: dt.datetime
    ) -> Row[Any] | None:
        """Account that name and password match and that is not locked; failures are audited."""
        username = username.replace("\0", "")[:_MAX_NAME_CHARACTERS]  # PostgreSQL keeps no NUL
        with reading(self._engine) as connection:
            account = connection.execute(
                select(Account).where(Account.username == username)
            ).first()
        kept = account.password_hash if account else ""  # '': one of the OpenID provider
        is_right = self._matches(kept or self._decoy(), password)
        if account is None:
            self.audit("", "login.failed", peer=peer, cause="unknown account")
            return None
        if account.disabled_at is not None:
            self.audit(username, "login.failed", peer=peer, cause="disabled")
            return None
        if account.locked_until is not None and account.locked_until > now:
            self.audit(username, "login.failed", peer=peer, cause="locked")
            return None
        if not is_right:
            self._count_failure(account.id, username, peer, now)
            return None
        return account

    def _count_failure(self, account_id: int, username: str, peer: str, now: dt.datetime) -> None:
        with writing(self._engine) as connection:
            failures = connection.execute(
                update(Account)
                .where(Account.id == account_id)
                .values(failed_logins=Account.failed_logins + 1)
                .returning(Account.failed_logins)
            ).scalar_one()
            append(connection, now, username, "login.failed", peer=peer, cause="wrong password")
            if failures >= FAILURES_BEFORE_LOCK:
                connection.execute(
                    update(Account)
                    .where(Account.id == account_id)
                    .values(failed_logins=0, locked_until=now + dt.timedelta(seconds=LOCK_S))
                )
                append(connection, now, username, "account.locked", peer=peer)

    def session(self, token: str) -> Session | None:
        """Return the session of a token; None when there is none or it has run out."""
        now = self._clock()
        with reading(self._engine) as connection:
            row = connection.execute(
                select(
                    WebSession.account_id,
                    Account.username,
                    Account.role,
                    Account.must_change_password,
                    WebSession.csrf_token,
                    WebSession.expires_at,
                    WebSession.token_sha256,
                )
                .join(Account, WebSession.account_id == Account.id)
                .where(
                    WebSession.token_sha256 == sha256_of(token),
                    WebSession.expires_at > now,
                    Account.disabled_at.is_(None),
                )
            ).first()
        return Session(**row._mapping) if row is not None else None

    def log_out(self, session: Session) -> None:
        """End a session."""
        now = self._clock()
        with writing(self._engine) as connection:
            for table in (Reveal, WebSession):
                connection.execute(delete(table).where(table.token_sha256 == session.token_sha256))
            append(connection, now, session.username, "logout")

    # -- audit ------------------------------------------------------------------------------

    def audit(self, actor: str, action: str, **detail: Any) -> None:
        """Add one row to the audit trail; ``detail`` must hold no patient attribute."""
        now = self._clock()
        with writing(self._engine) as connection:
            append(connection, now, actor, action, **detail)

    # -- passwords --------------------------------------------------------------------------

    def hashed(self, password: str) -> str:
        """Return what is kept of a password."""
        return self._hash(password)

    def _hash(self, password: str) -> str:
        with _HASHING:
            return self._hasher.hash(password)

    def _matches(self, password_hash: str, password: str) -> bool:
        # Cut, not refused: a refusal would be faster than a wrong password.
        candidate = password[: MAX_PASSWORD_CHARACTERS + 1]
        with _HASHING:
            try:
                return self._hasher.verify(password_hash, candidate)
            except (VerificationError, InvalidHashError):
                return False

    def _decoy(self) -> str:
        if not self._nobody:
            self._nobody = self._hash(secrets.token_urlsafe(16))
        return self._nobody


def _check_new_password(username: str, old: str, new: str) -> None:
    # Length and novelty, no composition rules (NIST SP 800-63B 5.1.1.2).
    if len(new) < MIN_PASSWORD_CHARACTERS:
        raise PasswordRefused(f"the new password needs {MIN_PASSWORD_CHARACTERS} characters")
    if len(new) > MAX_PASSWORD_CHARACTERS:
        raise PasswordRefused(
            f"the new password has more than {MAX_PASSWORD_CHARACTERS} characters"
        )
    if new == old:
        raise PasswordRefused("the new password is the present one")
    if username.casefold() in new.casefold():
        raise PasswordRefused("the new password contains the account's name")
    if len(set(new)) < MIN_PASSWORD_CHARACTERS // 2:
        raise PasswordRefused("the new password repeats too few characters")


def open_session(
    connection: Connection, account_id: int, now: dt.datetime, hours: float, *, must_change: bool
) -> NewSession:
    """Make a session in the transaction of ``connection``; those that ran out go."""
    token = secrets.token_urlsafe(32)
    expires_at = now + dt.timedelta(hours=hours)
    connection.execute(delete(Reveal).where(Reveal.until <= now))
    connection.execute(delete(WebSession).where(WebSession.expires_at <= now))
    connection.execute(
        insert(WebSession).values(
            token_sha256=sha256_of(token),
            account_id=account_id,
            csrf_token=secrets.token_urlsafe(32),
            created_at=now,
            expires_at=expires_at,
        )
    )
    return NewSession(token=token, expires_at=expires_at, must_change_password=must_change)


def sha256_of(token: str) -> str:
    """Return what is kept of a token: hexadecimal SHA-256 of its UTF-8."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
