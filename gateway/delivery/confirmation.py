"""What comes next for an object that a destination stored: pure decisions on storage commitment.

Which confirmations count is the setting ``LENTIGO_DELIVERY_CONFIRM``:

===========  ==================  ========  =======================
value        storage commitment  C-FIND    answer of the C-STORE
===========  ==================  ========  =======================
auto         where it is offered  else      else
require      where it is offered  else      never
commitment   always               never     never
===========  ==================  ========  =======================
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.delivery.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_INSTANCE,
    SOP_CLASS_NOT_SUPPORTED,
    describe_failure,
)

MOST_UNANSWERED = 3
"""Requests without an answer after which ``auto`` is content with the answer of the C-STORE."""
_MOST_REFUSALS = {NO_SUCH_INSTANCE: 5, CLASS_INSTANCE_CONFLICT: 3, SOP_CLASS_NOT_SUPPORTED: 2}
# Passing by their nature: the archive behind the PACS may be away for a while.
_MOST_FAILURES = 20


class Next(enum.Enum):
    """What to do about a stored object."""

    CONFIRM = "confirm"
    """The destination committed to it."""
    WAIT = "wait"
    """The destination was asked and has time to answer."""
    ASK = "ask"
    """Ask, in whatever way is left."""
    SEND = "send"
    """The destination lacks it: send it again."""
    REFUSED = "refused"
    """The destination said often enough that it will not keep it."""


@dataclass(frozen=True, kw_only=True)
class CommitmentView:
    """What a destination said about the storage commitment of one object, over all requests."""

    is_committed: bool = False
    waits_s: float | None = None
    """The newest request has no answer yet and is waited for so many more seconds."""
    failure_reason: int | None = None
    """Of the newest answer, where that is a failure (PS3.3 C.14.1.1)."""
    failures: int = 0
    """Answers that were failures."""
    unanswered: int = 0
    """Requests since the last answer whose time ran out, or whose answer left the object out."""
    is_declined: bool = False
    """The destination did not take the newest request at all."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A decision and its reason."""

    next: Next
    reason: str = ""
    asks_commitment: bool = True
    """With ASK: whether storage commitment is worth another request."""


def decide(view: CommitmentView, confirm: str) -> Step:
    """Return what comes next for an object that is stored and not confirmed.

    Parameters
    ----------
    confirm
        ``auto``, ``require`` or ``commitment``.

    Examples
    --------
    >>> decide(CommitmentView(failure_reason=0x0112, failures=1), "auto").next
    <Next.SEND: 'send'>
    """
    if view.is_committed:
        return Step(next=Next.CONFIRM)
    if view.waits_s is not None:
        return Step(next=Next.WAIT, reason="stored; storage commitment was asked for")
    if view.is_declined and confirm != "commitment":
        return Step(next=Next.ASK, asks_commitment=False)
    if view.failure_reason is None:
        if view.unanswered:
            return Step(next=Next.ASK, reason=_unanswered(view.unanswered))
        return Step(next=Next.ASK)
    return _after_failure(view, view.failure_reason, confirm)


def _after_failure(view: CommitmentView, reason: int, confirm: str) -> Step:
    said = f"not committed: {describe_failure(reason)}"
    if reason == SOP_CLASS_NOT_SUPPORTED and confirm != "commitment":
        return Step(next=Next.ASK, reason=said, asks_commitment=False)
    most = _MOST_REFUSALS.get(reason, _MOST_FAILURES)
    if view.failures >= most:
        return Step(
            next=Next.REFUSED, reason=f"the destination says for the {view.failures}th time: {said}"
        )
    # Every second time also for what seems to pass: the copy over there may be damaged.
    is_lacking = reason in (NO_SUCH_INSTANCE, CLASS_INSTANCE_CONFLICT)
    if is_lacking or (view.failures % 2 == 0 and not view.unanswered):
        return Step(next=Next.SEND, reason=said)
    return Step(next=Next.ASK, reason=said)


def _unanswered(requests: int) -> str:
    times = "one request" if requests == 1 else f"{requests} requests"
    return f"{times} for storage commitment not answered in time"
