"""``lentigo doctor``: looks at every part and says PASS, WARN or FAIL, with the remedy.

Checks never change anything. Exit code 1 when one of them fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.engine import make_url

from gateway.delivery.echo import echo
from gateway.delivery.routes import Destination, is_web_address, parse_routes
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.errors import GatewayError, RecordUnavailable, SettingsError
from gateway.hardening.findings import Setup
from gateway.hardening.rules import REFUSED, RULES, weaknesses
from gateway.home import RunningInstance, resolve_home, running_instance
from gateway.host.embedded import ServerMissing, find_redis_server, find_triton
from gateway.host.services import answers
from gateway.listener.acceptance import parse_peers
from gateway.settings import (
    BrokerSettings,
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    StoreSettings,
    known_variables,
)
from gateway.store.audit import Trail
from gateway.store.engine import MIGRATIONS, open_engine, reading
from gateway.store.tables import AuditSink

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_STYLE = {PASS: "green", WARN: "yellow", FAIL: "bold red"}
_WARN_FREE_BYTES = 5 * 1024**3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check saw."""

    part: str
    verdict: str
    said: str
    remedy: str = field(default="")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The installation under examination."""

    store: StoreSettings
    listener: ListenerSettings
    dashboard: DashboardSettings
    delivery: DeliverySettings
    instance: RunningInstance | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--home", metavar="DIR", help="folder of the installation to look at")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def check_python(_: Subject) -> Iterator[Finding]:
    """Python's version decides which wheels exist."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info[:2] in {(3, 11), (3, 12)} and sys.platform == "linux"
    yield Finding(
        part="Python",
        verdict=PASS if supported else FAIL,
        said=f"{version} on {sys.platform}",
        remedy="" if supported else "use CPython 3.11 or 3.12 on Linux",
    )


def check_programs(subject: Subject) -> Iterator[Finding]:
    """The embedded servers are there, or others are named."""
    programs: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("redis-server", "LENTIGO_BROKER_URL", find_redis_server),
        ("tritonserver", "LENTIGO_TRITON_URL", find_triton),
    )
    for part, variable, find in programs:
        if os.environ.get(variable) and subject.instance is None:
            yield Finding(part=part, verdict=PASS, said=f"external, by {variable}")
            continue
        try:
            find()
        except ServerMissing as exc:
            said, _, remedy = str(exc).partition(": ")
            yield Finding(part=part, verdict=FAIL, said=said, remedy=remedy)
        else:
            yield Finding(part=part, verdict=PASS, said="found")


def check_shared_memory(_: Subject) -> Iterator[Finding]:
    """Triton's Python backend talks to its stub through /dev/shm."""
    folder = Path("/dev/shm")
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    yield Finding(
        part="shared memory",
        verdict=PASS if free > 64 * 1024**2 else FAIL,
        said=f"{free / 1024**2:.0f} MiB free in /dev/shm",
        remedy="" if free > 64 * 1024**2 else "mount a tmpfs of 256 MiB or more on /dev/shm",
    )


def check_home(subject: Subject) -> Iterator[Finding]:
    """The home folder is ours, private, and has room."""
    home = subject.store.home
    place = next(folder for folder in (home, *home.parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        yield Finding(
            part="home",
            verdict=FAIL,
            said=f"{home} cannot be written",
            remedy="give --home a folder that this user owns",
        )
        return
    free = shutil.disk_usage(place).free
    reserve = subject.listener.reserve_bytes
    verdict = FAIL if free < reserve else WARN if free < _WARN_FREE_BYTES else PASS
    yield Finding(
        part="disk",
        verdict=verdict,
        said=f"{free / 1024**3:.1f} GiB free for {home}",
        remedy=""
        if verdict == PASS
        else f"free some space: under {reserve / 1024**2:.0f} MiB instances are refused (A700)",
    )


def check_record(subject: Subject) -> Iterator[Finding]:
    """The database answers and has the schema of this version."""
    url = subject.store.record_url
    file = make_url(url).database if url.startswith("sqlite") else None
    if file is not None and not Path(file).exists():
        yield Finding(
            part="record", verdict=WARN, said="no record yet", remedy="`lentigo up` makes it"
        )
        return
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except RecordUnavailable as exc:
        yield Finding(
            part="record",
            verdict=FAIL,
            said=str(exc),
            remedy="check LENTIGO_DATABASE_URL and that the database server runs",
        )
        return
    finally:
        engine.dispose()
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    yield Finding(
        part="record",
        verdict=PASS if current == head else FAIL,
        said=f"{engine.dialect.name}, schema {current}",
        remedy="" if current == head else f"run `python -m gateway migrate` (newest is {head})",
    )


def check_settings(subject: Subject) -> Iterator[Finding]:
    """Peers and destination can be read."""
    try:
        parse_peers(subject.listener.allow_entries)
        parse_routes(subject.delivery.destination)
    except GatewayError as exc:
        yield Finding(part="settings", verdict=FAIL, said=str(exc), remedy="mend that setting")
        return
    given = sorted(name for name in known_variables() if name in os.environ)
    yield Finding(
        part="settings", verdict=PASS, said=f"read; set: {', '.join(given) or 'none (defaults)'}"
    )


def check_running(subject: Subject) -> Iterator[Finding]:
    """The services of a running instance answer."""
    instance = subject.instance
    if instance is None:
        yield Finding(
            part="services",
            verdict=WARN,
            said=f"nothing runs on {subject.store.home}",
            remedy="start it with `lentigo up`",
        )
        return
    yield _answer("broker", _ping(instance.broker_url or BrokerSettings().url))
    if instance.triton_http_url:
        yield _answer("triton", _http(f"{instance.triton_http_url}/v2/health/ready"))
    if subject.dashboard.tls_certificate is None:
        page = _http(f"http://127.0.0.1:{instance.http_port}/healthz")
    else:  # its certificate is for a name
        page = "" if answers("127.0.0.1", instance.http_port) else "does not answer"
    yield _answer("admin page", page)
    listener = Destination(ae_title=instance.ae_title, host="127.0.0.1", port=instance.dicom_port)
    yield _answer("listener", echo(listener, calling_ae_title="DOCTOR"))


def _answer(part: str, problem: str) -> Finding:
    return Finding(
        part=part,
        verdict=FAIL if problem else PASS,
        said=problem or "answers",
        remedy="see its log in the home's logs folder; `lentigo up` restarts it" if problem else "",
    )


def _ping(url: str) -> str:
    path = url.removeprefix("redis+socket://")
    try:
        client = (
            redis.Redis(unix_socket_path=path, socket_timeout=2.0)
            if path != url
            else redis.Redis.from_url(url, socket_timeout=2.0)
        )
        client.ping()
    except (redis.RedisError, ValueError) as exc:
        return f"does not answer ({type(exc).__name__})"
    return ""


def _http(url: str) -> str:
    with (
        contextlib.suppress(urllib.error.URLError, OSError),
        urllib.request.urlopen(url, timeout=3.0) as reply,  # loopback only
    ):
        return "" if reply.status == 200 else f"answers with status {reply.status}"
    return "does not answer"


def check_destination(subject: Subject) -> Iterator[Finding]:
    """The PACS answers a C-ECHO."""
    wanted = subject.instance.destination if subject.instance else subject.delivery.destination
    if not wanted:
        yield Finding(
            part="destination",
            verdict=WARN,
            said="none: results stay in the results folder",
            remedy="give `lentigo up --send-to AET@HOST:PORT`",
        )
        return
    with contextlib.suppress(GatewayError):
        for route in parse_routes(wanted):
            if is_web_address(route.name):
                problem = StowSender(route.name, subject.delivery, StowSettings()).probe()
                answers, remedy = "answers QIDO-RS", "check its address and LENTIGO_STOW_*"
            else:
                destination = Destination.parse(route.name)
                problem = echo(destination, calling_ae_title=subject.delivery.calling_ae_title)
                answers = "answers C-ECHO"
                remedy = "check its address, and that it knows our AE title and host"
            yield Finding(
                part="destination",
                verdict=FAIL if problem else PASS,
                said=f"{route.name} {problem or answers}",
                remedy=remedy if problem else "",
            )


def check_resolving(_: Subject) -> Iterator[Finding]:
    """The host can name its own loopback, which half of all start-up trouble comes down to."""
    try:
        socket.getaddrinfo("localhost", None)
    except OSError:
        yield Finding(
            part="localhost",
            verdict=WARN,
            said="cannot be resolved",
            remedy="add `127.0.0.1 localhost` to /etc/hosts",
        )


def check_weaknesses(subject: Subject) -> Iterator[Finding]:
    """Nothing stands open that need not."""
    setup = Setup(
        store=subject.store,
        listener=subject.listener,
        dashboard=subject.dashboard,
        delivery=subject.delivery,
    )
    try:
        found = weaknesses(setup)
    except SettingsError as exc:
        yield Finding(part="security", verdict=FAIL, said=str(exc), remedy="mend that setting")
        return
    for each in found:
        is_failure = each.level == REFUSED and not each.is_accepted
        insisted = " (insisted on by LENTIGO_SECURITY_ACCEPT)" if each.is_accepted else ""
        yield Finding(
            part="security",
            verdict=FAIL if is_failure else WARN,
            said=f"{each.name}: {each.said}{insisted}",
            remedy=each.cure,
        )
    if not found:
        yield Finding(part="security", verdict=PASS, said=f"none of {len(RULES)} weaknesses")


def check_audit(subject: Subject) -> Iterator[Finding]:
    """The audit trail reaches its file and the syslog server."""
    if _has_no_record(subject):
        return  # said by the check of the record
    engine = open_engine(subject.store.record_url)
    try:
        entries = Trail(engine).head().entries
        with reading(engine) as connection:
            sinks = connection.execute(
                select(AuditSink.name, AuditSink.position, AuditSink.error).order_by(AuditSink.name)
            ).all()
    except RecordUnavailable:
        return
    finally:
        engine.dispose()
    for name, position, error in sinks:
        yield Finding(
            part=f"audit {name}",
            verdict=WARN if error else PASS,
            said=f"{position} of {entries} entries" + (f": {error}" if error else ""),
            remedy="mend it: the entries wait in the record and are sent then" if error else "",
        )


def _has_no_record(subject: Subject) -> bool:
    url = make_url(subject.store.record_url)
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    check_python,
    check_programs,
    check_shared_memory,
    check_resolving,
    check_home,
    check_record,
    check_settings,
    check_weaknesses,
    check_audit,
    check_running,
    check_destination,
)


def examine(subject: Subject) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check(subject)]


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when something fails."""
    home = resolve_home(args.home)
    subject = Subject(
        store=StoreSettings(home=home),
        listener=ListenerSettings(),
        dashboard=DashboardSettings(),
        delivery=DeliverySettings(),
        instance=running_instance(home),
    )
    findings = examine(subject)
    if args.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("", "part", "what was seen", "what to do"):
            table.add_column(title, overflow="fold")
        for finding in findings:
            style = _STYLE[finding.verdict]
            table.add_row(
                f"[{style}]{finding.verdict}[/]", finding.part, finding.said, finding.remedy
            )
        Console().print(table)
    return 1 if any(finding.verdict == FAIL for finding in findings) else 0
