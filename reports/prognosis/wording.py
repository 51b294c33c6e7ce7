"""The sentences that report and page of a prognosis share."""

from __future__ import annotations

from models.prognosis.patient import HorizonSurvival
from models.prognosis.result import PrognosisResult
from reports.wording import RESEARCH_USE, demonstration, percent, sentence, short_digest


def interval(each: HorizonSurvival) -> str:
    """Ends of an interval, e.g. ``61.2 % to 84.0 %``."""
    return f"{percent(each.low)} to {percent(each.high)}"


def headline(result: PrognosisResult) -> str:
    """The result in one line."""
    prognosis = result.prognosis
    if prognosis is None:
        return "AI prognosis: not assessed"
    return f"AI prognosis: {prognosis.risk_group}"


def meaning(result: PrognosisResult) -> str:
    """What the probabilities are of."""
    manifest = result.manifest
    return (
        f"Probability of being {manifest.free_of}, in years from the {manifest.time_origin}. "
        f"Endpoint: {sentence(manifest.endpoint)}"
    )


def reasons(result: PrognosisResult) -> str:
    """Why nothing is said, in sentences."""
    return " ".join(sentence(each.text[:1].upper() + each.text[1:]) for each in result.reasons)


def group_meaning(result: PrognosisResult) -> str:
    """What the risk group compares with."""
    manifest = result.manifest
    return (
        f"Group by the stored cut {manifest.median_cut:.3f} on the risk score (log hazard ratio): "
        f"{sentence(manifest.median_cut_meaning)}"
    )


def version(result: PrognosisResult) -> str:
    """Which model spoke."""
    model = result.model
    return f"Model {model.name} {model.version}, weights {short_digest(model)}."


def evidence(result: PrognosisResult) -> str:
    """What stands behind the model, and its licence."""
    model = result.model
    return f"{model.evidence_level} data. {sentence(model.evidence)} Licence: {model.licence}"


def comments(result: PrognosisResult) -> tuple[str, ...]:
    """The lines that a viewer draws beside the image, what matters most at their beginning."""
    first = demonstration(result.model)
    warning = (first,) if first else ()
    prognosis = result.prognosis
    if prognosis is None:
        return (*warning, f"Prognosis not assessed by AI. {reasons(result)}", RESEARCH_USE)
    last = prognosis.survival[-1]
    line = (
        f"AI prognosis: {prognosis.risk_group}; {result.manifest.free_of} at {last.years:g} "
        f"years {percent(last.probability)} ({interval(last)})"
    )
    return (*warning, line, RESEARCH_USE)


def details(result: PrognosisResult) -> str:
    """Everything that a reader of the report should know, in sentences."""
    manifest = result.manifest
    parts = [demonstration(result.model)]
    if result.prognosis is None:
        parts += ["Not assessed.", reasons(result), "No probability is given."]
    else:
        parts += [
            meaning(result),
            group_meaning(result),
            f"Hazard ratios compare with the reference patient: {sentence(result.reference)}",
            f"Intervals: {sentence(manifest.interval_method)}",
            f"Competing risks: {sentence(manifest.competing_risks)}",
        ]
    parts += [
        f"Scope: {sentence(manifest.scope)}",
        version(result),
        f"Evidence: {sentence(evidence(result))}",
        RESEARCH_USE,
    ]
    return " ".join(part for part in parts if part)
