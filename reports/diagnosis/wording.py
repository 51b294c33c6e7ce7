"""The sentences that report, picture, page and comments of a diagnosis share."""

from __future__ import annotations

from models.results import DiagnosisResult, ImageAssessment, LabelProbability
from reports.wording import RESEARCH_USE, demonstration, percent, sentence, short_digest


def verdict(assessment: ImageAssessment) -> str:
    """The category of an image in words."""
    if not assessment.differential:
        return "not assessed"
    return "suspicious" if assessment.is_suspicious else "not suspicious"


def ranked(assessment: ImageAssessment) -> list[LabelProbability]:
    """The differential, most probable first; equal probabilities stay in their order."""
    return sorted(assessment.differential, key=lambda line: -line.probability)


def full_name(result: DiagnosisResult, label: str) -> str:
    """The label's full name, or the label itself where the result names none."""
    return result.labels.get(label) or label


def comments(assessment: ImageAssessment, result: DiagnosisResult) -> tuple[str, ...]:
    """The lines that a viewer draws beside the outline, what matters most at their beginning.

    A viewer cuts a line at the edge of its window, so the figure comes first.
    """
    first = demonstration(result.model)
    warning = (first,) if first else ()
    if not assessment.differential:
        return (*warning, f"Not assessed by AI. {_reasons(assessment)}", RESEARCH_USE)
    malignancy = percent(assessment.malignancy_prob or 0.0)
    likely = full_name(result, ranked(assessment)[0].label)
    lines = [f"AI: malignancy {malignancy}, {verdict(assessment)}; most likely {likely}"]
    if assessment.quality.warnings:
        lines.append("Image quality: " + "; ".join(assessment.quality.warnings))
    return (*warning, *lines, RESEARCH_USE)


def details(assessment: ImageAssessment, result: DiagnosisResult) -> str:
    """Everything that a reader of the report should know, in sentences."""
    model = result.model
    warning = f"{demonstration(model)} ".lstrip()
    identity = (
        f"{warning}Model {model.name} {model.version}, weights {short_digest(model)}. "
        f"Evidence: {sentence(model.evidence)} Licence: {sentence(model.licence)} {RESEARCH_USE}"
    )
    if not assessment.differential:
        return f"Not assessed. {_reasons(assessment)} No probability is given. {identity}"
    top = ranked(assessment)[0]
    warnings = "; ".join(assessment.quality.warnings)
    quality = f"Image quality: {sentence(warnings)} " if warnings else ""
    return (
        f"{verdict(assessment).capitalize()} of malignancy "
        f"({percent(assessment.malignancy_prob or 0.0)}). "
        f"Most likely diagnosis: {full_name(result, top.label)} ({percent(top.probability)}). "
        f"Suspicious from a malignancy of {percent(result.operating_point)}: "
        f"{sentence(result.operating_point_meaning)} {quality}{identity}"
    )


def _reasons(assessment: ImageAssessment) -> str:
    reasons = assessment.quality.reasons or ("No reason was given",)
    return " ".join(sentence(reason) for reason in reasons)
