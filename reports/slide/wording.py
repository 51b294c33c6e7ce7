"""The sentences about slides that report and picture share."""

from __future__ import annotations

from models.results import LabelProbability
from models.slide.result import SlideAssessment, SlideResult
from models.slide.tissue import TissueFinding
from reports.wording import RESEARCH_USE, demonstration, percent, sentence, short_digest

RANKS_NOTE = "Ranks hold within this slide only; a negative slide has high ranks too."


def ranked(assessment: SlideAssessment) -> list[LabelProbability]:
    """The probabilities, highest first; equal ones stay in their order."""
    return sorted(assessment.probabilities, key=lambda line: -line.probability)


def full_name(result: SlideResult, label: str) -> str:
    """The label's full name, or the label itself where the result names none."""
    return result.labels.get(label) or label


def positive_name(result: SlideResult) -> str:
    """The positive labels in words."""
    return ", ".join(full_name(result, label) for label in result.positive_labels)


def verdict(assessment: SlideAssessment) -> str:
    """The call in one word or two."""
    if not assessment.is_assessed:
        return "not assessed"
    return "positive" if assessment.is_positive else "negative"


def headline(assessment: SlideAssessment) -> str:
    """What a picture says in large letters."""
    finding = None if assessment.tissue is None else assessment.tissue.finding
    if assessment.is_assessed:
        return verdict(assessment).capitalize()
    if finding is None or finding is TissueFinding.TISSUE:
        return "NOT ASSESSED"
    return finding.value.upper()


def call(assessment: SlideAssessment, result: SlideResult) -> str:
    """The call with its figures, what matters most at its beginning."""
    prob = percent(assessment.positive_prob or 0.0)
    return (
        f"{positive_name(result)} {prob}: {verdict(assessment)} "
        f"(threshold {percent(result.threshold)})"
    )


def comments(assessment: SlideAssessment, result: SlideResult) -> tuple[str, ...]:
    """The short lines of a measurement group."""
    first = demonstration(result.model)
    warning = (first,) if first else ()
    if not assessment.is_assessed:
        return (*warning, f"Not assessed by AI. {reasons(assessment)}", RESEARCH_USE)
    lines = [f"AI: {call(assessment, result)}"]
    if assessment.warnings:
        lines.append("Remarks: " + "; ".join(assessment.warnings))
    return (*warning, *lines, RESEARCH_USE)


def details(assessment: SlideAssessment, result: SlideResult) -> str:
    """Everything that a reader of the report should know, in sentences."""
    model = result.model
    warning = f"{demonstration(model)} ".lstrip()
    identity = (
        f"{warning}Model {model.name} {model.version}, weights {short_digest(model)}; "
        f"tiles embedded by {result.encoder.name} {result.encoder.version}, weights "
        f"{short_digest(result.encoder)}. Evidence: {sentence(model.evidence)} "
        f"Licence: {sentence(model.licence)} {RESEARCH_USE}"
    )
    remarks = "".join(f"{capitalised(text)} " for text in assessment.warnings)
    if not assessment.is_assessed:
        return f"Not assessed. {reasons(assessment)} {remarks}No probability is given. {identity}"
    return (
        f"{call(assessment, result)}. Threshold: {sentence(result.threshold_meaning)} "
        f"{extent(assessment)} {RANKS_NOTE} {remarks}{identity}"
    )


def extent(assessment: SlideAssessment) -> str:
    """How much was looked at."""
    tiles = 0 if assessment.grid is None else len(assessment.grid)
    parts = 0 if assessment.tissue is None else len(assessment.tissue.outlines)
    text = f"{count(tiles, 'tile')} of {count(parts, 'part')} of tissue"
    if assessment.grid is not None:
        text += f" at {assessment.grid.plan.um_px:g} um/px"
    return f"{text}."


def count(number: int, noun: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> count(1, "tile"), count(512, "tile")
    ('1 tile', '512 tiles')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def reasons(assessment: SlideAssessment) -> str:
    """The reasons against assessing, in sentences."""
    given = assessment.reasons or (_implied(assessment),)
    return " ".join(capitalised(reason) for reason in given)


def capitalised(text: str) -> str:
    """A sentence of its own.

    Examples
    --------
    >>> capitalised("too little tissue")
    'Too little tissue.'
    """
    whole = sentence(text)
    return whole[:1].upper() + whole[1:]


def _implied(assessment: SlideAssessment) -> str:
    finding = None if assessment.tissue is None else assessment.tissue.finding
    if finding is None or finding is TissueFinding.TISSUE:
        return "No reason was given"
    return f"The slide shows: {finding.value}"
