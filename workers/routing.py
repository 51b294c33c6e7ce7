"""Which analyses a study gets, and why. Pure: the model server is asked by the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.store.values import GenerationRow
from workers.analysis import Analysis
from workers.study import Study


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What routing says about one analysis."""

    analysis: str
    applies: bool
    priority: int
    """0 to 9, higher first."""
    reason: str
    """Why it applies, or why not."""
    model_digest: str = ""
    """Of the model in service; empty while that is not known."""
    is_left_out: bool = False
    """True when it would apply, and its model may not answer here."""

    def left_out(self, why: str) -> Decision:
        """Return the decision not to run an analysis that would apply."""
        return replace(self, applies=False, is_left_out=True, reason=f"{self.reason}, but {why}")


def decide(study: Study, analyses: Iterable[Analysis]) -> tuple[Decision, ...]:
    """Return one decision for each analysis, in the order given.

    It depends on nothing but its arguments, so that two routers come to the same end.
    """
    decisions = []
    for analysis in analyses:
        match = analysis.match(study)
        decisions.append(
            Decision(
                analysis=analysis.name,
                applies=bool(match.instances),
                priority=analysis.limits.priority,
                reason=match.reason,
            )
        )
    return tuple(decisions)


def explain_no_match(generation: GenerationRow, decisions: Iterable[Decision]) -> str:
    """Return why a study got no analysis, for the person who looks for its result."""
    if not generation.instances:
        return "the study holds no instance that may be analysed"
    kinds = Counter(instance.modality or "no modality" for instance in generation.instances)
    held = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
    why = "; ".join(f"{each.analysis}: {each.reason}" for each in decisions)
    return f"no analysis applies to this study ({held}); {why}"
