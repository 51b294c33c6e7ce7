"""Rules as values, and what a set of them decides for one study."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.rules.conditions import Condition, InstanceFacts, Subject, items_at, values_of
from gateway.rules.plan import ROUTINE, Directive, Plan, Trace

BUILT_IN_TEXT = """\
# No rules: every analysis that applies runs, its results go to every destination, and a study
# closes after the quiet window of the settings (LENTIGO_COMPLETENESS_*).
"""

SOME, EVERY = "some", "every"
_MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How many instances or series make a study complete: a number, or what an attribute says."""

    number: int | None = None
    path: tuple[int, ...] = ()

    def among(self, instances: Iterable[InstanceFacts]) -> int | None:
        """Return the number; the largest that an instance states, None where none does."""
        if self.number is not None:
            return self.number
        stated = [
            count
            for instance in instances
            for item in items_at(instance.header(), self.path[:-1])
            for value in values_of(item, self.path[-1])
            if (count := _count(value)) is not None
        ]
        return max(stated, default=None)


def _count(value: object) -> int | None:
    try:
        count = int(str(value).strip())
    except ValueError:
        return None
    return count if count > 0 else None


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What a rule asks for; None or empty where it says nothing."""

    run: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    destinations: tuple[str, ...] | None = None
    quiet_window_s: float | None = None
    expect_instances: Expected | None = None
    expect_series: Expected | None = None
    close_at_association_end: bool | None = None
    priority: str | None = None
    deadline_s: float | None = None
    hold: bool | None = None
    ignore: bool | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: when it matches, and what it asks for then."""

    name: str
    condition: Condition
    actions: Actions
    scope: str = SOME
    """``some``: one instance fulfils the whole condition; ``every``: all of them do."""
    is_last: bool = False
    """Whether no later rule is looked at once this one matches."""
    line: int = 0
    """Where it begins in its file."""

    def test(self, facts: StudyFacts) -> Trace:
        """Return whether the rule matches a study, and why."""
        answers = Counter[tuple[bool, str]]()
        for instance in facts.instances or (None,):
            answer = self.condition.check(Subject(instance=instance, study=facts.numbers))
            if answer.holds is (self.scope == SOME):
                return self._trace(answer.holds, answer.reason)
            answers[(answer.holds, answer.reason)] += 1
        said = "; ".join(
            reason if count == 1 and len(answers) == 1 else f"{reason} ({count} instances)"
            for (_, reason), count in answers.most_common(3)
        )
        return self._trace(self.scope == EVERY, said)

    def _trace(self, has_matched: bool, reason: str) -> Trace:
        return Trace(
            rule=self.name, has_matched=has_matched, reason=reason[:_MAX_REASON_CHARACTERS]
        )


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What the rules see of a study."""

    instances: Sequence[InstanceFacts]
    numbers: Mapping[str, int]
    """``instances``, ``series`` and ``generation``."""


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    """Rules in the order of their file."""

    rules: tuple[Rule, ...] = ()
    text: str = field(default=BUILT_IN_TEXT, repr=False)

    @property
    def sha256(self) -> str:
        """Digest of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def tags(self) -> frozenset[int]:
        """Attributes that must be read from files to decide."""
        found = {tag for rule in self.rules for tag in rule.condition.tags}
        for rule in self.rules:
            for expected in (rule.actions.expect_instances, rule.actions.expect_series):
                found.update(expected.path[:1] if expected is not None else ())
        return frozenset(found)

    @property
    def may_close_early(self) -> bool:
        """Whether a rule can say when a study closes, so that each arrival must be looked at."""
        return any(
            rule.actions.quiet_window_s is not None
            or rule.actions.expect_instances is not None
            or rule.actions.expect_series is not None
            or bool(rule.actions.close_at_association_end)
            for rule in self.rules
        )

    def decide(self, facts: StudyFacts) -> Plan:
        """Return what all rules together say of a study.

        Notes
        -----
        The rules are looked at in order, up to one that matches and is the last. Every rule that
        matches takes part; for each setting, and for each analysis, the first that speaks of it
        decides. So exceptions stand in front, defaults at the end, and a rule about priorities
        need not repeat the destinations.
        """
        traces: list[Trace] = []
        matched: list[Rule] = []
        for rule in self.rules:
            trace = rule.test(facts)
            traces.append(trace)
            if trace.has_matched:
                matched.append(rule)
                if rule.is_last:
                    break
        return _summed(matched, tuple(traces), facts)


def _summed(matched: Sequence[Rule], traces: tuple[Trace, ...], facts: StudyFacts) -> Plan:
    decided_by: dict[str, str] = {}

    def first(setting: str) -> Rule | None:
        for rule in matched:
            if getattr(rule.actions, setting) is not None:
                decided_by[setting] = rule.name
                return rule
        return None

    def count(setting: str) -> int | None:
        rule = first(setting)
        expected: Expected | None = getattr(rule.actions, setting) if rule is not None else None
        return expected.among(facts.instances) if expected is not None else None

    def why(setting: str, default: str) -> str | None:
        rule = first(setting)
        if rule is None or not getattr(rule.actions, setting):
            return None
        return f"rule '{rule.name}': {rule.actions.reason or default}"

    def value(setting: str) -> object:
        rule = first(setting)
        return getattr(rule.actions, setting) if rule is not None else None

    window, deadline = value("quiet_window_s"), value("deadline_s")
    destinations = value("destinations")
    return Plan(
        urgency=str(value("priority") or ROUTINE),
        destinations=destinations if isinstance(destinations, tuple) else None,
        quiet_window_s=window if isinstance(window, float) else None,
        expect_instances=count("expect_instances"),
        expect_series=count("expect_series"),
        close_at_association_end=bool(value("close_at_association_end")),
        deadline_s=deadline if isinstance(deadline, float) else None,
        hold=why("hold", "waits for a person"),
        ignore=why("ignore", "is not to be analysed"),
        directives=tuple(
            Directive(
                rule=rule.name,
                run=rule.actions.run,
                only=rule.actions.only,
                skip=rule.actions.skip,
                reason=rule.actions.reason,
            )
            for rule in matched
            if rule.actions.run or rule.actions.only is not None or rule.actions.skip
        ),
        decided_by=decided_by,
        traces=traces,
    )
