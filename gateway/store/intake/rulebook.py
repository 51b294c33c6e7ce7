"""The rules in force: every text that was, and who put it there when.

The newest row counts, so that the last good rules hold on over restarts, and whatever becomes of
their file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select

from gateway.rules.ruleset import BUILT_IN_TEXT, RuleSet
from gateway.store import audit, states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import RuleVersion


@dataclass(frozen=True, kw_only=True)
class KeptRules:
    """One version."""

    id: int
    sha256: str
    text: str
    source: str


class Rulebook:
    """Reads and writes the versions."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def newest(self) -> KeptRules | None:
        """Return the version in force; None while there was never one."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(RuleVersion.id, RuleVersion.sha256, RuleVersion.text, RuleVersion.source)
                .order_by(RuleVersion.id.desc())
                .limit(1)
            ).first()
        return KeptRules(**row._mapping) if row is not None else None

    def adopt(self, rules: RuleSet, *, source: str, actor: str) -> int:
        """Put rules in force; return their version. The same text again changes nothing."""
        now = self._clock()
        with writing(self._engine) as connection:
            newest = connection.execute(
                select(RuleVersion.id, RuleVersion.sha256)
                .order_by(RuleVersion.id.desc())
                .limit(1)
                .with_for_update()
            ).first()
            if newest is not None and newest.sha256 == rules.sha256:
                return int(newest.id)
            version = connection.execute(
                insert(RuleVersion)
                .values(
                    sha256=rules.sha256,
                    text=rules.text,
                    source=source,
                    actor=actor[:64],
                    loaded_at=now,
                )
                .returning(RuleVersion.id)
            ).scalar_one()
            detail: dict[str, Any] = {
                "version": int(version),
                "rules": len(rules.rules),
                "sha256": rules.sha256,
            }
            states.note(connection, now, "rules.loaded", **detail)
            audit.append(connection, now, actor[:64], "rules.loaded", **detail)
        return int(version)

    def refuse(self, reason: str, *, actor: str) -> None:
        """Raise an alarm about a text that cannot be used; the rules in force stay."""
        now = self._clock()
        with writing(self._engine) as connection:
            states.note(connection, now, "rules.refused", level="alarm", reason=reason)
            audit.append(connection, now, actor[:64], "rules.refused", reason=reason)


def built_in_rules() -> RuleSet:
    """Return the rules of an installation that has no file of its own."""
    return RuleSet(rules=(), text=BUILT_IN_TEXT)
