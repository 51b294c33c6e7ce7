"""HTTP sessions with a PACS' DICOMweb services: who we are there, and whom we trust."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from gateway.dicom.tls import client_context
from gateway.errors import TlsSettingsError

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


class NotUsable(Exception):
    """The settings do not allow a request; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a service knows us by; all empty: nothing is asked for."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Bearer token (RFC 6750); takes the place of user name and password."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Certificates of a connection over TLS."""

    ca: Path | None = None
    """Trusted in the place of the well-known authorities."""
    certificate: Path | None = None
    """Ours, with its chain, for a service that wants one."""
    key: Path | None = None
    check_host_name: bool = True


def open_session(address: str, credentials: Credentials, trust: Trust) -> requests.Session:
    """Return a session for one service; the caller closes it.

    Raises
    ------
    NotUsable
        The settings do not allow it; the message says why.
    """
    session = requests.Session()
    try:
        session.trust_env = False  # no proxy, .netrc or CA that this host has for others
        _authenticate(session, address, credentials)
        _secure(session, trust)
    except BaseException:
        session.close()
        raise
    return session


def _authenticate(session: requests.Session, address: str, credentials: Credentials) -> None:
    if not credentials.token and not credentials.username:
        return
    there = urlsplit(address)
    if there.scheme.lower() != "https" and there.hostname not in _LOOPBACK:
        raise NotUsable("credentials are not sent unencrypted: its address must be https://")
    if credentials.token:
        session.headers["Authorization"] = f"Bearer {credentials.token}"
    else:
        pair = f"{credentials.username}:{credentials.password}".encode()
        session.headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"


def _secure(session: requests.Session, trust: Trust) -> None:
    if trust.ca is None:
        if trust.certificate is not None:
            raise NotUsable(
                "a client certificate needs a file of CA certificates to trust beside it"
            )
        return
    try:
        context = client_context(
            trust.ca,
            certificate=trust.certificate,
            key=trust.key,
            check_host_name=trust.check_host_name,
        )
    except TlsSettingsError as exc:
        raise NotUsable(str(exc)) from exc
    session.mount("https://", _Adapter(context))
    session.verify = str(trust.ca)


class _Adapter(HTTPAdapter):
    """Connections with a TLS context of ours."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Make the pools with our context."""
        keywords["assert_hostname"] = None if self._context.check_hostname else False
        super().init_poolmanager(*arguments, **keywords, ssl_context=self._context)
