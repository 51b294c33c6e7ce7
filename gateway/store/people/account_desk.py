"""What an administrator does with accounts: make, disable, give a role, reset a password.

Each is one transaction with its audit row. The last account that may administer can be neither
disabled nor given another role, so that nobody locks the site out of its own installation.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import AccountRefused
from gateway.roles import ADMIN, ROLES
from gateway.store.audit import append
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.people.accounts import Accounts, NewSession, open_session, sha256_of
from gateway.store.tables import Account, ApiToken, Reveal, WebSession

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class AccountRow:
    """One account, for a list."""

    id: int
    username: str
    role: str
    created_at: dt.datetime
    disabled_at: dt.datetime | None
    locked_until: dt.datetime | None
    must_change_password: bool
    is_external: bool
    """Whether it logs in by the OpenID provider."""
    sessions: int
    """Open now."""

    def state(self, now: dt.datetime) -> str:
        """Return ``disabled``, ``locked``, ``one-time password`` or ``active``."""
        if self.disabled_at is not None:
            return "disabled"
        if self.locked_until is not None and self.locked_until > now:
            return "locked"
        return "one-time password" if self.must_change_password else "active"


class AccountDesk:
    """Reads and changes accounts on behalf of an administrator."""

    def __init__(self, engine: Engine, accounts: Accounts, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._accounts = accounts
        self._clock = clock

    def all(self) -> list[AccountRow]:
        """Return every account, by name."""
        now = self._clock()
        sessions = (
            select(func.count())
            .select_from(WebSession)
            .where(WebSession.account_id == Account.id, WebSession.expires_at > now)
            .scalar_subquery()
        )
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    Account.id,
                    Account.username,
                    Account.role,
                    Account.created_at,
                    Account.disabled_at,
                    Account.locked_until,
                    Account.must_change_password,
                    (Account.subject_sha256 != "").label("is_external"),
                    sessions.label("sessions"),
                ).order_by(Account.username)
            ).all()
        return [AccountRow(**row._mapping) for row in rows]

    def create(self, username: str, role: str, *, actor: str) -> str:
        """Make an account; return its one-time password, which is kept nowhere.

        Raises
        ------
        AccountRefused
            The name is taken or will not do, or there is no such role.
        """
        if not _NAME.fullmatch(username):
            raise AccountRefused(
                "a name has 1 to 64 letters, digits, dots, hyphens, underscores or @, "
                "and begins with a letter or digit"
            )
        _check_role(role)
        now, password = self._clock(), secrets.token_urlsafe(12)
        values = {
            "username": username,
            "password_hash": self._accounts.hashed(password),
            "role": role,
            "must_change_password": True,
            "failed_logins": 0,
            "created_at": now,
        }
        try:
            with writing(self._engine) as connection:
                _refuse_twin(connection, username)
                connection.execute(insert(Account).values(**values))
                append(connection, now, actor, "account.created", account=username, role=role)
        except IntegrityError as exc:
            raise AccountRefused("there is an account of this name") from exc
        return password

    def set_role(self, account_id: int, role: str, *, actor: str) -> None:
        """Give an account another role; it counts at the next request.

        Raises
        ------
        AccountRefused
            There is no such account or role, or nobody could administer any more.
        """
        _check_role(role)
        now = self._clock()
        with writing(self._engine) as connection:
            found = _locked(connection, account_id)
            if found.role == role:
                return
            if role != ADMIN:
                _keep_an_admin(connection, account_id)
            connection.execute(update(Account).where(Account.id == account_id).values(role=role))
            append(
                connection,
                now,
                actor,
                "account.role_changed",
                account=found.username,
                before=found.role,
                role=role,
            )

    def set_disabled(self, account_id: int, is_disabled: bool, *, actor: str) -> None:
        """Let nobody in with an account, or let it in again; its sessions and tokens end.

        Raises
        ------
        AccountRefused
            There is no such account, or nobody could administer any more.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            found = _locked(connection, account_id)
            if (found.disabled_at is not None) == is_disabled:
                return
            if is_disabled:
                _keep_an_admin(connection, account_id)
                _end_sessions(connection, account_id)
                connection.execute(
                    update(ApiToken)
                    .where(ApiToken.account_id == account_id, ApiToken.revoked_at.is_(None))
                    .values(revoked_at=now, revoked_by=actor[:64])
                )
            connection.execute(
                update(Account)
                .where(Account.id == account_id)
                .values(
                    disabled_at=now if is_disabled else None, failed_logins=0, locked_until=None
                )
            )
            action = "account.disabled" if is_disabled else "account.enabled"
            append(connection, now, actor, action, account=found.username)

    def reset_password(self, account_id: int, *, actor: str) -> str:
        """Give an account a new one-time password, unlock it and end its sessions.

        Raises
        ------
        AccountRefused
            There is no such account, or it has no password of ours.
        """
        now, password = self._clock(), secrets.token_urlsafe(12)
        password_hash = self._accounts.hashed(password)
        with writing(self._engine) as connection:
            found = _locked(connection, account_id)
            if found.subject_sha256:
                raise AccountRefused("its password is the OpenID provider's")
            connection.execute(
                update(Account)
                .where(Account.id == account_id)
                .values(
                    password_hash=password_hash,
                    must_change_password=True,
                    failed_logins=0,
                    locked_until=None,
                )
            )
            _end_sessions(connection, account_id)
            append(connection, now, actor, "password.reset", account=found.username)
        return password

    def log_in_external(
        self, *, issuer: str, subject: str, username: str, role: str, hours: float, peer: str
    ) -> NewSession:
        """Open a session for somebody whom the OpenID provider vouches for.

        The account is found by issuer and subject, made at the first login, and takes the role
        that the provider gives now.

        Raises
        ------
        AccountRefused
            The account is disabled, or its name belongs to another one.
        """
        now = self._clock()
        digest = sha256_of(f"{issuer}\n{subject}")
        with writing(self._engine) as connection:
            found = connection.execute(
                select(Account).where(Account.subject_sha256 == digest).with_for_update()
            ).first()
            if found is None:
                account_id = _create_external(connection, digest, username, role, now)
            elif found.disabled_at is None:
                account_id, username = found.id, found.username
                _follow_role(connection, found, role, now)
            else:
                append(connection, now, found.username, "login.failed", peer=peer, cause="disabled")
            is_disabled = found is not None and found.disabled_at is not None
            if not is_disabled:
                opened = open_session(connection, account_id, now, hours, must_change=False)
                append(connection, now, username, "login", peer=peer, by="openid")
        if is_disabled:
            raise AccountRefused("the account is disabled")
        return opened


def _follow_role(connection: Connection, found: Row[Any], role: str, now: dt.datetime) -> None:
    if found.role == role:
        return
    connection.execute(update(Account).where(Account.id == found.id).values(role=role))
    append(
        connection,
        now,
        "openid provider",
        "account.role_changed",
        account=found.username,
        before=found.role,
        role=role,
    )


def _create_external(
    connection: Connection, digest: str, username: str, role: str, now: dt.datetime
) -> int:
    if not _NAME.fullmatch(username):
        raise AccountRefused("the provider's name for the account cannot be used")
    _refuse_twin(connection, username)
    account_id = connection.execute(
        insert(Account)
        .values(
            username=username,
            password_hash="",
            role=role,
            must_change_password=False,
            failed_logins=0,
            created_at=now,
            subject_sha256=digest,
        )
        .returning(Account.id)
    ).scalar_one()
    append(connection, now, "openid provider", "account.created", account=username, role=role)
    return int(account_id)


def _refuse_twin(connection: Connection, username: str) -> None:
    """Refuse a name that differs from another by case alone: people would mix them up."""
    twin = select(Account.id).where(func.lower(Account.username) == username.lower()).limit(1)
    if connection.execute(twin).first() is not None:
        raise AccountRefused("there is an account of this name")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise AccountRefused(f"there is no such role; there are {', '.join(ROLES)}")


def _locked(connection: Connection, account_id: int) -> Row[Any]:
    row = connection.execute(
        select(Account).where(Account.id == account_id).with_for_update()
    ).first()
    if row is None:
        raise AccountRefused("there is no such account")
    return row


def _keep_an_admin(connection: Connection, account_id: int) -> None:
    others = connection.execute(
        select(Account.id)
        .where(
            Account.role == ADMIN,
            Account.disabled_at.is_(None),
            Account.subject_sha256 == "",
            Account.id != account_id,
        )
        .with_for_update()
    ).all()
    was = connection.execute(select(Account.role).where(Account.id == account_id)).scalar_one()
    if was == ADMIN and not others:
        raise AccountRefused("it is the last local account that may administer")


def _end_sessions(connection: Connection, account_id: int) -> None:
    sessions = select(WebSession.token_sha256).where(WebSession.account_id == account_id)
    connection.execute(delete(Reveal).where(Reveal.token_sha256.in_(sessions)))
    connection.execute(delete(WebSession).where(WebSession.account_id == account_id))
