"""What the rules decided for one generation of a study, and which rule decided what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

URGENT, ROUTINE, LOW = "urgent", "routine", "low"
URGENCIES = (URGENT, ROUTINE, LOW)

HANDICAP_S: Mapping[str, float] = {URGENT: 0.0, ROUTINE: 300.0, LOW: 1800.0}
"""Seconds that work of a kind stands back: it is overtaken by nothing that came so much later."""


def urgency_of(text: str) -> str:
    """Return an urgency; what is none counts as routine."""
    return text if text in URGENCIES else ROUTINE


@dataclass(frozen=True, kw_only=True)
class Directive:
    """What one rule that matched says about analyses."""

    rule: str
    run: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    """These and no other; None where the rule says nothing of the kind."""
    skip: tuple[str, ...] = ()
    reason: str = ""

    def verdict(self, analysis: str) -> bool | None:
        """Whether an analysis may run; None where the rule does not speak of it."""
        if analysis in self.skip:
            return False
        if analysis in self.run:
            return True
        return None if self.only is None else analysis in self.only


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one rule said about a generation, and why."""

    rule: str
    has_matched: bool
    reason: str
    """The conditions by name; no value that was found."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sum of the rules that matched.

    For each setting the first rule in the file that speaks of it decides; ``decided_by`` names it.
    """

    urgency: str = ROUTINE
    destinations: tuple[str, ...] | None = None
    """Names of routes; None for all that are configured."""
    quiet_window_s: float | None = None
    """None for the window of the settings."""
    expect_instances: int | None = None
    expect_series: int | None = None
    close_at_association_end: bool = False
    deadline_s: float | None = None
    """Seconds from the opening of the generation until its results are due."""
    hold: str | None = None
    """Why it waits for a person; None where it does not."""
    ignore: str | None = None
    """Why it gets no analysis at all; None where it may get some."""
    directives: tuple[Directive, ...] = ()
    decided_by: Mapping[str, str] = field(default_factory=dict)
    """Setting -> rule."""
    traces: tuple[Trace, ...] = ()

    def verdict(self, analysis: str) -> tuple[bool, str]:
        """Return whether an analysis may run where it applies, and what the rules say to that.

        An analysis that no rule names runs wherever it applies.

        Examples
        --------
        >>> plan = Plan(directives=(Directive(rule="r", skip=("prognosis",), reason="no consent"),))
        >>> plan.verdict("prognosis")
        (False, "rule 'r': no consent")
        >>> plan.verdict("diagnosis")
        (True, '')
        """
        if self.ignore is not None:
            return False, self.ignore
        for each in self.directives:
            may_run = each.verdict(analysis)
            if may_run is not None:
                said = each.reason or ("may run" if may_run else "is not to run")
                return may_run, f"rule '{each.rule}': {said}"
        return True, ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values for the record."""
        plain = asdict(self)
        plain["decided_by"] = dict(self.decided_by)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Plan:
        """Read what ``as_json`` wrote."""
        values = dict(plain)
        destinations = values["destinations"]
        values["destinations"] = None if destinations is None else tuple(destinations)
        values["directives"] = tuple(
            Directive(
                rule=each["rule"],
                run=tuple(each["run"]),
                only=None if each["only"] is None else tuple(each["only"]),
                skip=tuple(each["skip"]),
                reason=each["reason"],
            )
            for each in values["directives"]
        )
        values["traces"] = tuple(Trace(**each) for each in values["traces"])
        return cls(**values)
