"""Weaknesses of a set-up: what stands open, the cure of each, and what is refused for it.

One table. ``lentigo up`` and every service refuse to start with a weakness of level REFUSED, unless
the site insists on it by name in ``LENTIGO_SECURITY_ACCEPT``; ``lentigo doctor`` shows all of them;
``docs/security.md`` lists them, and a test compares.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.errors import SettingsError, WeakSetup
from gateway.hardening import findings
from gateway.hardening.findings import Setup
from gateway.hardening.settings import SecuritySettings
from gateway.secret_files import READABLE_SECRETS
from gateway.store.people.accounts import MIN_PASSWORD_CHARACTERS

log = logging.getLogger(__name__)

REFUSED, WARNED = "refused", "warned"


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """Something that stands open."""

    name: str
    level: str
    """``refused`` or ``warned``."""
    said: str
    cure: str
    is_accepted: bool = False


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One weakness that is looked for."""

    name: str
    level: str
    meaning: str
    """Why it matters, for the documentation."""
    cure: str
    find: Callable[[Setup], Iterator[str]]
    """What was seen, once for each place."""


def _rule(
    name: str, level: str, meaning: str, cure: str, find: Callable[[Setup], Iterator[str]]
) -> Rule:
    return Rule(name=name, level=level, meaning=meaning, cure=cure, find=find)


RULES: tuple[Rule, ...] = (
    _rule(
        "listener-without-tls",
        REFUSED,
        "Whoever is on the network reads patients' images and names, and can send under any name.",
        "give LENTIGO_LISTENER_TLS_CERTIFICATE and LENTIGO_LISTENER_TLS_KEY, or bind to loopback",
        findings.listener_plain,
    ),
    _rule(
        "listener-without-allow-list",
        REFUSED,
        "The port is open, and nobody but this host may call: one of the two is a mistake.",
        "name who may call in LENTIGO_LISTENER_ALLOW, e.g. PACS@192.0.2.7",
        findings.listener_unlisted,
    ),
    _rule(
        "listener-for-everyone",
        REFUSED,
        "Any host may send anything, and fill the disk.",
        "name addresses or networks in LENTIGO_LISTENER_ALLOW, e.g. *@192.0.2.0/24",
        findings.listener_everyone,
    ),
    _rule(
        "listener-from-any-address",
        WARNED,
        "An AE title can be claimed by anybody.",
        "name the address beside the AE title in LENTIGO_LISTENER_ALLOW",
        findings.listener_any_place,
    ),
    _rule(
        "page-without-tls",
        REFUSED,
        "Passwords and session cookies can be overheard.",
        "give LENTIGO_DASHBOARD_TLS_CERTIFICATE and LENTIGO_DASHBOARD_TLS_KEY, or bind to loopback "
        "behind a proxy that speaks TLS",
        findings.page_plain,
    ),
    _rule(
        "weak-initial-password",
        REFUSED,
        "The first account may do everything.",
        f"leave LENTIGO_DASHBOARD_INITIAL_PASSWORD out, or give {MIN_PASSWORD_CHARACTERS} "
        "characters or more that nobody guesses",
        findings.weak_password,
    ),
    _rule(
        "weak-secret",
        REFUSED,
        "Who guesses it reads the metrics, forges events, or poses as us at the OpenID provider.",
        f"give {findings.MIN_SECRET_CHARACTERS} random characters or more "
        "(`openssl rand -base64 32`) in a file, by LENTIGO_METRICS_TOKEN_FILE, "
        "LENTIGO_EVENTS_SECRET_FILE or LENTIGO_OPENID_CLIENT_SECRET_FILE",
        findings.weak_secrets,
    ),
    _rule(
        "openid-admin-for-everybody",
        REFUSED,
        "Every account of the hospital may do everything here.",
        "name a group of the administrators alone in LENTIGO_OPENID_ROLES",
        findings.openid_everybody,
    ),
    _rule(
        "home-open",
        REFUSED,
        "The record and the spool hold patients' names and images.",
        "chmod -R go-rwx HOME",
        findings.home_open,
    ),
    _rule(
        "home-listed",
        WARNED,
        "What lies inside is private, its names are not.",
        "chmod 700 HOME",
        findings.home_listed,
    ),
    _rule(
        "readable-keys",
        REFUSED,
        "Who has the key is who we are.",
        "chmod 600 that file",
        findings.keys_readable,
    ),
    _rule(
        READABLE_SECRETS,
        REFUSED,
        "A secret in a file that every user of the host may read (LENTIGO_..._FILE) is none.",
        "chmod 600 that file",
        findings.secrets_readable,
    ),
    _rule(
        "broker-without-password",
        REFUSED,
        "Whoever reaches Redis can hold up all work, and make workers load messages of theirs.",
        "set requirepass in Redis and name the password in LENTIGO_BROKER_URL_FILE",
        findings.broker_open,
    ),
    _rule(
        "broker-without-tls",
        WARNED,
        "Messages are numbers only, but the password goes with them.",
        "use rediss:// in LENTIGO_BROKER_URL",
        findings.broker_plain,
    ),
    _rule(
        "record-without-tls",
        REFUSED,
        "Patients' names and the password of the database cross the network.",
        "add ?sslmode=verify-full&sslrootcert=FILE to LENTIGO_DATABASE_URL",
        findings.record_plain,
    ),
    _rule(
        "record-unverified",
        WARNED,
        "Somebody in between can pass for the database.",
        "use sslmode=verify-full with sslrootcert in LENTIGO_DATABASE_URL",
        findings.record_unverified,
    ),
    _rule(
        "credentials-in-plain",
        REFUSED,
        "Passwords and tokens for a PACS, a mail server or a collector can be overheard.",
        "use https:// there, and starttls or tls for mail",
        findings.credentials_plain,
    ),
    _rule(
        "destination-without-tls",
        WARNED,
        "Whoever is on the network reads results and names.",
        "use AET@HOST:PORT/tls, or https://, where the PACS takes it",
        findings.destination_plain,
    ),
    _rule(
        "mail-without-tls",
        WARNED,
        "Alarms hold no patient's data, but say what does not work; and they can be forged.",
        "set LENTIGO_MAIL_SECURITY to starttls or tls",
        findings.mail_plain,
    ),
    _rule(
        "syslog-without-tls",
        WARNED,
        "Audit messages name studies, and can be forged on the way.",
        "use tls:// in LENTIGO_AUDIT_SYSLOG",
        findings.syslog_plain,
    ),
)


def weaknesses(setup: Setup) -> list[Weakness]:
    """Return what stands open, what the site insists on included.

    Raises
    ------
    SettingsError
        ``LENTIGO_SECURITY_ACCEPT`` names a weakness that does not exist.
    """
    accepted = _accepted(setup.security)
    return [
        Weakness(
            name=rule.name,
            level=rule.level,
            said=said,
            cure=rule.cure,
            is_accepted=rule.name in accepted,
        )
        for rule in RULES
        for said in rule.find(setup)
    ]


def _accepted(settings: SecuritySettings) -> frozenset[str]:
    names = frozenset(name.strip() for name in settings.accept.split(",") if name.strip())
    known = {rule.name for rule in RULES}
    if names - known:
        raise SettingsError(
            f"LENTIGO_SECURITY_ACCEPT: no weakness is called {', '.join(sorted(names - known))}; "
            f"there are {', '.join(sorted(known))}"
        )
    return names


def refuse_weak(setup: Setup) -> None:
    """Refuse to start where something stands open that the site does not insist on.

    What is only warned of, and what is insisted on, is logged.

    Raises
    ------
    WeakSetup
        The message says everything that stands open, with the cure of each.
    SettingsError
        ``LENTIGO_SECURITY_ACCEPT`` cannot be used.
    """
    found = weaknesses(setup)
    refused = [each for each in found if each.level == REFUSED and not each.is_accepted]
    for each in found:
        if each not in refused:
            log.warning(
                "weak set-up: %s; %s",
                each.said,
                each.cure,
                extra={"action": "setup.weak", "weakness": each.name},
            )
    if refused:
        lines = [f"{each.said}; {each.cure} [{each.name}]" for each in refused]
        names = ",".join(dict.fromkeys(each.name for each in refused))
        raise WeakSetup(
            "refusing to start with a weak set-up:\n  "
            + "\n  ".join(lines)
            + f"\nor insist on it with LENTIGO_SECURITY_ACCEPT={names}"
        )


def keep_private() -> None:
    """Let this process make its files for its own account only."""
    os.umask(0o077)
