"""TLS of DICOM connections, in and out, after the BCP 195 TLS profile (PS3.15 B.9, RFC 9325).

TLS 1.2 with forward secrecy and authenticated encryption, or TLS 1.3; no compression, no
renegotiation. Both sides verify by a CA file of the site's choosing, never by the host's own list:
what signs web pages does not sign a PACS. The file may also hold the peer's own certificate.
"""

from __future__ import annotations

import enum
import ssl
from pathlib import Path

from gateway.errors import TlsSettingsError

DICOM_TLS_PORT = 2762
"""The registered port of DICOM over TLS (PS3.8 9.1.1)."""

# RFC 9325 4.2; those of TLS 1.3 are OpenSSL's, all of which it recommends.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# OpenSSL's X509_V_ERR codes (x509_vfy.h).
_EXPIRED, _NOT_YET_VALID, _WRONG_HOST, _WRONG_ADDRESS = 10, 9, 62, 64


class TlsFault(enum.Enum):
    """Why a TLS connection does not come about; the value is for the administrator."""

    UNKNOWN_CA = "its certificate is not signed by the CA that we trust"
    EXPIRED = "its certificate has expired"
    NOT_YET_VALID = "its certificate is not valid yet (or our clock is wrong)"
    WRONG_HOST = "its certificate names another host"
    PLAIN_PEER = "it does not speak TLS on this port"
    CLIENT_CERTIFICATE = "it does not accept our certificate, or wants one that we do not have"
    VERSION = "it offers no TLS version or cipher of the BCP 195 profile"
    OTHER = "the TLS handshake failed"


# Words of OpenSSL's reasons. The alerts are what the peer said of our certificate (RFC 8446 6.2).
_REASONS = (
    ("WRONG_VERSION_NUMBER", TlsFault.PLAIN_PEER),
    ("UNSUPPORTED_PROTOCOL", TlsFault.VERSION),
    ("NO_SHARED_CIPHER", TlsFault.VERSION),
    ("ALERT_PROTOCOL_VERSION", TlsFault.VERSION),
    ("ALERT_HANDSHAKE_FAILURE", TlsFault.VERSION),
    ("ALERT_INSUFFICIENT_SECURITY", TlsFault.VERSION),
    ("CERTIFICATE_REQUIRED", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_UNKNOWN_CA", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_BAD_CERTIFICATE", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_CERTIFICATE", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_UNSUPPORTED_CERTIFICATE", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_ACCESS_DENIED", TlsFault.CLIENT_CERTIFICATE),
    ("ALERT_DECRYPT_ERROR", TlsFault.CLIENT_CERTIFICATE),
)


def server_context(
    certificate: Path, key: Path | None = None, client_ca: Path | None = None
) -> ssl.SSLContext:
    """Return the context of a listener.

    Parameters
    ----------
    certificate
        Our certificate and its chain, PEM.
    key
        Its private key, PEM, without a pass phrase; None when it stands in ``certificate``.
    client_ca
        CA certificates, PEM: a client must then show a certificate signed by one of them.

    Raises
    ------
    TlsSettingsError
        A file cannot be used; the message names it and says why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_certificate(context, certificate, key)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: Path,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    check_host_name: bool = True,
) -> ssl.SSLContext:
    """Return the context of a connection to a PACS.

    Parameters
    ----------
    ca
        CA certificates that may have signed the peer's certificate, or that one itself; PEM.
    certificate, key
        Ours, for a peer that wants one; as in `server_context`.
    check_host_name
        Whether the peer's certificate must name the host that we connect to.

    Raises
    ------
    TlsSettingsError
        A file cannot be used; the message names it and says why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = check_host_name
    _load_ca(context, ca)
    if certificate is not None:
        _load_certificate(context, certificate, key)
    return context


def tls_fault(error: OSError) -> TlsFault | None:
    """Return what an error of a connection says about TLS; None when it says nothing."""
    if not isinstance(error, ssl.SSLError):
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return {
            _EXPIRED: TlsFault.EXPIRED,
            _NOT_YET_VALID: TlsFault.NOT_YET_VALID,
            _WRONG_HOST: TlsFault.WRONG_HOST,
            _WRONG_ADDRESS: TlsFault.WRONG_HOST,
        }.get(error.verify_code, TlsFault.UNKNOWN_CA)
    if isinstance(error, ssl.SSLEOFError):
        return TlsFault.PLAIN_PEER
    reason = error.reason or ""
    return next((fault for word, fault in _REASONS if word in reason), TlsFault.OTHER)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # A site may hand out the certificate of one department's CA, or of the PACS alone.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    _must_be_readable(certificate)
    if key is not None:
        _must_be_readable(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_pass_phrase)
    except ssl.SSLError as exc:
        if "MISMATCH" in (exc.reason or ""):
            raise TlsSettingsError(
                f"the private key in {key or certificate} does not belong to the certificate in "
                f"{certificate}"
            ) from exc
        if "TOO_SMALL" in (exc.reason or "") or "TOO_WEAK" in (exc.reason or ""):
            raise TlsSettingsError(
                f"the key of the certificate in {certificate} is too weak; RSA needs 2048 bits"
            ) from exc
        raise TlsSettingsError(
            f"{certificate} holds no certificate in PEM, or {key or certificate} no private key"
        ) from exc


def _no_pass_phrase() -> str:
    # Without this OpenSSL would ask at the terminal of a service that has none.
    raise TlsSettingsError(
        "the private key of our certificate is protected by a pass phrase; store it without one, "
        "readable by this service's account alone"
    )


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    _must_be_readable(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise TlsSettingsError(f"{ca} holds no CA certificate in PEM") from exc


def _must_be_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise TlsSettingsError(f"{path} cannot be read: {exc.strerror}") from exc
