"""Keeps work away from a destination that does not answer, and tries it now and then.

The breaker itself is in the record (``gateway.store.work.destinations``). An open destination is
tried by one worker: first by a cheap probe, and when that is answered by the worker's own objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.delivery.routes import ObjectState, Outcome, Outgoing


class Admitted(Protocol):
    """Whether a destination may be tried now."""

    @property
    def is_admitted(self) -> bool:
        """Whether it may."""
        ...

    @property
    def is_probe(self) -> bool:
        """Whether the caller is the one that tries it."""
        ...

    @property
    def retry_in_s(self) -> float:
        """When to ask again, if not."""
        ...

    @property
    def reason(self) -> str:
        """Why not."""
        ...


class Board(Protocol):
    """Where the breakers are."""

    def admit(self, destination: str) -> Admitted:
        """Say whether a destination may be tried now."""
        ...

    def answered(self, destination: str) -> None:
        """Note that a destination answered."""
        ...

    def unanswered(self, destination: str, reason: str) -> None:
        """Note that a destination did not answer."""
        ...


class Delivers(Protocol):
    """Delivers objects to one destination."""

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object."""
        ...


class GuardedCourier:
    """A courier behind the breaker of its destination.

    Parameters
    ----------
    destination
        Its name in the record.
    probe
        Asks an open destination whether it is there: returns "" or why not.
    """

    def __init__(
        self, destination: str, courier: Delivers, board: Board, probe: Callable[[], str]
    ) -> None:
        self._destination = destination
        self._courier = courier
        self._board = board
        self._probe = probe

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object, if the destination may be tried.

        Raises
        ------
        RecordUnavailable
            The breaker cannot be read or written.
        """
        admission = self._board.admit(self._destination)
        if not admission.is_admitted:
            reason = f"the destination is left alone for a while: {admission.reason}"
            return [_postponed(each, reason, admission.retry_in_s) for each in objects]
        if admission.is_probe:
            problem = self._probe()
            if problem:
                self._board.unanswered(self._destination, problem)
                return [_postponed(each, problem, None) for each in objects]
        outcomes = self._courier.deliver(objects)
        silent = next((each for each in outcomes if each.is_unreachable), None)
        # An answer to one object is an answer, whatever became of the others.
        has_answered = any(each.status is not None or each.confirmed_by for each in outcomes)
        if silent is not None and not has_answered:
            self._board.unanswered(self._destination, silent.reason)
        elif outcomes:
            self._board.answered(self._destination)
        return outcomes


def _postponed(each: Outgoing, reason: str, retry_in_s: float | None) -> Outcome:
    state = ObjectState.STORED if each.is_stored else ObjectState.PENDING
    return Outcome(
        id=each.id, state=state, reason=reason, is_unreachable=True, retry_in_s=retry_in_s
    )
