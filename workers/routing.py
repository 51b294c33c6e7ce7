"""Which analyses a study gets, and why. Pure: the model server is asked by the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gateway.delivery.routes import Route
from gateway.rules.plan import Plan
from gateway.store.values import GenerationRow
from workers.analysis import Analysis
from workers.errors import DestinationGone
from workers.failure import FailureKind, classify
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


def decide(study: Study, analysis: Analysis, plan: Plan) -> Decision:
    """Return whether a study gets an analysis: where it applies, and the rules let it.

    It depends on nothing but its arguments, so that two routers come to the same end.
    """
    match = analysis.match(study)
    decision = Decision(
        analysis=analysis.name,
        applies=bool(match.instances),
        priority=analysis.limits.priority,
        reason=match.reason,
    )
    may_run, said = plan.verdict(analysis.name)
    if not decision.applies:
        return decision
    return decision if may_run else decision.left_out(said)


def decide_all(
    study: Study,
    analyses: Iterable[Analysis],
    generation: GenerationRow,
    *,
    may_fail: Callable[[], bool],
) -> tuple[Decision, ...]:
    """Ask every analysis; one that cannot say is left out, and holds up no other for ever.

    Parameters
    ----------
    may_fail
        Whether an unexpected failure is worth another attempt; else it counts as an answer.

    Raises
    ------
    Exception
        What an analysis raised, while another attempt may help.
    """
    if generation.plan.ignore is not None:
        return ()
    decisions = []
    for analysis in analyses:
        try:
            decisions.append(decide(study, analysis, generation.plan))
        except Exception as exc:  # one analysis must not keep a study from the others
            failure = classify(exc)
            if failure.kind is FailureKind.TRANSIENT:
                raise
            if failure.kind is FailureKind.DEFECT and may_fail():
                raise
            unknown = Decision(
                analysis=analysis.name, applies=False, priority=0, reason="it may apply"
            )
            decisions.append(unknown.left_out(failure.reason))
    return tuple(decisions)


def destinations_of(plan: Plan, routes: Sequence[Route]) -> list[Route]:
    """Return where the results of a generation go: where its rules say, else everywhere.

    Raises
    ------
    DestinationGone
        A rule named one that is not configured any more. Sending elsewhere might show the results
        to whom they are not for, so the work waits until one or the other is mended.
    """
    if plan.destinations is None:
        return list(routes)
    known = {route.name: route for route in routes}
    gone = [name for name in plan.destinations if name not in known]
    if gone:
        rule = plan.decided_by.get("destinations", "")
        raise DestinationGone(
            f"rule '{rule}' sends the results to {', '.join(gone)}, which is not configured"
        )
    return [known[name] for name in plan.destinations]


def explain_no_match(generation: GenerationRow, decisions: Iterable[Decision]) -> str:
    """Return why a study got no analysis, for the person who looks for its result."""
    if generation.plan.ignore is not None:
        return generation.plan.ignore
    if not generation.instances:
        return "the study holds no instance that may be analysed"
    kinds = Counter(instance.modality or "no modality" for instance in generation.instances)
    held = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
    why = "; ".join(f"{each.analysis}: {each.reason}" for each in decisions)
    return f"no analysis applies to this study ({held}); {why}"
