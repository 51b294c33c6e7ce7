"""Settings of STOW-RS destinations: who we are there, and whom we trust."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StowSettings(BaseSettings):
    """How we authenticate at destinations that are written as ``https://`` addresses."""

    model_config = SettingsConfigDict(
        env_prefix="LENTIGO_STOW_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    username: str = ""
    """For HTTP basic authentication."""
    password: SecretStr | None = None
    """For HTTP basic authentication."""
    password_file: Path | None = None
    """File that holds the password; read at every attempt."""
    token: SecretStr | None = None
    """Bearer token; takes the place of user name and password."""
    token_file: Path | None = None
    """File that holds the bearer token; read at every attempt, so that it may be renewed."""
    ca_file: Path | None = None
    """Certificates (PEM) that are trusted in the place of the well-known authorities."""
    certificate_file: Path | None = None
    """Our client certificate (PEM), with its chain."""
    key_file: Path | None = None
    """Private key of the client certificate (PEM), unless it is in the same file."""
