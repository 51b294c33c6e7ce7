"""What peers answer, in words, and what it means for an object: one place, no network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway.delivery.routes import ObjectState

PERMANENT: Mapping[int, str] = MappingProxyType(
    {
        0x0105: "no such attribute",
        0x0106: "invalid attribute value",
        0x0115: "invalid argument value",
        0x0116: "attribute value out of range",
        0x0117: "invalid object instance",
        0x0118: "no such SOP class",
        0x0119: "class-instance conflict",
        0x0120: "missing attribute",
        0x0121: "missing attribute value",
        0x0122: "SOP class not supported",
        0x0124: "not authorised",
        0x0211: "unrecognised operation",
        0x0212: "mistyped argument",
    }
)
"""What the same object will always meet again (PS3.7 Annex C)."""

STATUS_RANGES = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xBFFF, "stored with a warning"),
    (0xC000, 0xCFFF, "cannot understand"),
)
"""First, last, and what they mean (PS3.4 Table B.2-1)."""

_DUPLICATE_SOP_INSTANCE = 0x0111  # PS3.7 C.5.5

# PS3.8 Table 9-21, by (source, reason).
_REJECTIONS = {
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised (it does not know ours)",
    (1, 7): "called AE title not recognised (it has another)",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}

# PS3.8 Table 9-18.
_CONTEXT_RESULTS = {
    1: "user rejection",
    2: "no reason given",
    3: "SOP class not supported",
    4: "transfer syntax not supported",
}


def rejection_words(source: int, reason: int) -> str:
    """Return why a peer rejects an association.

    Examples
    --------
    >>> rejection_words(1, 7)
    'called AE title not recognised (it has another)'
    """
    return _REJECTIONS.get((source, reason), "no reason given")


def context_words(result: int) -> str:
    """Return why a peer does not accept a presentation context.

    Examples
    --------
    >>> context_words(4)
    'transfer syntax not supported'
    """
    return _CONTEXT_RESULTS.get(result, "no reason given")


def classify_status(status: int) -> tuple[ObjectState, str]:
    """Return (state, reason) of a C-STORE response status.

    References
    ----------
    PS3.4 Table B.2-1 (storage statuses), PS3.7 Annex C (general statuses).

    Examples
    --------
    >>> classify_status(0xA700)
    (<ObjectState.PENDING: 'PENDING'>, 'out of resources (status A700)')
    """
    if status == 0x0000:
        return ObjectState.STORED, ""
    if status == _DUPLICATE_SOP_INSTANCE:
        return ObjectState.STORED, "the destination had it already (status 0111)"
    meaning = PERMANENT.get(status) or next(
        (text for low, high, text in STATUS_RANGES if low <= status <= high), "failure"
    )
    reason = f"{meaning} (status {status:04X})"
    if 0xB000 <= status <= 0xBFFF or status == 0x0001:
        return ObjectState.STORED, reason
    if status in PERMANENT or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        return ObjectState.REFUSED, reason
    return ObjectState.PENDING, reason
