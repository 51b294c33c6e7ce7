"""Login by an OpenID provider: authorization code with PKCE, checked to the last claim.

OpenID Connect Core 1.0 section 3.1, Discovery 1.0 section 4, RFC 7636 (PKCE), RFC 9207 (issuer in
the answer). The provider says who somebody is and which groups they are in; what a group may do
here is said by ``LENTIGO_OPENID_ROLES`` alone.
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped]  # has no types
from authlib.integrations.httpx_client import OAuth2Client  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from gateway.dashboard.identity.settings import OpenidSettings
from gateway.errors import LoginRefused, SettingsError
from gateway.store.people.pending_logins import Pending, PendingLogins

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Signatures that are believed: by the provider's key pairs; never ``none``, never a shared key."""

LEEWAY_S = 60
"""How far the provider's clock may be off."""

_CACHE_S = 3600.0
_MAX_DOCUMENT_BYTES = 512 * 1024


@dataclass(frozen=True, kw_only=True)
class Person:
    """Whom the provider vouches for."""

    issuer: str
    subject: str
    username: str
    role: str
    address: str
    """Where to go on to on this site."""


class OpenidLogin:
    """Sends browsers to the provider and checks what they bring back.

    Parameters
    ----------
    pending
        Where logins wait.
    transport
        How the provider is reached; None for the network.
    """

    def __init__(
        self,
        settings: OpenidSettings,
        pending: PendingLogins,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._pending = pending
        self._transport = transport
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether there is a provider."""
        return self._settings.is_on

    def begin(self, address: str) -> tuple[str, str]:
        """Return (address at the provider to send the browser to, the ``state`` that goes along).

        Raises
        ------
        LoginRefused
            The provider does not answer, or is not the one of the settings.
        """
        metadata = self._discovered()
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(48)
        with self._client() as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=state,
                nonce=nonce,
                code_verifier=verifier,
                redirect_uri=self._settings.redirect_uri,
            )
        self._pending.begin(state, Pending(nonce=nonce, code_verifier=verifier, address=address))
        return str(url), state

    def finish(self, query: Mapping[str, str], state_of_browser: str) -> Person:
        """Return whom the provider vouches for.

        Parameters
        ----------
        query
            What the browser brought back.
        state_of_browser
            The ``state`` of the cookie that this browser got when it left.

        Raises
        ------
        LoginRefused
            Anything of it does not fit, or the person is in none of the site's groups.
        """
        state = query.get("state", "")
        if not state or not secrets.compare_digest(state.encode(), state_of_browser.encode()):
            raise LoginRefused("the answer belongs to no login of this browser")
        pending = self._pending.take(state)
        if pending is None:
            raise LoginRefused("the login took too long, or its answer was used before")
        if query.get("error"):
            raise LoginRefused("the provider refused the login")
        if query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise LoginRefused("the answer comes from another provider")
        claims = self._claims(self._id_token(query.get("code", ""), pending), pending.nonce)
        username = _claim(claims, self._settings.name_claim)
        if not isinstance(username, str) or not username:
            raise LoginRefused(f"the provider gives no {self._settings.name_claim}")
        return Person(
            issuer=self._settings.issuer,
            subject=str(claims["sub"]),
            username=username,
            role=self._role(claims),
            address=pending.address,
        )

    def _role(self, claims: Mapping[str, Any]) -> str:
        given = _claim(claims, self._settings.role_claim)
        groups = given if isinstance(given, list) else [given]
        for group, role in self._settings.role_of_group:
            if group in groups:
                return role
        raise LoginRefused("this person is in no group that has a role here")

    # -- the provider -----------------------------------------------------------------------

    def _id_token(self, code: str, pending: Pending) -> str:
        if not code:
            raise LoginRefused("the answer holds no code")
        metadata = self._discovered()
        try:
            with self._client() as client:
                answer = client.fetch_token(
                    metadata["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=pending.code_verifier,
                    redirect_uri=self._settings.redirect_uri,
                )
        except (httpx.HTTPError, AuthlibBaseError, ValueError) as exc:
            # Their texts may quote the code.
            raise LoginRefused(
                f"the provider gives no token for the code ({type(exc).__name__})"
            ) from exc
        token = answer.get("id_token") if isinstance(answer, Mapping) else None
        if not isinstance(token, str):
            raise LoginRefused("the provider gives no ID token")
        return token

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token after every check of OpenID Connect Core 3.1.3.7."""
        try:
            try:
                found = jwt.decode(token, self._key_set(), algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # The provider may have changed its keys since they were read.
                found = jwt.decode(token, self._key_set(is_fresh=True), algorithms=ALGORITHMS)
            registry = jwt.JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self._settings.issuer},
                aud={"essential": True, "value": self._settings.client_id},
                exp={"essential": True},
                iat={"essential": True},
                sub={"essential": True},
                nonce={"essential": True, "value": nonce},
            )
            registry.validate(found.claims)
        except (JoseError, ValueError) as exc:
            raise LoginRefused(f"the ID token cannot be trusted ({type(exc).__name__})") from exc
        claims: dict[str, Any] = dict(found.claims)
        audience = claims["aud"]
        is_shared = isinstance(audience, list) and len(audience) > 1
        if (is_shared or "azp" in claims) and claims.get("azp") != self._settings.client_id:
            raise LoginRefused("the ID token was made for another client")
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise LoginRefused("the ID token names nobody")
        return claims

    def _discovered(self) -> dict[str, Any]:
        with self._lock:
            if self._metadata and time.monotonic() - self._read_at < _CACHE_S:
                return self._metadata
        url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        metadata = self._fetch(url)
        if metadata.get("issuer") != self._settings.issuer:
            raise LoginRefused("the provider names another issuer than LENTIGO_OPENID_ISSUER")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(metadata.get(name)):
                raise LoginRefused(f"the provider's {name} is missing or is no https address")
        with self._lock:
            self._metadata, self._keys = metadata, None
            self._read_at = time.monotonic()
        return metadata

    def _key_set(self, *, is_fresh: bool = False) -> KeySet:
        with self._lock:
            if self._keys is not None and not is_fresh:
                return self._keys
        content = self._fetch(self._discovered()["jwks_uri"])
        keys = KeySet.import_key_set(content)  # type: ignore[arg-type]  # checked by the call
        with self._lock:
            self._keys = keys
        return keys

    def _fetch(self, url: str) -> dict[str, Any]:
        try:
            with httpx.Client(
                transport=self._transport,
                verify=self._trust(),
                timeout=self._settings.timeout_s,
                follow_redirects=False,
            ) as client:
                answer = client.get(url, headers={"accept": "application/json"})
                answer.raise_for_status()
                content = answer.json() if len(answer.content) <= _MAX_DOCUMENT_BYTES else None
        except (httpx.HTTPError, ValueError) as exc:
            raise LoginRefused(f"the provider does not answer ({type(exc).__name__})") from exc
        if not isinstance(content, dict):
            raise LoginRefused("the provider's answer makes no sense")
        return content

    def _client(self) -> OAuth2Client:
        secret = self._settings.client_secret
        return OAuth2Client(
            client_id=self._settings.client_id,
            client_secret=secret.get_secret_value() if secret else None,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            scope=self._settings.scopes,
            code_challenge_method="S256",
            transport=self._transport,
            verify=self._trust(),
            timeout=self._settings.timeout_s,
        )

    def _trust(self) -> ssl.SSLContext | bool:
        if self._settings.ca is None:
            return True
        return ssl.create_default_context(cafile=str(self._settings.ca))


def check_settings(settings: OpenidSettings) -> None:
    """Refuse settings of a provider that could let nobody in.

    Raises
    ------
    SettingsError
        The message names what is missing.
    """
    if not settings.is_on:
        return
    missing = [
        f"LENTIGO_OPENID_{name.upper()}"
        for name in ("client_id", "public_url", "roles")
        if not getattr(settings, name).strip()
    ]
    if missing:
        raise SettingsError(f"LENTIGO_OPENID_ISSUER is given; {' and '.join(missing)} is missing")
    if settings.ca is not None:
        try:
            ssl.create_default_context(cafile=str(settings.ca))
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(
                f"LENTIGO_OPENID_CA: {settings.ca} cannot be used ({type(exc).__name__})"
            ) from exc


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim; dots lead into nested ones (``realm_access.roles``)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _is_safe(url: Any) -> bool:
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    is_loopback = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback)
