"""One HTTP POST to a receiver outside, guarded: only to hosts that the site has named.

The name is resolved once, every address is looked at, and the connection goes to the address that
was looked at, so that a name that changes between the two cannot lead elsewhere. Redirects are
not followed. A host is let in by its name, never by its address alone.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from gateway.errors import NoticeRefused, NoticeUndelivered, SettingsError

Resolver = Callable[[str, int], list[str]]
_MAX_ANSWER_BYTES = 64 * 1024
# What another try may change: RFC 9110 15.5.9, 15.6; RFC 6585 4; 425 Too Early.
_PASSING = frozenset({401, 403, 404, 408, 409, 423, 425, 429})
_MAX_RETRY_AFTER_S = 3600.0


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; raises ``OSError``."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def client_tls(ca: Path | None) -> ssl.SSLContext:
    """Return a TLS context that checks the receiver's certificate and name.

    Raises
    ------
    SettingsError
        The CA file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"{ca} holds no CA certificates ({type(exc).__name__})") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def check_address(address: str, setting: str) -> SplitResult:
    """Return the parts of an address that may be posted to.

    Raises
    ------
    SettingsError
        It is not https, or http beyond loopback; it carries credentials or a fragment; it cannot
        be read. The message names the setting, never the address: it may hold a token.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as exc:
        raise SettingsError(f"{setting}: an address cannot be read") from exc
    host = parts.hostname or ""
    if not host or port == 0 or parts.scheme not in {"http", "https"}:
        raise SettingsError(f"{setting}: give addresses as https://HOST[:PORT]/PATH")
    if parts.username or parts.password or parts.fragment:
        raise SettingsError(f"{setting}: an address may hold no credentials and no fragment")
    if any(character.isspace() or ord(character) < 32 for character in address):
        raise SettingsError(f"{setting}: an address holds a blank or a control character")
    if parts.scheme == "http" and host not in {"localhost", "127.0.0.1", "::1"}:
        raise SettingsError(f"{setting}: plain http is for loopback only; give https")
    return parts


@dataclass(frozen=True, kw_only=True)
class Poster:
    """Posts to one address.

    Parameters
    ----------
    allowed_hosts
        Names of hosts that may be posted to, in lower case.
    """

    address: str
    setting: str
    allowed_hosts: frozenset[str]
    timeout_s: float
    tls: ssl.SSLContext
    resolve: Resolver = field(default=resolve)

    def __call__(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post; return the status, which is 2xx.

        Raises
        ------
        NoticeUndelivered
            No connection, no answer, or a status under which another try may succeed.
        NoticeRefused
            The host may not be posted to, or the receiver will never take this.
        """
        parts = check_address(self.address, self.setting)
        try:
            status, retry_after = self._post(parts, self._where(parts), body, headers)
        except ssl.SSLError as exc:
            raise NoticeUndelivered("the receiver's TLS cannot be trusted") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise NoticeUndelivered(f"the receiver does not answer ({type(exc).__name__})") from exc
        if 200 <= status < 300:
            return status
        said = f"the receiver answered {status}"
        if status >= 500 or status in _PASSING:
            raise NoticeUndelivered(said, status=status, retry_after_s=_seconds(retry_after))
        raise NoticeRefused(said, status=status)

    def _where(self, parts: SplitResult) -> str:
        """Return the address to connect to."""
        host = (parts.hostname or "").lower()
        if host not in self.allowed_hosts:
            raise NoticeRefused("the receiver's host is not among those that may be posted to")
        addresses = self.resolve(host, _port(parts))
        if not addresses:
            raise NoticeUndelivered("the receiver's name has no address")
        for each in addresses:
            if not is_fit(each):
                raise NoticeRefused(
                    "the receiver's name leads to a network that is never posted to"
                )
        return addresses[0]

    def _post(
        self, parts: SplitResult, where: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str]:
        host, port = parts.hostname or "", _port(parts)
        connection = http.client.HTTPConnection(where, port, timeout=self.timeout_s)
        try:
            connection.connect()
            if parts.scheme == "https":
                # The name of the setting is checked against the certificate.
                connection.sock = self.tls.wrap_socket(connection.sock, server_hostname=host)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            name = f"[{host}]" if ":" in host else host
            is_default = port == (443 if parts.scheme == "https" else 80)
            connection.request(
                "POST",
                path,
                body=body,
                headers={**headers, "Host": name if is_default else f"{name}:{port}"},
            )
            answer = connection.getresponse()
            answer.read(_MAX_ANSWER_BYTES)
            return answer.status, answer.getheader("retry-after", "") or ""
        finally:
            connection.close()


def is_fit(address: str) -> bool:
    """Whether an address may be connected to; link-local holds the metadata services of clouds.

    Examples
    --------
    >>> is_fit("10.1.2.3"), is_fit("169.254.169.254"), is_fit("::ffff:169.254.169.254")
    (True, False, False)
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return not (found.is_link_local or found.is_multicast or found.is_unspecified)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _seconds(retry_after: str) -> float:
    """Return the pause that a receiver asks for (RFC 9110 10.2.3, in seconds only)."""
    return min(float(retry_after), _MAX_RETRY_AFTER_S) if retry_after.isdecimal() else 0.0
