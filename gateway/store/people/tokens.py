"""API tokens: bearer credentials (RFC 6750) of programs, each of one account.

Only the SHA-256 of a token is kept. A token is 256 random bits, so a fast hash is enough: there is
nothing to guess. It may do what both its own role and the account's role of the moment may.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass

from sqlalchemy import Engine, insert, or_, select, update

from gateway.errors import AccountRefused
from gateway.roles import ROLES, is_within
from gateway.store.audit import append
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.people.accounts import Caller, sha256_of
from gateway.store.tables import Account, ApiToken

PREFIX = "lentigo_"
"""What every token begins with, so that scanners of leaked secrets know it."""

MAX_DAYS = 366
MAX_TOKENS = 50
"""Live tokens of one account."""

_MAX_NAME_CHARACTERS = 64
_USED_EVERY_S = 60.0  # a program that asks all the time writes its last use once a minute


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One token, for a list."""

    id: int
    username: str
    name: str
    role: str
    created_by: str
    created_at: dt.datetime
    expires_at: dt.datetime
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None
    revoked_by: str

    def state(self, now: dt.datetime) -> str:
        """Return ``revoked``, ``expired`` or ``active``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now else "active"


class Tokens:
    """Issues, recognises and revokes tokens; each change is one transaction with its audit row."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def issue(self, username: str, *, name: str, role: str, days: int, actor: str) -> str:
        """Make a token for an account; return it, which is the only time that it is seen.

        Parameters
        ----------
        days
            Until it expires, 1 to ``MAX_DAYS``.

        Raises
        ------
        AccountRefused
            There is no such account, it may not do what the role may, or a value will not do.
        """
        name = name.strip()
        if not name or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
            raise AccountRefused(f"a token has a name of 1 to {_MAX_NAME_CHARACTERS} characters")
        if role not in ROLES:
            raise AccountRefused(f"there is no such role; there are {', '.join(ROLES)}")
        if not 1 <= days <= MAX_DAYS:
            raise AccountRefused(f"a token lasts 1 to {MAX_DAYS} days")
        now, token = self._clock(), PREFIX + secrets.token_urlsafe(32)
        with writing(self._engine) as connection:
            account = connection.execute(
                select(Account).where(Account.username == username).with_for_update()
            ).first()
            if account is None or account.disabled_at is not None:
                raise AccountRefused("there is no such account, or it is disabled")
            if not is_within(role, account.role):
                raise AccountRefused(f"the account is {account.role}: it cannot give out {role}")
            live = connection.execute(
                select(ApiToken.id).where(
                    ApiToken.account_id == account.id,
                    ApiToken.revoked_at.is_(None),
                    ApiToken.expires_at > now,
                )
            ).all()
            if len(live) >= MAX_TOKENS:
                raise AccountRefused(f"the account has {MAX_TOKENS} tokens; revoke some")
            number = connection.execute(
                insert(ApiToken)
                .values(
                    token_sha256=sha256_of(token),
                    account_id=account.id,
                    name=name,
                    role=role,
                    created_by=actor[:64],
                    created_at=now,
                    expires_at=now + dt.timedelta(days=days),
                )
                .returning(ApiToken.id)
            ).scalar_one()
            append(
                connection, now, actor, "token.issued", token=number, account=username, role=role
            )
        return token

    def caller(self, token: str) -> Caller | None:
        """Return who a token speaks for; None when it opens nothing (any more)."""
        if not token.startswith(PREFIX):
            return None
        now, digest = self._clock(), sha256_of(token)
        with reading(self._engine) as connection:
            row = connection.execute(
                select(
                    ApiToken.id,
                    ApiToken.role.label("token_role"),
                    ApiToken.last_used_at,
                    ApiToken.expires_at,
                    ApiToken.account_id,
                    Account.username,
                    Account.role,
                    Account.must_change_password,
                )
                .join(Account, ApiToken.account_id == Account.id)
                .where(
                    ApiToken.token_sha256 == digest,
                    ApiToken.revoked_at.is_(None),
                    ApiToken.expires_at > now,
                    Account.disabled_at.is_(None),
                )
            ).first()
        if row is None:
            return None
        stale = now - dt.timedelta(seconds=_USED_EVERY_S)
        if row.last_used_at is None or row.last_used_at <= stale:
            self._note_use(row.id, now, stale)
        return Caller(
            username=row.username,
            role=row.role,
            must_change_password=row.must_change_password,
            account_id=row.account_id,
            expires_at=row.expires_at,
            token_role=row.token_role,
        )

    def _note_use(self, token_id: int, now: dt.datetime, stale: dt.datetime) -> None:
        with writing(self._engine) as connection:
            connection.execute(
                update(ApiToken)
                .where(
                    ApiToken.id == token_id,
                    or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at <= stale),
                )
                .values(last_used_at=now)
            )

    def revoke(self, token_id: int, *, actor: str, owner: str = "") -> None:
        """End a token at once.

        Parameters
        ----------
        owner
            Account that it must belong to; empty for any.

        Raises
        ------
        AccountRefused
            There is no such token.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            row = connection.execute(
                select(ApiToken.revoked_at, Account.username)
                .join(Account, ApiToken.account_id == Account.id)
                .where(ApiToken.id == token_id)
            ).first()
            if row is None or (owner and row.username != owner):
                raise AccountRefused("there is no such token")
            if row.revoked_at is not None:
                return
            connection.execute(
                update(ApiToken)
                .where(ApiToken.id == token_id)
                .values(revoked_at=now, revoked_by=actor[:64])
            )
            append(connection, now, actor, "token.revoked", token=token_id, account=row.username)

    def all(self, owner: str = "") -> list[TokenRow]:
        """Return the tokens of one account, or of all, the newest first."""
        query = (
            select(
                ApiToken.id,
                Account.username,
                ApiToken.name,
                ApiToken.role,
                ApiToken.created_by,
                ApiToken.created_at,
                ApiToken.expires_at,
                ApiToken.last_used_at,
                ApiToken.revoked_at,
                ApiToken.revoked_by,
            )
            .join(Account, ApiToken.account_id == Account.id)
            .order_by(ApiToken.id.desc())
            .limit(500)
        )
        if owner:
            query = query.where(Account.username == owner)
        with reading(self._engine) as connection:
            return [TokenRow(**row._mapping) for row in connection.execute(query)]
