"""What a failure means: wait for a passing condition, ask a person, or raise an alarm. Pure."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from gateway.errors import (
    GatewayError,
    LeaseLost,
    RecordError,
    RecordUnavailable,
    SettingsError,
    SpoolError,
)
from models.errors import ImageError, ManifestError, ModelError, OutputError, WeightsError
from reports.errors import ReportError
from workers import errors


class FailureKind(enum.Enum):
    """What to do about a failure."""

    TRANSIENT = "TRANSIENT"
    """Passes by itself: try again for as long as it takes."""
    REJECTED = "REJECTED"
    """The study cannot be analysed; a person reads why."""
    DEFECT = "DEFECT"
    """Our software or our model is at fault: try a few times, then raise an alarm."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A classified exception."""

    kind: FailureKind
    reason: str
    """Readable, free of patient attributes."""


_KINDS: dict[type[Exception], FailureKind] = {
    errors.RegistryError: FailureKind.DEFECT,
    errors.Undecodable: FailureKind.REJECTED,
    errors.NothingDecodable: FailureKind.REJECTED,
    errors.InstanceMissing: FailureKind.DEFECT,
    errors.StorageUnavailable: FailureKind.TRANSIENT,
    errors.PriorsUnavailable: FailureKind.TRANSIENT,
    errors.ModelUnavailable: FailureKind.TRANSIENT,
    errors.ModelChanged: FailureKind.TRANSIENT,
    errors.BadModelOutput: FailureKind.DEFECT,
    errors.DemonstrationModel: FailureKind.REJECTED,
    errors.EncoderMismatch: FailureKind.DEFECT,
    errors.DestinationGone: FailureKind.TRANSIENT,
    errors.LimitExceeded: FailureKind.DEFECT,
    errors.WorkerError: FailureKind.DEFECT,
    RecordUnavailable: FailureKind.TRANSIENT,
    LeaseLost: FailureKind.TRANSIENT,
    RecordError: FailureKind.DEFECT,
    SpoolError: FailureKind.TRANSIENT,
    SettingsError: FailureKind.DEFECT,
    GatewayError: FailureKind.DEFECT,
    ImageError: FailureKind.DEFECT,
    ManifestError: FailureKind.DEFECT,
    WeightsError: FailureKind.DEFECT,
    OutputError: FailureKind.DEFECT,
    ModelError: FailureKind.DEFECT,
    ReportError: FailureKind.DEFECT,
}
"""The nearest base class of an exception decides."""


def classify(exception: BaseException) -> Failure:
    """Return what an exception means.

    Only the message of our own errors is quoted: the text of a third party's may hold values of
    the study, so its type has to do.

    Examples
    --------
    >>> from workers.errors import ModelUnavailable
    >>> classify(ModelUnavailable("the model server does not answer")).kind
    <FailureKind.TRANSIENT: 'TRANSIENT'>
    >>> classify(KeyError("x")).reason
    'unexpected failure (KeyError); see the log of the worker'
    """
    for base in type(exception).__mro__:
        kind = _KINDS.get(base)
        if kind is not None:
            return Failure(kind=kind, reason=str(exception) or type(exception).__name__)
    return Failure(
        kind=FailureKind.DEFECT,
        reason=f"unexpected failure ({type(exception).__name__}); see the log of the worker",
    )


def backoff_s(
    attempt: int, *, max_s: float, base_s: float = 1.0, rng: random.Random | None = None
) -> float:
    """Return the pause before the next attempt: exponential, with jitter, capped.

    Parameters
    ----------
    attempt
        1 after the first failure.
    max_s
        The longest pause in seconds.
    base_s
        The longest pause after the first failure.
    rng
        Source of the jitter.

    Returns
    -------
    Between half and the whole of ``min(max_s, base_s * 2 ** (attempt - 1))``: half is kept so that
    a failing server gets its rest, the other half spreads those who wait for the same server.
    """
    # 2**30 seconds is beyond any cap; without the bound a long outage overflows a float.
    full = min(max_s, base_s * 2.0 ** min(max(attempt, 1) - 1, 30))
    # Jitter needs no cryptographic randomness.
    return full * (0.5 + 0.5 * (rng or random).random())
