"""C-STORE SCU for results, with their confirmation on the same association.

One association carries a whole result set. It proposes every (SOP Class, stored transfer syntax)
of the objects, storage commitment and the Study Root query context. What the destination says
about one object never decides about its siblings. Retrying is the caller's business: an outcome
says whether it is worth it.

What counts as what:

- *stored*: status 0000 and the warnings Bxxx (PS3.4 Table B.2-1), and 0111 duplicate SOP instance
  (PS3.7 C.5.5): the destination has it, from an attempt whose answer never reached us;
- *refused for good*: no presentation context for it (PS3.8 Table 9-18), A9xx, Cxxx (PS3.4 Table
  B.2-1), and those failures of PS3.7 Annex C which the same object will always meet;
- *passing*: A7xx out of resources, every association that does not come about, whatever the
  reason (a rejected AE title is cured at the PACS, not by giving up), abort, silence, and the rest.

A result is confirmed by storage commitment (PS3.4 J), else by a C-FIND at IMAGE level that names it
(PS3.4 C.4.1), see ``gateway.delivery.confirmation``. The association stays open for a moment after
a request for commitment, for a destination that reports on it; later reports reach our listener. A
PACS may index what it stored a little later: what is not found yet stays stored and is asked for
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext

from gateway.delivery.confirmation import MOST_UNANSWERED
from gateway.delivery.exchange import NOT_TRIED, Session, outcome_of, propose
from gateway.delivery.reports import ReportBook, take_report
from gateway.delivery.routes import Destination, ObjectState, Outcome, Outgoing
from gateway.delivery.scu import Proposal, associate
from gateway.errors import AssociationRefused, NoContextAccepted
from gateway.faults import failpoint
from gateway.settings import DeliverySettings, TlsSettings

_UNCONFIRMED = "stored, not confirmed: "

_LONGEST_ANSWER_S = 600.0
_LINGER_POLL_S = 0.05


class Commitments(ReportBook, Protocol):
    """What the sender writes and reads of storage commitment."""

    def open(self, destination: str, objects: Mapping[int, str], timeout_s: float) -> str:
        """Write a request down before it is sent; return its Transaction UID."""
        ...

    def decline(self, transaction_uid: str, reason: str) -> None:
        """Note that the destination did not take the request."""
        ...

    def is_answered(self, transaction_uid: str) -> bool:
        """Whether the answer has come, by whichever association."""
        ...

    def is_silent(self, destination: str) -> bool:
        """Whether the destination answered none of the last requests in time."""
        ...


class Sender:
    """Stores result objects at one destination and has them confirmed.

    Parameters
    ----------
    commitments
        The record of storage commitment; None: it is not asked for.
    tls
        Certificates for a destination that is spoken to over TLS.
    """

    def __init__(
        self,
        destination: Destination,
        settings: DeliverySettings,
        *,
        commitments: Commitments | None = None,
        tls: TlsSettings | None = None,
    ) -> None:
        self._destination = destination
        self._settings = settings
        self._commitments = commitments
        self._tls = tls

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object; return one outcome for each, in the same order.

        Never raises for what the destination or the network does.

        Raises
        ------
        RecordUnavailable
            A request for storage commitment could not be written down.
        """
        outcomes: dict[int, Outcome] = {}
        contexts, syntaxes = propose(objects, outcomes, self._commitments is not None)
        waiting = [each for each in objects if each.id not in outcomes]
        give_up_at = time.monotonic() + self._settings.timeout_s
        while waiting:
            self._attempt(waiting, contexts, syntaxes, outcomes)
            # One object that makes the destination abort must not hold up those behind it.
            left = [each for each in waiting if outcomes[each.id].reason == NOT_TRIED]
            if len(left) == len(waiting) or time.monotonic() > give_up_at:
                break
            waiting = left
        return [outcomes[each.id] for each in objects]

    def _attempt(
        self,
        objects: Sequence[Outgoing],
        contexts: list[PresentationContext],
        syntaxes: dict[int, str],
        outcomes: dict[int, Outcome],
    ) -> None:
        # A destination that needs minutes gets them: each silence doubles the next wait.
        longer = 2.0 ** min(max(each.faults for each in objects), 10)
        answer_timeout_s = min(
            self._settings.timeout_s * longer, max(_LONGEST_ANSWER_S, self._settings.timeout_s)
        )
        proposal = Proposal(
            calling_ae_title=self._settings.calling_ae_title,
            contexts=contexts,
            timeout_s=self._settings.timeout_s,
            answer_timeout_s=answer_timeout_s,
            handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
        )
        try:
            assoc = associate(self._destination, proposal, self._tls or TlsSettings())
        except AssociationRefused as exc:
            _refuse_or_postpone(exc, objects, outcomes)
            return
        session = Session.of(assoc, syntaxes, answer_timeout_s)
        try:
            is_over = False
            for each in objects:
                if each.is_stored:
                    outcomes[each.id] = Outcome(id=each.id, state=ObjectState.STORED)
                elif is_over:
                    outcomes[each.id] = outcome_of(each, ObjectState.PENDING, NOT_TRIED)
                else:
                    outcomes[each.id] = session.store(each)
                    failpoint("delivery.sent")
                    is_over = outcomes[each.id].is_fault or outcomes[each.id].reason == NOT_TRIED
                    if is_over and assoc.is_established:
                        # pynetdicom's other thread has not seen the end yet, or the destination
                        # is silent: either way nothing more can be asked here.
                        assoc.abort()
            self._confirm(session, objects, outcomes)
        finally:
            if assoc.is_established:
                assoc.release()

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Answer a report on storage commitment that comes on our own association."""
        assert self._commitments is not None
        request = event.request
        assert isinstance(request, N_EVENT_REPORT)
        status = take_report(
            self._commitments,
            request.EventTypeID,
            event.event_information,
            reporter=self._destination.ae_title,
        )
        return status, None

    def _confirm(
        self, session: Session, objects: Sequence[Outgoing], outcomes: dict[int, Outcome]
    ) -> None:
        stored = [each for each in objects if outcomes[each.id].state is ObjectState.STORED]
        may_find = session.can_find and self._settings.confirm != "commitment"
        if may_find:
            # Asked before and not answered: what lists it by now confirms it.
            late = [each for each in stored if each.unanswered and each.asks_commitment]
            self._confirm_otherwise(session, late, outcomes, only_listed=True)
        left = [each for each in stored if outcomes[each.id].state is ObjectState.STORED]
        asked = self._ask(session, [each for each in left if each.asks_commitment], outcomes)
        is_waited_for = not (asked and may_find and self._is_silent())
        self._confirm_otherwise(
            session,
            [each for each in left if not (each.id in asked and is_waited_for)],
            outcomes,
        )

    def _is_silent(self) -> bool:
        return self._commitments is not None and self._commitments.is_silent(str(self._destination))

    def _ask(
        self, session: Session, objects: Sequence[Outgoing], outcomes: dict[int, Outcome]
    ) -> set[int]:
        """Ask for storage commitment; return the ids of the objects that it was asked for."""
        book = self._commitments
        if book is None or not session.can_commit or not objects:
            return set()
        if self._settings.confirm == "auto" and not session.can_find:
            objects = [each for each in objects if each.unanswered < MOST_UNANSWERED]
        if not objects or not session.assoc.is_established:
            return set()
        transaction_uid = book.open(
            str(self._destination),
            {each.id: each.sop_instance_uid for each in objects},
            self._settings.commitment_timeout_s,
        )
        problem = session.request_commitment(transaction_uid, objects)
        if problem:
            book.decline(transaction_uid, problem)
            for each in objects:
                outcomes[each.id] = _unconfirmed(outcomes[each.id], problem)
            return set()
        for each in objects:
            outcomes[each.id] = _unconfirmed(outcomes[each.id], "storage commitment was asked for")
        self._linger(session.assoc, transaction_uid)
        return {each.id for each in objects}

    def _linger(self, assoc: Association, transaction_uid: str) -> None:
        """Keep the association open for a moment: many destinations report at once."""
        assert self._commitments is not None
        deadline = time.monotonic() + self._settings.commitment_linger_s
        while assoc.is_established and time.monotonic() < deadline:
            if self._commitments.is_answered(transaction_uid):
                return
            time.sleep(_LINGER_POLL_S)

    def _confirm_otherwise(
        self,
        session: Session,
        objects: Sequence[Outgoing],
        outcomes: dict[int, Outcome],
        *,
        only_listed: bool = False,
    ) -> None:
        """Confirm by C-FIND, or by the answer of the C-STORE, as far as that is allowed."""
        confirm = self._settings.confirm
        for each in objects:
            before = outcomes[each.id]
            if confirm == "commitment":
                if not session.can_commit or self._commitments is None:
                    outcomes[each.id] = _unconfirmed(
                        before, "the destination offers no storage commitment"
                    )
                continue
            if not session.can_find and confirm == "auto":
                outcomes[each.id] = _confirmed(before, "c-store")
                continue
            problem = (
                "the destination offers no C-FIND" if not session.can_find else session.find(each)
            )
            if not problem:
                outcomes[each.id] = _confirmed(before, "c-find")
            elif not only_listed:
                outcomes[each.id] = _unconfirmed(before, problem)


def _confirmed(before: Outcome, by: str) -> Outcome:
    # What an earlier step left as the reason for waiting is over; a warning of the C-STORE stays.
    reason = "" if before.reason.startswith(_UNCONFIRMED) else before.reason
    return replace(before, state=ObjectState.CONFIRMED, reason=reason, confirmed_by=by)


def _unconfirmed(before: Outcome, why: str) -> Outcome:
    return replace(before, state=ObjectState.STORED, reason=f"{_UNCONFIRMED}{why}")


def _refuse_or_postpone(
    error: AssociationRefused, objects: Sequence[Outgoing], outcomes: dict[int, Outcome]
) -> None:
    """Give every object its outcome when no association came about."""
    if isinstance(error, NoContextAccepted):
        for each in objects:
            state = ObjectState.STORED if each.is_stored else ObjectState.REFUSED
            outcomes[each.id] = outcome_of(
                each, state, "the destination accepts no presentation context for it"
            )
        return
    for each in objects:
        state = ObjectState.STORED if each.is_stored else ObjectState.PENDING
        outcomes[each.id] = replace(outcome_of(each, state, str(error)), is_unreachable=True)
