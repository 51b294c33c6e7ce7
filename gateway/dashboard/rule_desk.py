"""Rules from the admin page: versions, what changes between them, a trial, and publishing.

Publishing writes the file that ``LENTIGO_RULES_FILE`` names; the sweeper reads it and puts it in
force, as it does when somebody edits the file by hand. There is one way for rules to come in.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from gateway.delivery.routes import parse_routes
from gateway.errors import GatewayError, RuleFileRefused
from gateway.rules.command import outcome_lines
from gateway.rules.headers import HeaderReader, TimeIsUp
from gateway.rules.reading import Site, read_rules
from gateway.rules.ruleset import BUILT_IN_TEXT, RuleSet
from gateway.settings import DeliverySettings, RuleSettings, StoreSettings
from gateway.store import audit
from gateway.store.engine import reading, utc_now, writing
from gateway.store.intake.rule_facts import recent_studies
from gateway.store.intake.rulebook import built_in_rules
from gateway.store.tables import RuleVersion

MAX_TRIED = 200
_HEADER_BUDGET_S = 20.0
_MAX_VERSIONS = 200


class PublishRefused(GatewayError):
    """Rules cannot be published from here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One text of rules that was in force."""

    id: int
    sha256: str
    text: str
    source: str
    actor: str
    loaded_at: dt.datetime


class RuleDesk:
    """Reads versions, tries and publishes rules of one installation."""

    def __init__(self, engine: Engine, store: StoreSettings) -> None:
        self._engine = engine
        self._store = store

    @property
    def file(self) -> Path | None:
        """The file of rules; None where the site has none."""
        return RuleSettings().file

    def versions(self) -> list[Version]:
        """Return the versions, the newest first; the first of them is in force."""
        query = (
            select(
                RuleVersion.id,
                RuleVersion.sha256,
                RuleVersion.text,
                RuleVersion.source,
                RuleVersion.actor,
                RuleVersion.loaded_at,
            )
            .order_by(RuleVersion.id.desc())
            .limit(_MAX_VERSIONS)
        )
        with reading(self._engine) as connection:
            return [Version(**row._mapping) for row in connection.execute(query)]

    def text_in_force(self) -> str:
        """Return the rules in force; those built in where there were never others."""
        found = self.versions()
        return found[0].text if found else BUILT_IN_TEXT

    def text_of(self, version: int) -> str:
        """Return the text of a version; 0 is what is built in.

        Raises
        ------
        PublishRefused
            There is no such version.
        """
        if not version:
            return BUILT_IN_TEXT
        with reading(self._engine) as connection:
            found = connection.execute(
                select(RuleVersion.text).where(RuleVersion.id == version)
            ).scalar()
        if found is None:
            raise PublishRefused("there is no such version")
        return found

    def read(self, text: str) -> RuleSet:
        """Return rules from their text.

        Raises
        ------
        RuleFileRefused
            Something in it cannot be used; says line and reason.
        """
        text = text.replace("\r\n", "\n")  # browsers send texts so
        if text == BUILT_IN_TEXT:
            return built_in_rules()
        site = Site.of(route.name for route in parse_routes(DeliverySettings().destination))
        return read_rules(text, site, name="draft")

    def try_out(self, text: str, count: int) -> list[dict[str, Any]]:
        """Return what a text would decide for the newest studies beside what is in force.

        Raises
        ------
        RuleFileRefused
            The text cannot be used.
        PublishRefused
            Reading the headers of so many studies takes too long.
        """
        draft = self.read(text)
        try:
            in_force = self.read(self.text_in_force())
        except RuleFileRefused:  # it names e.g. a destination that is gone
            in_force = built_in_rules()
        reader = HeaderReader(self._store.spool_folder, budget_s=_HEADER_BUDGET_S)
        reader.begin(draft.tags | in_force.tags)
        site = Site.of(route.name for route in parse_routes(DeliverySettings().destination))
        analyses = sorted(site.analyses)
        try:
            return self._tried(draft, in_force, reader, analyses, count)
        except TimeIsUp as exc:
            raise PublishRefused("these studies are too large to try now; try fewer") from exc

    def _tried(
        self,
        draft: RuleSet,
        in_force: RuleSet,
        reader: HeaderReader,
        analyses: list[str],
        count: int,
    ) -> list[dict[str, Any]]:
        found = []
        for study in recent_studies(self._engine, reader, min(count, MAX_TRIED)):
            now = outcome_lines(in_force.decide(study.facts), analyses)
            plan = draft.decide(study.facts)
            then = outcome_lines(plan, analyses)
            found.append(
                {
                    "study_instance_uid": study.study_instance_uid,
                    "instances": len(study.facts.instances),
                    "now": now,
                    "then": then,
                    "is_changed": now != then,
                    "rules": [
                        {"rule": each.rule, "matched": each.has_matched, "why": each.reason}
                        for each in plan.traces
                    ],
                }
            )
        return found

    def publish(self, text: str, *, reason: str, actor: str) -> str:
        """Write a text into the file of rules; return its digest.

        Raises
        ------
        RuleFileRefused
            The text cannot be used.
        PublishRefused
            There is no file of rules, or it cannot be written.
        """
        text = text.replace("\r\n", "\n")
        rules = self.read(text)
        file = self.file
        if file is None:
            raise PublishRefused("set LENTIGO_RULES_FILE first: rules live in a file of the site")
        if not reason.strip():
            raise PublishRefused("say why")
        try:
            _write(file, text)
        except OSError as exc:
            raise PublishRefused(
                f"{file} cannot be written by the admin page ({exc.strerror}); publish it there"
            ) from exc
        digest = hashlib.sha256(text.encode()).hexdigest()
        with writing(self._engine) as connection:
            audit.append(
                connection,
                utc_now(),
                actor,
                "rules.published",
                sha256=digest,
                rules=len(rules.rules),
                reason=reason.strip()[:200],
            )
        return digest


def _write(file: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def difference(before: str, after: str) -> list[tuple[str, str]]:
    r"""Return (kind, line) of what changes: ``added``, ``removed``, ``same`` or ``place``.

    Examples
    --------
    >>> difference("a\nb\n", "a\nc\n")[-2:]
    [('removed', 'b'), ('added', 'c')]
    """
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return [
        (kinds.get(line[:1], "same"), line if line.startswith("@") else line[1:])
        for number, line in enumerate(lines)
        if number > 1  # the two lines that name the files
    ]
