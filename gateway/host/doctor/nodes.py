"""The nodes that are spoken to: do they answer, and how long are their certificates valid."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography import x509

from gateway.delivery.echo import echo
from gateway.delivery.routes import FOLDER, Destination, is_web_address, parse_routes
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.errors import GatewayError
from gateway.host.doctor.finding import WARN, Finding, Subject, judged
from gateway.host.doctor.host import certificate_finding
from gateway.settings import CommitmentSettings, PriorSettings, TlsSettings
from gateway.store.work.destinations import OPEN, DestinationBoard

_ANSWER_S = 5.0
_THEIRS = "tell whoever runs that system: connections fail when it has run out"


def check_destinations(subject: Subject) -> Iterator[Finding]:
    """Every destination answers a C-ECHO, or a query of a DICOMweb service."""
    try:
        names = [route.name for route in parse_routes(subject.destination)]
    except GatewayError:
        return  # said by the check of the settings
    names = [name for name in names if name != FOLDER]
    if not names:
        yield Finding(
            part="destination",
            verdict=WARN,
            said="none: results stay in the results folder",
            remedy="give `lentigo up --send-to AET@HOST:PORT`",
        )
    for name in names:
        if is_web_address(name):
            yield from _web(subject, name)
        else:
            yield from _node(subject, "destination", Destination.parse(name))


def check_other_nodes(subject: Subject) -> Iterator[Finding]:
    """The PACS that earlier images come from, and senders that reports are sent to, answer."""
    named = [("earlier images", PriorSettings().pacs)]
    named += [("commitment report", each) for each in CommitmentSettings().peers.split(",")]
    for part, text in named:
        if not text.strip():
            continue
        try:
            node = Destination.parse(text)
        except GatewayError as exc:
            yield judged(part, str(exc), "", "mend that setting")
            continue
        yield from _node(subject, part, node)


def check_breakers(subject: Subject) -> Iterator[Finding]:
    """No destination is left alone because it did not answer the workers."""
    with subject.current_record() as engine:
        if engine is None:
            return
        board = DestinationBoard(
            engine, max_pause_s=subject.delivery.max_backoff_s, probe_s=_ANSWER_S
        )
        for each in board.all():
            if each.state == OPEN:
                yield Finding(
                    part="destination",
                    verdict=WARN,
                    said=f"{each.destination} is left alone since {each.since:%Y-%m-%d %H:%M} UTC: "
                    f"{each.reason}",
                    remedy="it is tried again by itself; results wait in the record",
                )


def _node(subject: Subject, part: str, node: Destination) -> Iterator[Finding]:
    began = time.monotonic()
    problem = echo(
        node,
        calling_ae_title=subject.delivery.calling_ae_title,
        timeout_s=min(_ANSWER_S, subject.delivery.timeout_s),
        tls=subject.tls,
    )
    took_ms = (time.monotonic() - began) * 1000
    yield judged(
        part,
        f"{node} {problem}" if problem else "",
        f"{node} answers C-ECHO in {took_ms:.0f} ms",
        "check its address, the network, and that it knows our AE title "
        f"({subject.delivery.calling_ae_title}) and host",
    )
    if node.is_tls:
        yield from _their_certificate(subject, str(node), node.host, node.port)


def _web(subject: Subject, address: str) -> Iterator[Finding]:
    problem = StowSender(address, subject.delivery, StowSettings()).probe()
    yield judged(
        "destination",
        f"{address} {problem}" if problem else "",
        f"{address} answers QIDO-RS",
        "check its address and LENTIGO_STOW_*",
    )
    parts = urlsplit(address)
    if parts.scheme == "https":
        yield from _their_certificate(subject, address, parts.hostname or "", parts.port or 443)


def _their_certificate(subject: Subject, what: str, host: str, port: int) -> Iterator[Finding]:
    end = their_certificate_end(host, port, subject.tls)
    if end is not None:
        days = (end - subject.clock()).total_seconds() / 86400
        yield certificate_finding(f"that of {what}", days, _THEIRS)


def their_certificate_end(host: str, port: int, tls: TlsSettings) -> dt.datetime | None:
    """Return when the certificate that a peer shows runs out; None where it shows none.

    Nothing is trusted here and nothing is sent: whether a connection may be made is another
    check's question.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        if tls.certificate:  # some show theirs only to whom they know
            context.load_cert_chain(tls.certificate, tls.key or None)
        with (
            socket.create_connection((host, port), timeout=_ANSWER_S) as line,
            context.wrap_socket(line, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except (OSError, ValueError):
        return None  # the echo has said it
    return x509.load_der_x509_certificate(shown).not_valid_after_utc if shown else None
