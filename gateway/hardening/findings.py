"""What is looked for in a set-up; each function says what it saw, once for each place.

Nothing is changed, and nothing asked but settings, the modes of files and libpq's environment.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from gateway.audit.settings import AuditSettings
from gateway.dashboard.identity.settings import OpenidSettings
from gateway.delivery.stow_settings import StowSettings
from gateway.errors import PeerSyntaxError
from gateway.hardening.settings import SecuritySettings
from gateway.listener.acceptance import Peer
from gateway.observation.settings import (
    EventSettings,
    MailSettings,
    MetricsSettings,
    TracingSettings,
)
from gateway.roles import ADMIN
from gateway.settings import (
    BrokerSettings,
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    PriorSettings,
    StoreSettings,
    TlsSettings,
)
from gateway.store.people.accounts import MIN_PASSWORD_CHARACTERS

LISTEN, DASHBOARD, SWEEP, WORK = "listen", "dashboard", "sweep", "work"
SERVICES = frozenset({LISTEN, DASHBOARD, SWEEP, WORK})
_VERIFIED = frozenset({"verify-ca", "verify-full"})  # PostgreSQL's sslmode
_BESIDE_OBVIOUS = 8
"""Characters that a password needs beside a word that everybody tries."""
MIN_SECRET_CHARACTERS = 16
"""Of what only programs have to know; nobody types it."""
_EVERYBODY = frozenset(
    # What each account of a directory has: Active Directory, Entra ID, Keycloak, and plain words.
    (
        *("*", "all", "all users", "authenticated users", "domain users", "everybody"),
        *("everyone", "offline_access", "uma_authorization", "user", "users"),
    )
)
_OBVIOUS = ("password", "passwort", "lentigo", "changeme", "123456", "qwerty", "admin")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings that decide who gets in."""

    services: frozenset[str] = SERVICES
    """Which of them this process is or starts."""
    store: StoreSettings = field(default_factory=StoreSettings)
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    stow: StowSettings = field(default_factory=StowSettings)
    priors: PriorSettings = field(default_factory=PriorSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    events: EventSettings = field(default_factory=EventSettings)
    mail: MailSettings = field(default_factory=MailSettings)
    openid: OpenidSettings = field(default_factory=OpenidSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)


def is_beyond_loopback(host: str) -> bool:
    """Whether others than this very host can be, or can reach, an address.

    Examples
    --------
    >>> is_beyond_loopback("127.0.0.1"), is_beyond_loopback("0.0.0.0")
    (False, True)
    """
    host = host.strip().strip("[]").partition("%")[0]
    if host.lower() == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # "" is every address; a name may be anybody


def _listens_openly(setup: Setup) -> bool:
    return LISTEN in setup.services and is_beyond_loopback(setup.listener.bind)


def listener_plain(setup: Setup) -> Iterator[str]:
    """Whether a port of the listener speaks plain DICOM to others."""
    listener = setup.listener
    has_plain_port = listener.tls_certificate is None or listener.tls_port is not None
    if _listens_openly(setup) and has_plain_port:
        yield f"the listener speaks plain DICOM on {listener.bind}:{listener.port}"


def listener_unlisted(setup: Setup) -> Iterator[str]:
    """Whether the listener is open to others and names none of them."""
    if _listens_openly(setup) and not setup.listener.allow_entries:
        yield f"the listener is bound to {setup.listener.bind} and no peer is named"


def listener_everyone(setup: Setup) -> Iterator[str]:
    """Entries of the allow-list that stand for everybody."""
    if LISTEN not in setup.services:
        return
    for entry in setup.listener.allow_entries:
        try:
            peer = Peer.parse(entry)
        except PeerSyntaxError:
            continue  # the listener itself says what is wrong with it
        is_any_place = peer.network is not None and peer.network.prefixlen == 0
        if is_any_place and not peer.ae_title.strip("*"):
            yield f"the allow-list holds {entry}: everybody"


def listener_any_place(setup: Setup) -> Iterator[str]:
    """Entries of the allow-list that name a title and any address."""
    if LISTEN not in setup.services:
        return
    for entry in setup.listener.allow_entries:
        try:
            peer = Peer.parse(entry)
        except PeerSyntaxError:
            continue
        is_any_place = peer.network is not None and peer.network.prefixlen == 0
        if is_any_place and peer.ae_title.strip("*"):
            yield f"the allow-list holds {entry}: an AE title is no proof, the address is all of it"


def page_plain(setup: Setup) -> Iterator[str]:
    """Whether the admin page is served over plain HTTP to others."""
    page = setup.dashboard
    is_open = DASHBOARD in setup.services and is_beyond_loopback(page.bind)
    if is_open and page.tls_certificate is None:
        yield f"the admin page is served over plain HTTP on {page.bind}:{page.port}"


def weak_password(setup: Setup) -> Iterator[str]:
    """What is wrong with the initial password."""
    given = setup.dashboard.initial_password
    if given is not None:
        yield from _guessable("the initial password", given, MIN_PASSWORD_CHARACTERS)


def _guessable(what: str, given: SecretStr, shortest: int) -> Iterator[str]:
    """Say why a secret is none."""
    secret = given.get_secret_value()
    beside = functools.reduce(
        lambda left, word: left.replace(word, ""), _OBVIOUS, secret.casefold()
    )
    is_obvious = len(beside) < min(_BESIDE_OBVIOUS, len(secret))
    if len(secret) < shortest:
        yield f"{what} has fewer than {shortest} characters"
    elif len(set(secret)) < shortest // 2:
        yield f"{what} repeats too few characters"
    elif is_obvious:
        yield f"{what} is built on a word that everybody tries"


def weak_secrets(setup: Setup) -> Iterator[str]:
    """What is wrong with the secrets between programs: metrics, webhooks, OpenID."""
    named = (
        ("the token of the metrics", setup.metrics.token if setup.metrics.enabled else None),
        ("the secret of webhooks", setup.events.secret if setup.events.addresses else None),
        ("the OpenID client secret", setup.openid.client_secret if setup.openid.is_on else None),
    )
    for what, given in named:
        if given is not None:
            yield from _guessable(what, given, MIN_SECRET_CHARACTERS)


def openid_everybody(setup: Setup) -> Iterator[str]:
    """Groups that everybody is in and that make an administrator."""
    for group, role in setup.openid.role_of_group if setup.openid.is_on else ():
        name = group.casefold().lstrip("/")
        if role == ADMIN and (name in _EVERYBODY or name.startswith("default-roles-")):
            yield f"everybody at the OpenID provider is an administrator here, by the group {group}"


def mail_plain(setup: Setup) -> Iterator[str]:
    """Whether alarms leave this host readable."""
    mail = setup.mail
    host = mail.server.rpartition(":")[0]
    if mail.is_on and mail.security == "none" and is_beyond_loopback(host):
        yield f"alarms go to {host} by mail without TLS"


def _readable(paths: Iterator[Path], bits: int) -> Iterator[Path]:
    for path in paths:
        try:
            if path.stat().st_mode & bits:
                yield path
        except OSError:
            continue  # not there yet, or not ours to look at; its reader will say so


def home_open(setup: Setup) -> Iterator[str]:
    """What of the home folder every user of the host may read or write."""
    home = setup.store.home
    for _ in _readable(iter((home,)), stat.S_IWOTH):
        yield f"every user of this host may write in {home}"
    if not list(_readable(iter((home,)), stat.S_IXOTH)):
        return  # nobody else gets in, whatever the modes inside say
    parts = ("record.sqlite3", "spool", "results", "logs", "audit", "initial-password.txt")
    for part in _readable((home / name for name in parts), stat.S_IROTH):
        yield f"every user of this host may read {part}"


def home_listed(setup: Setup) -> Iterator[str]:
    """Whether other users may list the home folder."""
    for home in _readable(iter((setup.store.home,)), stat.S_IROTH | stat.S_IRGRP):
        yield f"other users of this host may list {home}"


def _key_files(setup: Setup) -> Iterator[Path]:
    given = (
        setup.listener.tls_key or setup.listener.tls_certificate,
        setup.dashboard.tls_key or setup.dashboard.tls_certificate,
        setup.tls.key or setup.tls.certificate,
        setup.stow.key_file or setup.stow.certificate_file,
        setup.audit.syslog_key or setup.audit.syslog_certificate,
    )
    yield from (Path(each) for each in given if each)


def keys_readable(setup: Setup) -> Iterator[str]:
    """Private keys that every user of the host may read."""
    for path in _readable(_key_files(setup), stat.S_IROTH):
        yield f"every user of this host may read the private key {path}"


def secrets_readable(_: Setup) -> Iterator[str]:
    """Nothing here: secrets are looked at where they are read."""
    # Looked for where the secret is read (gateway.secret_files), before there are settings.
    yield from ()


def broker_open(setup: Setup) -> Iterator[str]:
    """Whether a Redis elsewhere is used without a password."""
    parts = urlsplit(setup.broker.url)
    is_elsewhere = is_beyond_loopback(parts.hostname or "127.0.0.1")
    if parts.scheme in {"redis", "rediss"} and is_elsewhere and not parts.password:
        yield f"Redis at {parts.hostname} is used without a password"


def broker_plain(setup: Setup) -> Iterator[str]:
    """Whether a Redis elsewhere is used without TLS."""
    parts = urlsplit(setup.broker.url)
    if parts.scheme == "redis" and is_beyond_loopback(parts.hostname or "127.0.0.1"):
        yield f"Redis at {parts.hostname} is used without TLS: its password can be overheard"


def _record_mode(setup: Setup) -> tuple[str, str] | None:
    """(host, sslmode) of a PostgreSQL beyond loopback; None for any other record."""
    try:
        url = make_url(setup.store.record_url)
    except ArgumentError:
        return None  # whoever opens it says so
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    host = url.host or query.get("host", "")
    if url.get_backend_name() != "postgresql" or not host or host.startswith("/"):
        return None
    mode = query.get("sslmode") or os.environ.get("PGSSLMODE", "prefer")
    return (host, mode) if is_beyond_loopback(host) else None


def record_plain(setup: Setup) -> Iterator[str]:
    """Whether a PostgreSQL elsewhere may be used without TLS."""
    found = _record_mode(setup)
    if found is not None and found[1] not in _VERIFIED | {"require"}:
        yield f"PostgreSQL at {found[0]} may be spoken to without TLS (sslmode={found[1]})"


def record_unverified(setup: Setup) -> Iterator[str]:
    """Whether the certificate of a PostgreSQL elsewhere goes unchecked."""
    found = _record_mode(setup)
    if found is not None and found[1] == "require":
        yield f"the certificate of PostgreSQL at {found[0]} is not checked (sslmode=require)"


def credentials_plain(setup: Setup) -> Iterator[str]:
    """Where credentials cross the network readable."""
    priors, stow = setup.priors, setup.stow
    url = urlsplit(priors.dicomweb_url)
    has_secret = bool(priors.dicomweb_password or priors.dicomweb_token or url.password)
    if url.scheme == "http" and has_secret and is_beyond_loopback(url.hostname or ""):
        yield f"credentials go to {url.hostname} over plain HTTP (LENTIGO_PRIORS_DICOMWEB_URL)"
    host = setup.mail.server.rpartition(":")[0]
    is_open = setup.mail.security == "none" and is_beyond_loopback(host)
    if setup.mail.is_on and is_open and setup.mail.username:
        yield f"credentials go to {host} by plain SMTP (LENTIGO_MAIL_SECURITY)"
    url = urlsplit(setup.tracing.endpoint)
    is_open = url.scheme == "http" and is_beyond_loopback(url.hostname or "")
    if is_open and setup.tracing.token:
        yield f"the token of the traces goes to {url.hostname} over plain HTTP"
    has_secret = bool(stow.password or stow.token or stow.password_file or stow.token_file)
    for entry in setup.delivery.destination.split(","):
        url = urlsplit(entry.strip())
        is_open = url.scheme == "http" and is_beyond_loopback(url.hostname or "")
        if is_open and (has_secret or url.password):
            yield f"credentials go to {url.hostname} over plain HTTP (LENTIGO_DELIVERY_DESTINATION)"


def destination_plain(setup: Setup) -> Iterator[str]:
    """Destinations elsewhere that get results over plain DICOM or HTTP."""
    for entry in (each.strip() for each in setup.delivery.destination.split(",") if each.strip()):
        url = urlsplit(entry)
        if url.scheme == "http" and is_beyond_loopback(url.hostname or ""):
            yield f"results go to {url.hostname} over plain HTTP"
        host = entry.partition("@")[2].partition("/")[0].rpartition(":")[0]
        is_plain = "://" not in entry and "/tls" not in entry
        if is_plain and host and is_beyond_loopback(host):
            yield f"results go to {host} over plain DICOM"


def syslog_plain(setup: Setup) -> Iterator[str]:
    """Whether audit messages leave this host readable."""
    url = urlsplit(setup.audit.syslog)
    if url.scheme in {"udp", "tcp"} and is_beyond_loopback(url.hostname or ""):
        yield f"audit messages go to {url.hostname} over plain {url.scheme.upper()}"
