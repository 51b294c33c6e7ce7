"""Who may do what: accounts and logins; and the installation itself."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import (
    ForeignKey,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class Account(Base):
    """A person who may log in."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(String(16))
    must_change_password: Mapped[bool]
    failed_logins: Mapped[int] = mapped_column(default=0)
    locked_until: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime]
    disabled_at: Mapped[dt.datetime | None]
    """Since when nobody gets in with it; null while it is in use."""
    subject_sha256: Mapped[str] = mapped_column(
        String(64), default="", server_default="", index=True
    )
    """Digest of issuer and subject of an OpenID provider; empty for an account of our own."""


class WebSession(Base):
    """One login; only the hash of its token is kept."""

    __tablename__ = "web_sessions"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    csrf_token: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime]
    expires_at: Mapped[dt.datetime]


class ApiToken(Base):
    """A bearer token of one account; only its hash is kept."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    """What it is for."""
    role: Mapped[str] = mapped_column(String(16))
    """It may do what both this role and its account's may."""
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime]
    expires_at: Mapped[dt.datetime]
    last_used_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
    revoked_by: Mapped[str] = mapped_column(String(64), default="", server_default="")


class Reveal(Base):
    """Patient attributes of one study, shown in one session for a while."""

    __tablename__ = "reveals"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of the session."""
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    until: Mapped[dt.datetime] = mapped_column(index=True)


class PendingLogin(Base):
    """A login that was sent to the OpenID provider and has not come back."""

    __tablename__ = "pending_logins"

    state_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of the ``state`` parameter (RFC 6749 10.12); the row goes at its first use."""
    nonce: Mapped[str] = mapped_column(String(64))
    code_verifier: Mapped[str] = mapped_column(String(128))
    """RFC 7636 4.1."""
    address: Mapped[str] = mapped_column(Text)
    """Where to go on to on this site."""
    expires_at: Mapped[dt.datetime] = mapped_column(index=True)


class Installation(Base):
    """The one row that names this installation."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True)
    serial: Mapped[str] = mapped_column(String(36))
    """Device serial number in every result (0018,1000)."""
    created_at: Mapped[dt.datetime]
