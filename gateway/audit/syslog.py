"""Audit messages as syslog: RFC 5424 lines over UDP (RFC 5426), TCP (RFC 6587) or TLS (RFC 5425).

The same line goes into the audit file. Place in the chain and digest travel as structured data, so
whoever keeps the lines can say later whether the record still holds what was handed on.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import SettingsError, SinkUnavailable
from gateway.store.audit import Anchor, Entry

_PRIORITY = 10 * 8 + 5
"""PRI: security and authorisation messages, notice (IHE ITI TF-2 3.20.4.1.2.1)."""
_MESSAGE_ID = "DICOM+RFC3881"  # PS3.15 A.6, A.7
# RFC 5612: a number for examples; this software has no enterprise number of its own.
_DATA_ID = "lentigo@32473"
_ANCHOR = re.compile(rf'\[{re.escape(_DATA_ID)} id="(\d+)" sha256="([0-9a-f]{{64}})"')
_MAX_DATAGRAM_BYTES = 65507
_TIMEOUT_S = 5.0
_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}


def syslog_line(entry: Entry, message: str, host: str, process_id: int) -> str:
    """Return the RFC 5424 line of an entry; ``message`` is its XML on one line."""
    moment = entry.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    hostname = re.sub(r"[^\x21-\x7e]", "_", host)[:255] or "-"
    anchor = f'[{_DATA_ID} id="{entry.id}" sha256="{entry.sha256}" previous="'
    return (
        f"<{_PRIORITY}>1 {moment} {hostname} lentigo {process_id} {_MESSAGE_ID} "
        f'{anchor}{entry.previous_sha256}"] {message}'
    )


def anchor_of(line: str) -> Anchor | None:
    """Return which entry a line was made of; None when it is none of ours."""
    found = _ANCHOR.search(line)
    return Anchor(id=int(found[1]), sha256=found[2]) if found else None


@dataclass(frozen=True, kw_only=True)
class SyslogServer:
    """Where audit messages are sent."""

    transport: str
    """udp, tcp or tls."""
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> SyslogServer:
        """Read ``udp://HOST[:PORT]``, ``tcp://HOST[:PORT]`` or ``tls://HOST[:PORT]``.

        Raises
        ------
        SettingsError
            It names no server.

        Examples
        --------
        >>> SyslogServer.parse("tls://audit.hospital.example").port
        6514
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/"):
            raise SettingsError(
                "LENTIGO_AUDIT_SYSLOG is written udp://HOST:PORT, tcp://HOST:PORT or "
                "tls://HOST:PORT"
            )
        return cls(transport=parts.scheme, host=parts.hostname, port=port or _PORTS[parts.scheme])


def tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the context of a TLS connection whose server is always verified.

    Raises
    ------
    SettingsError
        A file cannot be used; the message names it.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9662
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            f"the certificate files of LENTIGO_AUDIT_SYSLOG cannot be used ({type(exc).__name__})"
        ) from exc
    return context


class SyslogSender:
    """Sends lines to one server; connects when there is something to send."""

    def __init__(self, server: SyslogServer, tls: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._tls = tls
        self._connection: socket.socket | None = None

    def send(self, lines: Sequence[str]) -> None:
        """Send lines in their order.

        Raises
        ------
        SinkUnavailable
            The server does not take them; some may have arrived, and all should be sent again.
        """
        try:
            if self._server.transport == "udp":
                self._send_datagrams(lines)
            else:
                self._send_stream(lines)
        except OSError as exc:  # ssl.SSLError is one
            self.close()
            raise SinkUnavailable(
                f"the syslog server does not take audit messages ({type(exc).__name__})"
            ) from exc

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send_datagrams(self, lines: Sequence[str]) -> None:
        address = (self._server.host, self._server.port)
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            sender.settimeout(_TIMEOUT_S)
            # Connected, so that "nobody listens there" (ICMP) is heard at the next datagram.
            sender.connect(where)
            for line in lines:
                sender.send(line.encode()[:_MAX_DATAGRAM_BYTES])

    def _send_stream(self, lines: Sequence[str]) -> None:
        connection = self._open()
        for line in lines:
            content = line.encode()
            connection.sendall(b"%d " % len(content) + content)  # octet counting, RFC 6587 3.4.1
        # Syslog has no answer. A server that went away has closed the connection, and then what
        # the kernel took for sent may be lost: all of it is sent again.
        if _is_closed(connection):
            raise ConnectionResetError("closed by the server")

    def _open(self) -> socket.socket:
        if self._connection is not None and _is_closed(self._connection):
            self.close()
        if self._connection is None:
            address = (self._server.host, self._server.port)
            connection = socket.create_connection(address, timeout=_TIMEOUT_S)
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(
                        connection, server_hostname=self._server.host
                    )
            except OSError:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed its side; syslog servers never send anything."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    finally:
        connection.settimeout(_TIMEOUT_S)
