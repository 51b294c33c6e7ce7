"""The sentences that report, picture and comments share."""

from __future__ import annotations

from models.results import DiagnosisResult, ImageAssessment, LabelProbability, ModelIdentity

RESEARCH_USE = "Research use only. Not for diagnostic use without review."

_SHORT_DIGEST_LENGTH = 12


def percent(prob: float) -> str:
    """A probability in percent; never 0 or 100, which no model may claim.

    Examples
    --------
    >>> percent(0.7149), percent(0.00001), percent(0.99999)
    ('71.5 %', '< 0.1 %', '> 99.9 %')
    """
    if prob < 0.001:
        return "< 0.1 %"
    if prob > 0.999:
        return "> 99.9 %"
    return f"{100 * prob:.1f} %"


_DEMONSTRATION = {
    "simulated": "DEMONSTRATION MODEL, evidence from simulated data only.",
    "none": "DEMONSTRATION MODEL, without any evidence.",
}


def demonstration(model: ModelIdentity) -> str:
    """What every report and picture of a model without real evidence begins with; else empty."""
    return _DEMONSTRATION.get(model.evidence_level, "")


def short_digest(model: ModelIdentity) -> str:
    """The first digits of the weights' SHA-256, enough for a person to compare."""
    return model.digest[:_SHORT_DIGEST_LENGTH]


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


def sentence(text: str) -> str:
    """The text with one full stop at its end.

    Examples
    --------
    >>> sentence("out of focus"), sentence("Accuracy 0.71.")
    ('out of focus.', 'Accuracy 0.71.')
    """
    return text.strip().rstrip(".") + "."
