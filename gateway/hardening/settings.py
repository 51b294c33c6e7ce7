"""Settings of what is refused."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class SecuritySettings(BaseSettings):
    """Weaknesses that a site insists on."""

    model_config = SettingsConfigDict(
        env_prefix="LENTIGO_SECURITY_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    accept: str = ""
    """Comma-separated names of weaknesses to start with all the same; ``docs/security.md``."""
