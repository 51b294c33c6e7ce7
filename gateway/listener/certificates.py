"""Our certificate for TLS, loaded again when its files change: renewals need no restart."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from gateway.dicom.tls import server_context
from gateway.errors import TlsSettingsError
from gateway.settings import ListenerSettings

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """The TLS context of a listener.

    Parameters
    ----------
    certificate, key, client_ca
        As of ``gateway.dicom.tls.server_context``.
    require_client_certificate
        With ``client_ca``: whether a client without a certificate is turned away.

    Raises
    ------
    TlsSettingsError
        A file cannot be used.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path | None = None,
        client_ca: Path | None = None,
        *,
        require_client_certificate: bool = True,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._require_client_certificate = require_client_certificate
        self._lock = threading.Lock()
        self._stamp = _stamp(self._files)
        self._context = self._load()

    @classmethod
    def of(cls, settings: ListenerSettings) -> Certificates | None:
        """Return the certificates that the settings name; None when they name none.

        Raises
        ------
        TlsSettingsError
            A file cannot be used, or settings of TLS come without a certificate.
        """
        if settings.tls_certificate is None:
            if settings.tls_port is not None or settings.tls_client_ca or settings.tls_key:
                raise TlsSettingsError(
                    "TLS of the listener needs LENTIGO_LISTENER_TLS_CERTIFICATE: our certificate"
                )
            return None
        return cls(
            settings.tls_certificate,
            settings.tls_key,
            settings.tls_client_ca,
            require_client_certificate=settings.tls_require_client_certificate,
        )

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection.

        Files that changed and cannot be used leave the former ones in force, with an error in
        the log: a renewal may be half written.
        """
        with self._lock:
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._load()
                except TlsSettingsError as exc:
                    log.error(
                        "a renewed certificate cannot be used; the former one stays",
                        extra={"action": "certificate.unusable", "error": str(exc)},
                    )
                else:
                    log.info("a renewed certificate is in use", extra={"action": "certificate.new"})
            return self._context

    @property
    def _files(self) -> tuple[Path, ...]:
        return tuple(
            path for path in (self._certificate, self._key, self._client_ca) if path is not None
        )

    def _load(self) -> ssl.SSLContext:
        context = server_context(self._certificate, self._key, self._client_ca)
        if self._client_ca is not None and not self._require_client_certificate:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _stamp(files: Sequence[Path]) -> _Stamp:
    """Return what changes when a file is written or replaced; zeros for one that is gone."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
