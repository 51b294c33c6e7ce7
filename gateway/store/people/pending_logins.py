"""Logins on their way through the OpenID provider; each comes back once or not at all."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, insert, select

from gateway.errors import LoginRefused
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.people.accounts import sha256_of
from gateway.store.tables import PendingLogin

MINUTES = 10.0
"""Time for the login at the provider."""
MAX_PENDING = 5000
"""Anybody may begin a login; more than these at a time are a flood."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """What must fit when a login comes back."""

    nonce: str
    code_verifier: str
    address: str


class PendingLogins:
    """Keeps what was sent along with a login until it comes back."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def begin(self, state: str, pending: Pending) -> None:
        """Remember a login that leaves now.

        Raises
        ------
        LoginRefused
            Too many are under way.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            connection.execute(delete(PendingLogin).where(PendingLogin.expires_at <= now))
            count = connection.execute(select(func.count()).select_from(PendingLogin)).scalar_one()
            if count >= MAX_PENDING:
                raise LoginRefused("too many logins are under way; try again in some minutes")
            connection.execute(
                insert(PendingLogin).values(
                    state_sha256=sha256_of(state),
                    nonce=pending.nonce,
                    code_verifier=pending.code_verifier,
                    address=pending.address,
                    expires_at=now + dt.timedelta(minutes=MINUTES),
                )
            )

    def take(self, state: str) -> Pending | None:
        """Return what was remembered, and forget it; None for a state that is not, or no longer."""
        now = self._clock()
        with writing(self._engine) as connection:
            row = connection.execute(
                delete(PendingLogin)
                .where(PendingLogin.state_sha256 == sha256_of(state))
                .returning(
                    PendingLogin.nonce,
                    PendingLogin.code_verifier,
                    PendingLogin.address,
                    PendingLogin.expires_at,
                )
            ).first()
        if row is None or row.expires_at <= now:
            return None
        return Pending(nonce=row.nonce, code_verifier=row.code_verifier, address=row.address)
