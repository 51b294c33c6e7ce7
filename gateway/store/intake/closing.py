"""When a study is complete: the rules are asked, and its receiving generation is closed.

The listener only says when a generation may close at the latest; everything that needs a rule or a
header is decided here, by the sweeper, off the path of an instance. A decision is bound to the
*revision* of the generation that it was made for: what arrives meanwhile makes it void.
"""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, or_, select, update

from gateway.errors import RecordUnavailable
from gateway.faults import failpoint
from gateway.rules.headers import HeaderReader, TimeIsUp
from gateway.rules.plan import Plan
from gateway.rules.ruleset import RuleSet
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.intake.own_results import OWN_TAGS, Doubtful, are_made_of_ours
from gateway.store.intake.rule_facts import MAX_HEADERS, Row, accepted_instances, facts_of
from gateway.store.intake.study_holds import hold_study
from gateway.store.tables import (
    AssociationEnd,
    Document,
    Generation,
    Instance,
    Study,
)

log = logging.getLogger(__name__)

_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What a look at a receiving generation came to."""

    plan: Plan
    closes_at: dt.datetime
    because: str
    """Why it closes now; empty where it waits."""
    missing: str
    """What was expected and did not come; empty otherwise."""


class ClosingDesk:
    """Closes receiving generations.

    Parameters
    ----------
    reader
        Reads headers from the spool; without one the rules see what the record knows.
    """

    def __init__(
        self, engine: Engine, *, reader: HeaderReader | None = None, clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._clock = clock

    def close_due(self, rules: RuleSet, version: int | None = None) -> int:
        """Look at every generation that may be complete; return how many were closed.

        Parameters
        ----------
        version
            Number of the rules in the record; None for the built-in ones.
        """
        now = self._clock()
        if self._reader is not None:
            self._reader.begin(rules.tags | OWN_TAGS)
        closed = 0
        for generation in self._candidates(rules, now):
            try:
                closed += self._look(generation, rules, version, now)
            except TimeIsUp:
                continue  # what is in memory already may still be decided; the rest next time
            except RecordUnavailable:
                raise
            except Exception as exc:  # a fault over one study must not hold up its siblings
                self._set_aside(generation, exc, now)
        return closed

    def _set_aside(self, generation: Row, exc: Exception, now: dt.datetime) -> None:
        """Hold a study that the rules fail on: to go on without them might do what they forbid."""
        log.error(
            "a study could not be judged by the rules",
            extra={
                "action": "rules.failed",
                "study_key": generation.study_id,
                "error": type(exc).__name__,
                # Without the message: it may quote values.
                "frames": "".join(traceback.format_tb(exc.__traceback__)),
            },
        )
        with writing(self._engine) as connection:
            hold_study(
                connection,
                generation.study_id,
                now,
                actor="rules",
                reason=f"the rules fail on this study ({type(exc).__name__}); see the sweeper's "
                "log, mend them, then release it",
                level="alarm",
            )

    def _candidates(self, rules: RuleSet, now: dt.datetime) -> Sequence[Row]:
        is_due = or_(Generation.closes_at <= now, Generation.complete_by != "")
        if rules.may_close_early:
            is_due = or_(is_due, Generation.revision != Generation.planned_revision)
        with reading(self._engine) as connection:
            return connection.execute(
                select(Generation)
                .join(Study, Generation.study_id == Study.id)
                .where(Generation.state == states.RECEIVING, Study.held_at.is_(None), is_due)
                .order_by(Generation.closes_at)
                .limit(_BATCH)
            ).all()

    def _look(self, generation: Row, rules: RuleSet, version: int | None, now: dt.datetime) -> bool:
        with reading(self._engine) as connection:
            rows = accepted_instances(connection, generation.study_id)
        if self._withdraw_own(generation, rows, now):
            return False
        facts = facts_of(rows, generation.number, self._reader)
        numbers = facts.numbers
        plan = rules.decide(facts)
        verdict = self._judge(generation, plan, numbers, now)
        if plan.hold is not None and generation.hold_released_at is None and verdict.because:
            return self._hold(generation, plan, version, now)
        is_closed = self._write(generation, verdict, version, now)
        if is_closed and self._reader is not None:
            self._reader.forget(row.path for row in rows)
        return is_closed

    def _judge(
        self, generation: Row, plan: Plan, numbers: Mapping[str, int], now: dt.datetime
    ) -> _Verdict:
        closes_at = generation.closes_at
        if plan.quiet_window_s is not None:
            closes_at = generation.last_instance_at + dt.timedelta(seconds=plan.quiet_window_s)
        expected = {
            name: wanted
            for name, wanted in (
                ("instances", plan.expect_instances),
                ("series", plan.expect_series),
            )
            if wanted is not None
        }
        short = [
            f"{numbers[name]} of {wanted} expected {name}"
            for name, wanted in expected.items()
            if numbers[name] < wanted
        ]
        because = ""
        if generation.complete_by:
            because = f"said to be complete by {generation.complete_by}"
        elif expected and not short:
            because = f"all expected {' and '.join(expected)} are here"
        elif closes_at <= now:
            because = "quiet window passed"
        elif not expected and plan.close_at_association_end and self._has_ended(generation):
            because = "its associations were released"
        return _Verdict(plan=plan, closes_at=closes_at, because=because, missing=", ".join(short))

    def _has_ended(self, generation: Row) -> bool:
        """Return whether every association that brought an instance of it was released."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(Instance.association_id, AssociationEnd.outcome)
                .join(
                    AssociationEnd,
                    AssociationEnd.association_id == Instance.association_id,
                    isouter=True,
                )
                .where(Instance.generation_id == generation.id)
                .distinct()
            ).all()
        return bool(rows) and all(row.outcome == "released" for row in rows)

    def _write(
        self, generation: Row, verdict: _Verdict, version: int | None, now: dt.datetime
    ) -> bool:
        plan = verdict.plan
        values: dict[str, Any] = {
            "plan": plan.as_json(),
            "rule_version_id": version,
            "planned_revision": generation.revision,
            "closes_at": verdict.closes_at,
            "deadline_at": (
                generation.opened_at + dt.timedelta(seconds=plan.deadline_s)
                if plan.deadline_s is not None
                else None
            ),
        }
        if verdict.because:
            values |= {"state": states.CLOSED, "closed_at": now, "next_attempt_at": now}
        with writing(self._engine) as connection:
            states.lock_study(connection, generation.study_id)
            changed = connection.execute(
                update(Generation).where(_is_still(generation)).values(**values)
            ).rowcount
            if changed != 1 or not verdict.because:
                return False
            _note_rules(connection, now, generation, plan, version)
            states.note(
                connection,
                now,
                "generation.closed",
                study_id=generation.study_id,
                generation=generation.number,
                level="warning" if verdict.missing else "info",
                because=verdict.because,
                missing=verdict.missing,
            )
            states.refresh_study(connection, generation.study_id, now)
            failpoint("sweeper.close")
        return True

    def _hold(self, generation: Row, plan: Plan, version: int | None, now: dt.datetime) -> bool:
        """Let a study wait for a person, because a rule says so."""
        assert plan.hold is not None
        with writing(self._engine) as connection:
            states.lock_study(connection, generation.study_id)
            changed = connection.execute(
                update(Generation)
                .where(_is_still(generation))
                .values(
                    plan=plan.as_json(),
                    rule_version_id=version,
                    planned_revision=generation.revision,
                )
            ).rowcount
            if changed == 1:
                _note_rules(connection, now, generation, plan, version)
                hold_study(
                    connection,
                    generation.study_id,
                    now,
                    actor=f"rule: {plan.decided_by['hold']}",
                    reason=plan.hold,
                )
        return False

    def _withdraw_own(self, generation: Row, rows: Sequence[Row], now: dt.datetime) -> bool:
        """Set aside what was made of our results; return whether nothing else is left to close."""
        doubtful = [row for row in rows if row.is_derived and row.generation_id == generation.id]
        if not doubtful or self._reader is None:
            return False
        headers = {row.id: self._reader.read(row.path) for row in doubtful[:MAX_HEADERS]}
        with writing(self._engine) as connection:
            states.lock_study(connection, generation.study_id)
            own = are_made_of_ours(
                connection,
                [
                    Doubtful(row.id, row.sop_class_uid, headers[row.id])
                    for row in doubtful[:MAX_HEADERS]
                ],
            )
            checked = set(headers) - own
            if checked:
                connection.execute(
                    update(Instance).where(Instance.id.in_(checked)).values(is_derived=False)
                )
            if not own:
                return False
            connection.execute(
                update(Instance)
                .where(Instance.id.in_(own))
                .values(
                    disposition="own_result",
                    generation_id=None,
                    is_derived=False,
                    reason="made of a result of ours",
                )
            )
            states.note(
                connection,
                now,
                "instance.own_result",
                study_id=generation.study_id,
                instances=len(own),
                because="made of a result of ours",
            )
            is_empty = _is_empty(connection, generation)
            if is_empty:
                # Nothing to analyse came with it: the results before it stay the newest.
                connection.execute(delete(Generation).where(Generation.id == generation.id))
                states.note(
                    connection,
                    now,
                    "generation.withdrawn",
                    study_id=generation.study_id,
                    generation=generation.number,
                )
            else:
                connection.execute(
                    update(Generation)
                    .where(Generation.id == generation.id)
                    .values(revision=Generation.revision + 1)
                )
            states.refresh_study(connection, generation.study_id, now)
        return True


def _is_still(generation: Row) -> Any:
    """Condition: the generation receives, and nothing became known of it since it was read."""
    return and_(
        Generation.id == generation.id,
        Generation.state == states.RECEIVING,
        Generation.revision == generation.revision,
        Generation.complete_by == generation.complete_by,
    )


def _is_empty(connection: Connection, generation: Row) -> bool:
    """Return whether nothing came with a generation: no instance, no document."""
    instances = connection.execute(
        select(func.count()).where(Instance.generation_id == generation.id)
    ).scalar_one()
    uid = select(Study.study_instance_uid).where(Study.id == generation.study_id)
    documents = connection.execute(
        select(func.count()).where(
            Document.study_instance_uid == uid.scalar_subquery(),
            Document.generation_number == generation.number,
        )
    ).scalar_one()
    return not instances and not documents


def _note_rules(
    connection: Connection, now: dt.datetime, generation: Row, plan: Plan, version: int | None
) -> None:
    """Say on the timeline which rules matched; the whole answer is with the generation."""
    if not plan.traces:
        return
    states.note(
        connection,
        now,
        "generation.rules",
        study_id=generation.study_id,
        generation=generation.number,
        version=version,
        matched={each.rule: each.reason for each in plan.traces if each.has_matched},
        not_matched={each.rule: each.reason for each in plan.traces if not each.has_matched},
    )
