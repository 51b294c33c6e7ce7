"""The certificates that an installation shows and trusts, and how long they last."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from gateway.settings import DashboardSettings, ListenerSettings, TlsSettings


@dataclass(frozen=True, kw_only=True)
class CertificateFile:
    """One PEM file of the settings."""

    use: str
    """As a label of metrics."""
    words: str
    """As people read it."""
    path: Path

    def days_left(self, now: dt.datetime) -> float:
        """Return the days until its first certificate runs out.

        Raises
        ------
        OSError, ValueError
            The file cannot be read, or holds no certificate.
        """
        first = x509.load_pem_x509_certificates(self.path.read_bytes())[0]
        return (first.not_valid_after_utc - now).total_seconds() / 86400


def certificate_files(
    listener: ListenerSettings, dashboard: DashboardSettings, tls: TlsSettings
) -> list[CertificateFile]:
    """Return every certificate that is set, ours and those of the CAs that we trust."""
    named = (
        ("listener", "listener", listener.tls_certificate),
        ("listener-client-ca", "listener, CA of clients", listener.tls_client_ca),
        ("admin-page", "admin page", dashboard.tls_certificate),
        ("delivery", "delivery", Path(tls.certificate) if tls.certificate else None),
        ("delivery-ca", "delivery, CA of peers", Path(tls.ca) if tls.ca else None),
    )
    return [
        CertificateFile(use=use, words=words, path=path)
        for use, words, path in named
        if path is not None
    ]
