"""The sentences that reports, pictures and comments of every analysis share."""

from __future__ import annotations

from models.results import ModelIdentity

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


def sentence(text: str) -> str:
    """The text with one full stop at its end.

    Examples
    --------
    >>> sentence("out of focus"), sentence("Accuracy 0.71.")
    ('out of focus.', 'Accuracy 0.71.')
    """
    return text.strip().rstrip(".") + "."
