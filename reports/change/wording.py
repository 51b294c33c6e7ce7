"""The sentences that report, picture and comments of a change share."""

from __future__ import annotations

from models.change.result import ChangeResult, Comparison, LesionChange, TimePoint
from reports.wording import RESEARCH_USE, demonstration, percent, sentence, short_digest

LINKAGES = {
    "tracking_uid": "the images carry one Tracking UID",
    "tracking_id": "the images carry one Tracking ID of the same patient",
    "body_site": "the images share the body site, and the registration confirms the lesion",
}


def verdict(lesion: LesionChange) -> str:
    """The outcome of a lesion in words."""
    comparison = lesion.comparison
    if lesion.not_assessed is not None or comparison is None:
        return "not assessed"
    return "changed" if comparison.is_changed else "no change found"


def first_upper(text: str) -> str:
    """The text with its first letter in upper case, and the others as they are.

    Examples
    --------
    >>> first_upper("the images carry one Tracking UID")
    'The images carry one Tracking UID'
    """
    return text[:1].upper() + text[1:]


def interval(comparison: Comparison) -> str:
    """The time between two images.

    Only the days between them are told: dates would identify a visit on a picture.
    """
    return "an unknown time" if comparison.days is None else days(comparison.days)


def days(number: int) -> str:
    """A number of days in words.

    Examples
    --------
    >>> days(0), days(1), days(92)
    ('the same day', '1 day', '92 days')
    """
    if number == 0:
        return "the same day"
    return "1 day" if number == 1 else f"{number} days"


def growth(comparison: Comparison) -> str:
    """Growth of the area with its sign, in mm² where the images are calibrated."""
    found = comparison.growth
    if found is None:
        return "growth not measured"
    relative = "" if found.relative is None else f" ({100 * found.relative:+.0f} %)"
    if found.growth_mm2 is not None:
        return f"{found.growth_mm2:+.2f} mm²{relative}"
    return f"{found.growth_px:+.0f} square pixels{relative}, not calibrated"


def registration(comparison: Comparison) -> str:
    """How well the images were brought together."""
    found = comparison.alignment
    if found is None:
        return "the images were not brought together"
    grade = "good" if found.is_good else "fair"
    return (
        f"registration {grade}: {found.inliers} of {found.matches} landmarks agree, residual "
        f"{found.residual_px:.1f} px, overlap {100 * found.overlap:.0f} %, rotation "
        f"{found.rotation_deg:.0f} deg"
    )


def comments(lesion: LesionChange, result: ChangeResult) -> tuple[str, ...]:
    """The lines that a viewer draws beside the outline, what matters most first."""
    first = demonstration(result.model)
    warning = (first,) if first else ()
    if lesion.not_assessed is not None or lesion.comparison is None:
        return (*warning, f"Change not assessed by AI. {_why(lesion)}", RESEARCH_USE)
    pair = lesion.comparison
    line = (
        f"AI: {verdict(lesion)} ({percent(pair.change_prob or 0.0)}), {interval(pair)}; "
        f"area {growth(pair)}"
    )
    return (*warning, line, RESEARCH_USE)


def details(lesion: LesionChange, result: ChangeResult) -> str:
    """Everything that a reader of the report should know, in sentences."""
    model, outliner = result.model, result.segmentation
    identity = (
        f"Model {model.name} {model.version}, weights {short_digest(model)}, encoder "
        f"{result.encoder.version} ({short_digest(result.encoder)}); outlines and malignancy by "
        f"{outliner.name} {outliner.version} ({short_digest(outliner)}). Evidence: "
        f"{sentence(model.evidence)} Licence: {sentence(model.licence)} {RESEARCH_USE}"
    )
    warning = f"{demonstration(model)} ".lstrip()
    if lesion.not_assessed is not None or lesion.comparison is None:
        said = f"Change not assessed. {_why(lesion)} No probability is given."
    else:
        said = _assessed(lesion, lesion.comparison, result)
    return f"{warning}{said} {sequence(lesion)}{identity}"


def _assessed(lesion: LesionChange, pair: Comparison, result: ChangeResult) -> str:
    remarks = "".join(f" {sentence(first_upper(each))}" for each in pair.remarks)
    linkage = LINKAGES.get(pair.before.linkage or "", "")
    return (
        f"{first_upper(verdict(lesion))} over {interval(pair)} (probability of change "
        f"{percent(pair.change_prob or 0.0)}; called changed from {percent(result.threshold)}: "
        f"{result.threshold_meaning}). Area: {sentence(growth(pair))} "
        f"{sentence(first_upper(registration(pair)))} {sentence(first_upper(linkage))}{remarks} "
        "No change does not mean benign."
    )


def _why(lesion: LesionChange) -> str:
    text = "" if lesion.not_assessed is None else lesion.not_assessed.text
    return sentence(first_upper(text or "no reason was given"))


def sequence(lesion: LesionChange) -> str:
    """The lines of a sequence; empty where there is none."""
    if not lesion.sequence:
        return ""
    points = "; ".join(time_point(each, lesion) for each in lesion.time_points)
    pairs = "; ".join(_step(each, lesion) for each in lesion.sequence)
    found = lesion.first_suspicious
    first = "none" if found is None else f"{name(found, lesion)}, {why_first(found, lesion)}"
    return (
        f"Sequence of {len(lesion.time_points)} images: {points}. Compared: {pairs}. First "
        f"suspicious time point (malignancy at the operating point, or changed): {first}. "
    )


def why_first(point: TimePoint, lesion: LesionChange) -> str:
    """What makes a time point suspicious."""
    causes = {
        "malignancy at the operating point": bool(point.is_suspicious),
        "changed": point.sop_instance_uid in lesion.changed_points,
    }
    return " and ".join(cause for cause, holds in causes.items() if holds)


def name(point: TimePoint, lesion: LesionChange) -> str:
    """What a time point is called, e.g. ``image 2 (day 92)``."""
    number = 1 + [each.sop_instance_uid for each in lesion.time_points].index(
        point.sop_instance_uid
    )
    day = "" if point.days is None else f" (day {point.days})"
    return f"image {number}{day}"


def time_point(point: TimePoint, lesion: LesionChange) -> str:
    """One line about one image."""
    if point.malignancy_prob is None:
        why = "not assessed" if point.problem is None else point.problem.text
        return f"{name(point, lesion)}: {why}"
    call = "suspicious" if point.is_suspicious else "not suspicious"
    return f"{name(point, lesion)}: malignancy {percent(point.malignancy_prob)}, {call}"


def _step(pair: Comparison, lesion: LesionChange) -> str:
    places = f"{name(pair.before, lesion)} to {name(pair.after, lesion)}"
    if pair.change_prob is None:
        why = "" if pair.not_assessed is None else f", {pair.not_assessed.text}"
        return f"{places}: not assessed{why}"
    call = "changed" if pair.is_changed else "no change found"
    return f"{places}: {call}, probability {percent(pair.change_prob)}, area {growth(pair)}"
