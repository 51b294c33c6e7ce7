"""Settings of the audit trail."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class AuditSettings(BaseSettings):
    """Where the audit trail goes beside the record."""

    model_config = SettingsConfigDict(
        env_prefix="LENTIGO_AUDIT_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    log: Path | None = None
    """File of audit messages; ``audit/audit.log`` in the home folder when absent."""
    syslog: str = ""
    """Audit record repository: ``udp://HOST:PORT``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``."""
    syslog_ca: Path | None = None
    """Certificates that sign the repository's; the system's when absent."""
    syslog_certificate: Path | None = None
    """Certificate that we show to the repository."""
    syslog_key: Path | None = None
    """Key of that certificate."""
    source_id: str = ""
    """AuditSourceID of every message; the name of the host when empty."""
    enterprise_site: str = ""
    """AuditEnterpriseSiteID of every message."""
    patient_id: bool = False
    """Write Patient IDs into messages; else the digest that stands for the patient."""
    interval_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks for something to report."""
