"""The sentences that report, picture, page and comments of a diagnosis share."""

from __future__ import annotations

from models.results import (
    DiagnosisResult,
    ImageAssessment,
    LabelProbability,
    LabelSet,
    LesionStatement,
)
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


def capitalised(text: str) -> str:
    """The text with a capital at its beginning, the rest unchanged.

    Examples
    --------
    >>> capitalised("image like no AIDA image")
    'Image like no AIDA image'
    """
    return text[:1].upper() + text[1:]


def promised(coverage: float) -> str:
    """The promise of a label set.

    Examples
    --------
    >>> promised(0.9)
    '90 % coverage'
    """
    return f"{100 * coverage:g} % coverage"


def possible(found: LabelSet, result: DiagnosisResult) -> str:
    """The label set in words, or that and why it is a referral."""
    if not found.labels:
        return f"Refer to a reader: no diagnosis is probable enough ({promised(found.coverage)})"
    if found.is_referred:
        return (
            f"Refer to a reader: {len(found.labels)} diagnoses are possible "
            f"({promised(found.coverage)})"
        )
    names = [full_name(result, label) for label in found.labels]
    listed = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    return f"Possible: {listed} ({promised(found.coverage)})"


def lesion_sentence(
    assessment: ImageAssessment, lesion: LesionStatement, result: DiagnosisResult
) -> str:
    """What an image is to a lesion that several images show."""
    numbers = {each.sop_instance_uid: n for n, each in enumerate(result.images, start=1)}
    shown = ", ".join(str(numbers[uid]) for uid in lesion.images)
    if lesion.deciding is None:
        return f"One lesion in images {shown}, none of them assessed"
    if lesion.deciding == assessment.sop_instance_uid:
        return f"Stands for the lesion of images {shown}"
    deciding = result.images[numbers[lesion.deciding] - 1]
    return (
        f"Image {numbers[lesion.deciding]} stands for this lesion: {verdict(deciding)}, malignancy "
        f"{percent(deciding.malignancy_prob or 0.0)}"
    )


def lesion_of(assessment: ImageAssessment, result: DiagnosisResult) -> LesionStatement | None:
    """The statement on the lesion of an image that other images show too."""
    uid = assessment.sop_instance_uid
    return next((each for each in result.lesions if uid in each.images), None)


def comments(assessment: ImageAssessment, result: DiagnosisResult) -> tuple[str, ...]:
    """The lines that a viewer draws beside the outline, what matters most at their beginning.

    A viewer cuts a line at the edge of its window, so the figure comes first.
    """
    first = demonstration(result.model)
    warning = (first,) if first else ()
    lesion = lesion_of(assessment, result)
    beside = (lesion_sentence(assessment, lesion, result),) if lesion else ()
    if not assessment.differential:
        reasons = f"Not assessed by AI. {_reasons(assessment)}"
        return (*warning, reasons, *beside, RESEARCH_USE)
    malignancy = percent(assessment.malignancy_prob or 0.0)
    likely = full_name(result, ranked(assessment)[0].label)
    lines = [f"AI: malignancy {malignancy}, {verdict(assessment)}; most likely {likely}"]
    if assessment.label_set is not None:
        lines.append(possible(assessment.label_set, result))
    lines += beside
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
        return (
            f"Not assessed. {_reasons(assessment)} {_beside(assessment, result)}"
            f"No probability is given. {identity}"
        )
    warnings = "; ".join(assessment.quality.warnings)
    quality = f"Image quality: {sentence(warnings)} " if warnings else ""
    return (
        f"{verdict(assessment).capitalize()} of malignancy "
        f"({percent(assessment.malignancy_prob or 0.0)}). "
        f"Most likely: {top_three(assessment, result)}. "
        f"Suspicious from a malignancy of {percent(result.operating_point)}: "
        f"{sentence(result.operating_point_meaning)} {_possible(assessment, result)}"
        f"{_beside(assessment, result)}{quality}{identity}"
    )


def top_three(assessment: ImageAssessment, result: DiagnosisResult) -> str:
    """The three most probable diagnoses with their probabilities."""
    return ", ".join(
        f"{full_name(result, line.label)} ({percent(line.probability)})"
        for line in ranked(assessment)[:3]
    )


def set_rule(found: LabelSet) -> str:
    """What a label set promises and when it becomes a referral."""
    return (
        f"A set of diagnoses holds the true one with {promised(found.coverage)} on images like "
        f"the validation images; none or more than {found.largest} is a referral."
    )


def _possible(assessment: ImageAssessment, result: DiagnosisResult) -> str:
    found = assessment.label_set
    return f"{sentence(possible(found, result))} {set_rule(found)} " if found else ""


def _beside(assessment: ImageAssessment, result: DiagnosisResult) -> str:
    lesion = lesion_of(assessment, result)
    return f"{sentence(lesion_sentence(assessment, lesion, result))} " if lesion else ""


def _reasons(assessment: ImageAssessment) -> str:
    reasons = assessment.quality.reasons or ("No reason was given",)
    return " ".join(sentence(capitalised(reason)) for reason in reasons)
