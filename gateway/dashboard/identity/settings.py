"""Settings of accounts and of the OpenID provider."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from gateway.roles import ROLES
from gateway.secret_files import SecretSettings


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class AccountSettings(SecretSettings):
    """Accounts of the admin page."""

    model_config = _config("LENTIGO_ACCOUNTS_")

    reveal_minutes: float = Field(default=10.0, gt=0, le=480)
    """How long patient attributes of a study stay shown after they were revealed."""


class OpenidSettings(SecretSettings):
    """Login by an OpenID provider (OpenID Connect Core 1.0, authorization code with PKCE)."""

    model_config = _config("LENTIGO_OPENID_")

    issuer: str = ""
    """Issuer of the provider, e.g. ``https://login.hospital.example/realms/staff``; empty: none."""
    client_id: str = ""
    """Our name at the provider."""
    client_secret: SecretStr | None = None
    """Our secret at the provider; none for a public client."""
    public_url: str = ""
    """Address of this admin page as browsers see it; ``PUBLIC_URL/login/openid/back`` is the
    redirect URI that the provider must know."""
    scopes: str = "openid profile email"
    """Scopes that are asked for, separated by blanks."""
    name_claim: str = "preferred_username"
    """Claim that names the account."""
    role_claim: str = "groups"
    """Claim that holds groups or roles: a text or a list; dots lead into nested ones."""
    roles: str = ""
    """``GROUP=ROLE``, several separated by commas; who has none of the groups stays out. With more
    than one, the first in this list counts."""
    ca: Path | None = None
    """CA certificates, PEM, that sign the provider's certificate; the system's when absent."""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Longest wait for an answer of the provider."""

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: str) -> str:
        for entry in filter(None, (each.strip() for each in value.split(","))):
            group, _, role = entry.rpartition("=")
            if not group.strip() or role.strip() not in ROLES:
                raise ValueError(f"each entry is GROUP=ROLE with one of {', '.join(ROLES)}")
        return value

    @field_validator("issuer", "public_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        # By its host: http://localhost.example is somebody else's.
        parts = urlsplit(value)
        is_here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
        if value and not is_here and not (parts.scheme == "https" and parts.hostname):
            raise ValueError("must begin with https:// (http:// on loopback only)")
        return value

    @property
    def is_on(self) -> bool:
        """Whether there is a provider."""
        return bool(self.issuer)

    @property
    def role_of_group(self) -> tuple[tuple[str, str], ...]:
        """(group, role), the first that somebody is in counts."""
        entries = (each.strip().rpartition("=") for each in self.roles.split(",") if each.strip())
        return tuple((group.strip(), role.strip()) for group, _, role in entries)

    @property
    def redirect_uri(self) -> str:
        """Where the provider sends the browser back to."""
        return f"{self.public_url.rstrip('/')}/login/openid/back"
