"""C-STORE SCU for results, with confirmation by C-FIND on the same association.

One association carries a whole result set. It proposes every (SOP Class, stored transfer syntax)
of the objects and the Study Root query context. What the destination says about one object never
decides about its siblings. Retrying is the caller's business: an outcome says whether it is worth
it.

What counts as what:

- *stored*: status 0000 and the warnings Bxxx (PS3.4 Table B.2-1), and 0111 duplicate SOP instance
  (PS3.7 C.5.5): the destination has it, from an attempt whose answer never reached us;
- *refused for good*: no presentation context for it (PS3.8 Table 9-18), A9xx, Cxxx (PS3.4 Table
  B.2-1), and those failures of PS3.7 Annex C which the same object will always meet;
- *passing*: A7xx out of resources, every association that does not come about, whatever the
  reason (a rejected AE title is cured at the PACS, not by giving up), abort, silence, and the rest.

A result is confirmed by a C-FIND at IMAGE level that names it (PS3.4 C.4.1). A PACS may index what
it stored a little later: what is not found yet stays stored and is asked for again.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from gateway.delivery.routes import (
    Destination,
    DestinationError,
    ObjectState,
    Outcome,
    Outgoing,
    classify_status,
)
from gateway.settings import DeliverySettings

_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3

_NOT_TRIED = "the association ended early"
_UNANSWERED = "no answer: aborted or timed out"

_MAX_CONTEXTS = 128  # odd identifiers 1 to 255, PS3.8 9.3.2.2

__all__ = [
    "Destination",
    "DestinationError",
    "FolderSender",
    "ObjectState",
    "Outcome",
    "Outgoing",
    "Sender",
    "classify_status",
]

# PS3.8 Table 9-21, by (result source, diagnostic).
_REJECTIONS = {
    (1, 2): "application context name not supported",
    (1, 3): "it does not know our AE title",
    (1, 7): "it is not called by this AE title",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


class Sender:
    """Stores result objects at one destination and asks whether it lists them."""

    def __init__(self, destination: Destination, settings: DeliverySettings) -> None:
        self._destination = destination
        self._settings = settings

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Make one attempt for every object; return one outcome for each, in the same order.

        Never raises for what the destination or the network does.
        """
        outcomes: dict[int, Outcome] = {}
        contexts, syntaxes = _propose(objects, outcomes)
        waiting = [each for each in objects if each.id not in outcomes]
        give_up_at = time.monotonic() + self._settings.timeout_s
        while waiting:
            self._associate(waiting, contexts, syntaxes, outcomes)
            # One object that makes the destination abort must not hold up those behind it.
            left = [each for each in waiting if outcomes[each.id].reason == _NOT_TRIED]
            if len(left) == len(waiting) or time.monotonic() > give_up_at:
                break
            waiting = left
        return [outcomes[each.id] for each in objects]

    def _associate(
        self,
        objects: Sequence[Outgoing],
        contexts: list[PresentationContext],
        syntaxes: dict[int, str],
        outcomes: dict[int, Outcome],
    ) -> None:
        ae = AE(ae_title=self._settings.calling_ae_title)
        ae.connection_timeout = self._settings.timeout_s
        ae.acse_timeout = self._settings.timeout_s
        ae.dimse_timeout = self._settings.timeout_s
        ae.network_timeout = self._settings.timeout_s
        assoc = ae.associate(
            self._destination.host,
            self._destination.port,
            contexts=contexts,
            ae_title=self._destination.ae_title,
            max_pdu=0x20000,
            evt_handlers=[(evt.EVT_CONN_OPEN, _disable_nagle)],
        )
        if not assoc.is_established:
            _refuse_or_postpone(assoc, objects, outcomes)
            return
        try:
            accepted = {
                (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in assoc.accepted_contexts
            }
            is_over = False
            for each in objects:
                if each.is_stored:
                    outcomes[each.id] = Outcome(id=each.id, state=ObjectState.STORED)
                elif is_over:
                    outcomes[each.id] = _outcome(each, ObjectState.PENDING, _NOT_TRIED)
                else:
                    outcomes[each.id] = _store(assoc, each, syntaxes[each.id], accepted)
                    is_over = outcomes[each.id].reason in (_NOT_TRIED, _UNANSWERED)
                    if is_over and assoc.is_established:
                        # pynetdicom's other thread has not seen the end yet, or the destination
                        # is silent: either way nothing more can be asked here.
                        assoc.abort()
            self._confirm(assoc, objects, outcomes, accepted)
        finally:
            if assoc.is_established:
                assoc.release()

    def _confirm(
        self,
        assoc: Association,
        objects: Sequence[Outgoing],
        outcomes: dict[int, Outcome],
        accepted: set[tuple[str, str]],
    ) -> None:
        stored = [each for each in objects if outcomes[each.id].state is ObjectState.STORED]
        can_find = any(syntax == _STUDY_ROOT_FIND for syntax, _ in accepted)
        for each in stored:
            before = outcomes[each.id]
            if not can_find and self._settings.confirm == "auto":
                outcomes[each.id] = _confirmed(before, "c-store")
                continue
            problem = "the destination offers no C-FIND" if not can_find else _find(assoc, each)
            outcomes[each.id] = (
                _confirmed(before, "c-find")
                if not problem
                else Outcome(
                    id=each.id,
                    state=ObjectState.STORED,
                    status=before.status,
                    reason=f"stored, not confirmed: {problem}",
                )
            )


class FolderSender:
    """The results folder as a destination: confirmed by reading the file back."""

    def deliver(self, objects: Sequence[Outgoing]) -> list[Outcome]:
        """Compare every file with the digest in the record."""
        return [self._read_back(each) for each in objects]

    def _read_back(self, each: Outgoing) -> Outcome:
        try:
            with each.path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return _outcome(each, ObjectState.REFUSED, "the result file is gone")
        except OSError as exc:
            return _outcome(
                each, ObjectState.PENDING, f"the result file cannot be read ({exc.strerror})"
            )
        if found != each.sha256:
            return _outcome(each, ObjectState.REFUSED, "the result file was changed on disk")
        return Outcome(id=each.id, state=ObjectState.CONFIRMED, confirmed_by="read-back")


def _outcome(each: Outgoing, state: ObjectState, reason: str, status: int | None = None) -> Outcome:
    return Outcome(id=each.id, state=state, status=status, reason=reason)


def _confirmed(before: Outcome, by: str) -> Outcome:
    return Outcome(
        id=before.id,
        state=ObjectState.CONFIRMED,
        status=before.status,
        reason=before.reason,
        confirmed_by=by,
    )


def _disable_nagle(event: evt.Event) -> None:
    # With Nagle's algorithm on, every C-STORE waits about 40 ms for a delayed ACK.
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _propose(
    objects: Iterable[Outgoing], outcomes: dict[int, Outcome]
) -> tuple[list[PresentationContext], dict[int, str]]:
    """Return the contexts to propose and the transfer syntax of each object on disk.

    What is stored as Explicit VR Little Endian is proposed as Implicit VR Little Endian too, in a
    context of its own: every acceptor knows that one (PS3.5 10.1).
    """
    syntaxes: dict[int, str] = {}
    wanted: dict[tuple[str, str], None] = {}
    for each in objects:
        if each.is_stored:
            continue
        try:
            syntax = str(read_file_meta_info(each.path).TransferSyntaxUID)
        except FileNotFoundError:
            outcomes[each.id] = _outcome(each, ObjectState.REFUSED, "the result file is gone")
            continue
        except (OSError, InvalidDicomError, AttributeError) as exc:
            outcomes[each.id] = _outcome(
                each, ObjectState.PENDING, f"the result file cannot be read ({type(exc).__name__})"
            )
            continue
        syntaxes[each.id] = syntax
        wanted[(each.sop_class_uid, syntax)] = None
        if syntax == ExplicitVRLittleEndian:
            wanted[(each.sop_class_uid, str(ImplicitVRLittleEndian))] = None
    pairs = list(wanted)[: _MAX_CONTEXTS - 1]
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
    contexts.append(build_context(_STUDY_ROOT_FIND))
    return contexts, syntaxes


def _store(
    assoc: Association, each: Outgoing, syntax: str, accepted: set[tuple[str, str]]
) -> Outcome:
    usable = {syntax}
    if syntax == ExplicitVRLittleEndian:
        usable.add(str(ImplicitVRLittleEndian))
    if not any((each.sop_class_uid, other) in accepted for other in usable):
        return _outcome(
            each, ObjectState.REFUSED, "the destination accepts no presentation context for it"
        )
    if not assoc.is_established:
        return _outcome(each, ObjectState.PENDING, _NOT_TRIED)
    try:
        ds = dcmread(each.path)
        status = assoc.send_c_store(ds)
    except (OSError, InvalidDicomError) as exc:
        return _outcome(
            each, ObjectState.PENDING, f"the result file cannot be read ({type(exc).__name__})"
        )
    except RuntimeError:  # pynetdicom: the association is not established any more
        return _outcome(each, ObjectState.PENDING, _NOT_TRIED)
    except ValueError as exc:
        # pynetdicom could not encode it: a defect of ours, which no retry cures.
        return _outcome(
            each, ObjectState.REFUSED, f"it cannot be encoded for sending ({type(exc).__name__})"
        )
    value = _status_of(status)
    if value is None:
        return _outcome(each, ObjectState.PENDING, _UNANSWERED)
    state, reason = classify_status(value)
    return _outcome(each, state, reason, value)


def _status_of(response: Dataset) -> int | None:
    """Return the status of a response; pynetdicom gives an empty one for silence and aborts."""
    return int(response.Status) if "Status" in response else None


def _find(assoc: Association, each: Outgoing) -> str:
    """Return "" when the destination lists the object, else why it is not confirmed."""
    if not assoc.is_established:
        return "the association ended early"
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = each.study_instance_uid
    query.SeriesInstanceUID = each.series_instance_uid
    query.SOPInstanceUID = each.sop_instance_uid
    is_listed = False
    final: int | None = None
    try:
        responses: Any = assoc.send_c_find(query, _STUDY_ROOT_FIND)
        for response, identifier in responses:
            final = _status_of(response)
            if identifier is not None:
                # Some acceptors answer with more than was asked for.
                is_listed |= identifier.get("SOPInstanceUID") == each.sop_instance_uid
    except (RuntimeError, ValueError):
        return "the association ended early"
    if is_listed:
        return ""
    if final is None:
        return "no answer to C-FIND: aborted or timed out"
    if final != 0x0000:  # PS3.4 Table C.4-1
        return f"C-FIND failed (status {final:04X})"
    return "the destination does not list it yet"


def _refuse_or_postpone(
    assoc: Association, objects: Sequence[Outgoing], outcomes: dict[int, Outcome]
) -> None:
    """Give every object its outcome when no association came about."""
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        key = (getattr(answer, "result_source", 0), getattr(answer, "diagnostic", 0))
        reason = f"the destination rejects the association: {_REJECTIONS.get(key, 'no reason')}"
    elif assoc.rejected_contexts and not assoc.accepted_contexts:
        # It answered, and accepted not even the query context; pynetdicom then aborts.
        for each in objects:
            state = ObjectState.STORED if each.is_stored else ObjectState.REFUSED
            outcomes[each.id] = _outcome(
                each, state, "the destination accepts no presentation context for it"
            )
        return
    elif assoc.is_aborted and assoc.acceptor.primitive is not None:
        reason = "the destination aborted the association"
    else:
        reason = "the destination cannot be reached or does not answer"
    for each in objects:
        state = ObjectState.STORED if each.is_stored else ObjectState.PENDING
        outcomes[each.id] = _outcome(each, state, reason)
