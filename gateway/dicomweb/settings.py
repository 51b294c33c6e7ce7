"""Settings of the DICOMweb services that we offer."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.listener.acceptance import IpNetwork

GIB = 1024**3


class DicomwebSettings(BaseSettings):
    """DICOMweb on the port of the admin page."""

    model_config = SettingsConfigDict(
        env_prefix="LENTIGO_DICOMWEB_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    enabled: bool = True
    """Whether STOW-RS, UPS-RS and the rest under ``/dicomweb`` are offered."""
    allow: str = ""
    """Comma-separated networks or addresses that may ask; empty: whoever reaches the port. An
    account is needed in any case."""
    max_uploads: int = Field(default=8, ge=1)
    """STOW-RS requests received at a time; one more is answered with 503."""
    max_request_bytes: int = Field(default=64 * GIB, ge=1)
    """Largest body of a STOW-RS request; a larger one is answered with 413."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Silence within an upload after which it is given up."""
    max_results: int = Field(default=1000, ge=1)
    """Most matches in the answer to one search; more are fetched with ``offset``."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: str) -> str:
        _parse(value)
        return value

    @property
    def networks(self) -> tuple[IpNetwork, ...]:
        """The networks of ``allow``; none: no limit."""
        return _parse(self.allow)


def _parse(text: str) -> tuple[IpNetwork, ...]:
    return tuple(
        ipaddress.ip_network(entry.strip(), strict=False)
        for entry in text.split(",")
        if entry.strip()
    )
