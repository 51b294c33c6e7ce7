"""The sentences about lesions and the patient that reports and contact sheets share."""

from __future__ import annotations

from models.tbp.lesions import Reason
from models.tbp.patient import LesionScreening
from models.tbp.result import TbpResult
from reports.wording import RESEARCH_USE, demonstration, percent, sentence, short_digest

REASON_WORDS: dict[Reason, str] = {
    "risk": "tile",
    "ugly duckling": "ugly duckling",
    "measurements": "measurements",
}


def evidence(lesion: LesionScreening, result: TbpResult) -> dict[Reason, str]:
    """What each module says of a lesion, as text; a module that abstained is left out."""
    said: dict[Reason, str] = {}
    if lesion.risk_prob is not None:
        said["risk"] = percent(lesion.risk_prob)
    share = cutoff_share(lesion, result)
    if share is not None:
        said["ugly duckling"] = f"{100 * share:.0f} % of cut-off"
    if lesion.trees_prob is not None:
        said["measurements"] = percent(lesion.trees_prob)
    return said


def cutoff_share(lesion: LesionScreening, result: TbpResult) -> float | None:
    """Distance over the distance from which a lesion is an outlier; None when not assessed."""
    cutoff = result.screening.ugly_duckling_cutoff
    if lesion.distance is None or not cutoff:
        return None
    return lesion.distance / cutoff


def comments(lesion: LesionScreening, result: TbpResult) -> tuple[str, ...]:
    """The lines that a viewer draws beside the lesion.

    It cuts them at the edge of its window, so what matters comes within the first 25 letters.
    """
    first = demonstration(result.model)
    warning = (first,) if first else ()
    total = len(result.screening.lesions)
    if lesion.is_flagged:
        why = ", ".join(REASON_WORDS[reason] for reason in lesion.reasons)
        line = f"AI rank {lesion.rank} of {total}: look closer ({why})"
    elif lesion.excluded:
        line = f"AI: not assessed (taken out by filter {', '.join(lesion.excluded)})"
    else:
        line = f"AI: no lesion recommended (this is rank {lesion.rank} of {total})"
    return (*warning, line, RESEARCH_USE)


def details(lesion: LesionScreening, result: TbpResult) -> str:
    """Everything that a reader should know of one lesion, in sentences."""
    said = evidence(lesion, result)
    modules = "; ".join(
        f"{REASON_WORDS[name]} {said[name]}" if name in said else f"{REASON_WORDS[name]} abstained"
        for name in REASON_WORDS
    )
    missing = (
        f"Measurements without a usable value: {', '.join(lesion.missing)}. "
        if 0 < len(lesion.missing) < 32
        else ("No measurements came. " if lesion.missing else "")
    )
    return f"Body site: {lesion.location}. {sentence(modules)} {missing}{limits(result)}"


def limits(result: TbpResult) -> str:
    """From where the modules say yes, in one sentence."""
    return (
        f"A module recommends a lesion from {percent(result.thresholds.risk)} (tile), from "
        f"{percent(result.thresholds.trees)} (measurements) and from 100 % of the cut-off of the "
        f"patient's own distances (ugly duckling): {sentence(result.thresholds_meaning)}"
    )


def identity(result: TbpResult) -> str:
    """Models, evidence, licence and intended use, in sentences."""
    model, encoder = result.model, result.encoder
    warning = f"{demonstration(model)} ".lstrip()
    return (
        f"{warning}Model {model.name} {model.version}, weights {short_digest(model)}; tiles "
        f"embedded by {encoder.name} {encoder.version}, weights {short_digest(encoder)}. "
        f"Evidence: {sentence(model.evidence)} Licence: {sentence(model.licence)} {RESEARCH_USE}"
    )


def headline(result: TbpResult) -> str:
    """The patient in one sentence."""
    screening = result.screening
    excluded = len(screening.lesions) - screening.assessed
    if not screening.assessed:
        return f"No lesion was assessed; {excluded} were taken out by the filters"
    nevi = sum(screening.nevus_count.values())
    grade = screening.photodamage.grade or "not graded"
    return (
        f"{screening.flagged} of {count(screening.assessed, 'assessed lesion')} recommended for a "
        f"closer look; {excluded} taken out by the filters; {count(nevi, 'nevus', 'nevi')}; "
        f"photodamage {grade}"
    )


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    Examples
    --------
    >>> count(1, "lesion"), count(2000, "lesion")
    ('1 lesion', '2,000 lesions')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
