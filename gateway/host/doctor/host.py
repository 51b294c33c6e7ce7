"""The host itself: versions, programs, folders, settings, certificates."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.delivery.routes import parse_routes
from gateway.errors import GatewayError, SettingsError
from gateway.hardening.findings import Setup
from gateway.hardening.rules import REFUSED, RULES, weaknesses
from gateway.host.doctor.finding import FAIL, OK, WARN, Finding, Subject, judged
from gateway.host.embedded import ServerMissing, find_redis_server, find_triton
from gateway.listener.acceptance import parse_peers
from gateway.observation.certificates import certificate_files
from gateway.observation.metrics import software_version
from gateway.observation.senders import check_receivers
from gateway.retention.watermarks import Disk, reserve_bytes
from gateway.settings import known_variables

_WARN_FREE_BYTES = 5 * 1024**3
_WARN_FREE_FILES = 10_000
_SHARED_MEMORY_BYTES = 64 * 1024**2
_SOON_DAYS, _NOW_DAYS = 21.0, 2.0  # as the alerts have it


def check_versions(_: Subject) -> Iterator[Finding]:
    """Python's version decides which wheels exist."""
    python = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info[:2] in {(3, 11), (3, 12)} and sys.platform == "linux"
    said = f"Lentigo {software_version()}, Python {python} on {sys.platform}"
    yield judged("versions", "" if supported else said, said, "use CPython 3.11 or 3.12 on Linux")


def check_programs(subject: Subject) -> Iterator[Finding]:
    """The embedded servers are there, or others are named."""
    programs: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("redis-server", "LENTIGO_BROKER_URL", find_redis_server),
        ("tritonserver", "LENTIGO_TRITON_URL", find_triton),
    )
    for part, variable, find in programs:
        if subject.instance is None and (
            os.environ.get(variable) or os.environ.get(f"{variable}_FILE")
        ):
            yield Finding(part=part, verdict=OK, said=f"external, by {variable}")
            continue
        try:
            find()
        except ServerMissing as exc:
            said, _, remedy = str(exc).partition(": ")
            yield Finding(part=part, verdict=FAIL, said=said, remedy=remedy)
        else:
            yield Finding(part=part, verdict=OK, said="found")


def check_shared_memory(_: Subject) -> Iterator[Finding]:
    """Triton's Python backend talks to its stub through /dev/shm."""
    folder = Path("/dev/shm")
    free = shutil.disk_usage(folder).free if folder.is_dir() else 0
    said = f"{free / 1024**2:.0f} MiB free in /dev/shm"
    yield judged(
        "shared memory",
        "" if free > _SHARED_MEMORY_BYTES else said,
        said,
        "mount a tmpfs of 256 MiB or more on /dev/shm; a Triton that was killed may have left "
        "files there",
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


def check_folders(subject: Subject) -> Iterator[Finding]:
    """The home folder and what is written inside are ours."""
    store = subject.store
    named = {
        "home": store.home,
        "spool": store.spool_folder,
        "results": store.results_folder,
        "logs": store.log_folder,
    }
    for part, folder in named.items():
        place = next(each for each in (folder, *folder.parents) if each.is_dir())
        if part != "home" and place != folder:
            continue  # made when it is needed, in a folder that is looked at
        yield judged(
            part,
            "" if os.access(place, os.W_OK | os.X_OK) else f"{folder} cannot be written",
            f"{folder} can be written" if place == folder else f"{folder} can be made",
            "give --home a folder that this user owns; is its disk mounted read-only?",
        )


def check_disk(subject: Subject) -> Iterator[Finding]:
    """There is room above the watermarks, for bytes and for files."""
    home = subject.store.home
    disk = Disk.of(home)
    reserve = reserve_bytes(subject.listener, subject.retention, home)
    low = subject.retention.low_watermark_percent
    seen = (
        f"{disk.free_bytes / 1024**3:.1f} GiB free for {home}, {disk.used_percent:.0f} % in use; "
        f"low watermark {low:.0f} %, instances are refused under {reserve / 1024**3:.1f} GiB"
    )
    if disk.free_bytes < reserve:
        verdict, remedy = FAIL, "free some space now: instances are refused with A700"
    elif (low and disk.used_percent >= low) or disk.free_bytes < _WARN_FREE_BYTES:
        verdict = WARN
        remedy = "give the disk room, or retention days: `lentigo retention` says what would go"
    else:
        verdict, remedy = OK, ""
    yield Finding(part="disk", verdict=verdict, said=seen, remedy=remedy)
    place = next(each for each in (home, *home.parents) if each.is_dir())
    files = os.statvfs(place)
    if files.f_files and files.f_favail < _WARN_FREE_FILES:
        yield Finding(
            part="disk",
            verdict=WARN if files.f_favail else FAIL,
            said=f"room for {files.f_favail} more files (inodes)",
            remedy="each instance is a file: use a file system with more inodes",
        )


def check_settings(subject: Subject) -> Iterator[Finding]:
    """Peers, destinations and receivers of events can be read."""
    try:
        parse_peers(subject.listener.allow_entries)
        parse_routes(subject.destination)
        check_receivers()
    except GatewayError as exc:
        yield Finding(part="settings", verdict=FAIL, said=str(exc), remedy="mend that setting")
        return
    given = sorted(name for name in known_variables() if name in os.environ)
    yield Finding(
        part="settings", verdict=OK, said=f"read; set: {', '.join(given) or 'none (defaults)'}"
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
        yield Finding(part="security", verdict=OK, said=f"none of {len(RULES)} weaknesses")


def check_certificates(subject: Subject) -> Iterator[Finding]:
    """Our certificates, and those that we trust, can be read and have days left."""
    for each in certificate_files(subject.listener, subject.dashboard, subject.tls):
        try:
            days = each.days_left(subject.clock())
        except (OSError, ValueError) as exc:
            yield Finding(
                part="certificate",
                verdict=FAIL,
                said=f"{each.words}: {each.path} cannot be read ({type(exc).__name__})",
                remedy="put a PEM file there that this user may read",
            )
            continue
        yield certificate_finding(f"{each.words}: {each.path}", days)


def certificate_finding(
    what: str, days: float, remedy: str = "put a new one at the same path (docs/security.md)"
) -> Finding:
    """Judge a certificate by the days that it has left."""
    if days <= 0:
        said = f"{what} ran out {-days:.0f} days ago"
    else:
        said = f"{what} has {days:.0f} days left"
    verdict = FAIL if days < _NOW_DAYS else WARN if days < _SOON_DAYS else OK
    return Finding(
        part="certificate", verdict=verdict, said=said, remedy=remedy if verdict != OK else ""
    )
