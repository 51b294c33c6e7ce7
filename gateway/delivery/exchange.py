"""What is said on one association with a destination: C-STORE, C-FIND, and the N-ACTION."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info, read_partial
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from gateway.delivery.commitment import (
    REQUEST_ACTION,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    build_request,
)
from gateway.delivery.routes import ObjectState, Outcome, Outgoing
from gateway.delivery.statuses import classify_status

_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3

_SOP_INSTANCE_UID = 0x00080018

NOT_TRIED = "the association ended early"
_UNANSWERED = "no answer: aborted or timed out"

_MAX_CONTEXTS = 128  # odd identifiers 1 to 255, PS3.8 9.3.2.2


@dataclass(frozen=True, kw_only=True)
class Session:
    """An established association and what it can carry."""

    assoc: Association
    syntaxes: Mapping[int, str]
    """Transfer syntax of each object on disk, by id."""
    accepted: frozenset[tuple[str, str]]
    answer_timeout_s: float

    @classmethod
    def of(
        cls, assoc: Association, syntaxes: Mapping[int, str], answer_timeout_s: float
    ) -> Session:
        """Return the session of an association that was just established."""
        return cls(
            assoc=assoc,
            syntaxes=syntaxes,
            accepted=frozenset(
                (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in assoc.accepted_contexts
            ),
            answer_timeout_s=answer_timeout_s,
        )

    def _takes(self, sop_class_uid: str) -> bool:
        return any(abstract_syntax == sop_class_uid for abstract_syntax, _ in self.accepted)

    @property
    def can_find(self) -> bool:
        """Whether the destination answers a C-FIND."""
        return self._takes(_STUDY_ROOT_FIND)

    @property
    def can_commit(self) -> bool:
        """Whether the destination takes requests for storage commitment."""
        return self._takes(STORAGE_COMMITMENT)

    def store(self, each: Outgoing) -> Outcome:
        """Store one object and return what the destination said."""
        syntax = self.syntaxes[each.id]
        is_sent_as_stored = (each.sop_class_uid, syntax) in self.accepted
        may_convert = (
            syntax == ExplicitVRLittleEndian
            and (each.sop_class_uid, str(ImplicitVRLittleEndian)) in self.accepted
        )
        if not is_sent_as_stored and not may_convert:
            return outcome_of(
                each, ObjectState.REFUSED, "the destination accepts no presentation context for it"
            )
        if not self.assoc.is_established:
            return outcome_of(each, ObjectState.PENDING, NOT_TRIED)
        started = time.monotonic()
        try:
            # From the file, fragment by fragment; only what is converted is read as a whole.
            source = _identified(each.path) if is_sent_as_stored else dcmread(each.path)
            status = self.assoc.send_c_store(source)
        except (OSError, InvalidDicomError) as exc:
            if self.assoc.is_established:
                self.assoc.abort()  # a part of it may be on its way
            return outcome_of(
                each, ObjectState.PENDING, f"the result file cannot be read ({type(exc).__name__})"
            )
        except RuntimeError:  # pynetdicom: the association is not established any more
            return outcome_of(each, ObjectState.PENDING, NOT_TRIED)
        except (ValueError, AttributeError) as exc:
            # pynetdicom could not encode it, or misses a UID: a defect of ours, which no retry
            # cures.
            return outcome_of(
                each,
                ObjectState.REFUSED,
                f"it cannot be encoded for sending ({type(exc).__name__})",
            )
        value = _status_of(status)
        if value is None:
            is_silent = time.monotonic() - started >= 0.9 * self.answer_timeout_s
            return replace(
                outcome_of(each, ObjectState.PENDING, _UNANSWERED),
                is_fault=True,
                is_unreachable=is_silent,
            )
        state, reason = classify_status(value)
        return outcome_of(each, state, reason, value)

    def find(self, each: Outgoing) -> str:
        """Return "" when the destination lists the object, else why it is not confirmed."""
        if not self.assoc.is_established:
            return "the association ended early"
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = each.study_instance_uid
        query.SeriesInstanceUID = each.series_instance_uid
        query.SOPInstanceUID = each.sop_instance_uid
        is_listed = False
        final: int | None = None
        try:
            responses: Any = self.assoc.send_c_find(query, _STUDY_ROOT_FIND)
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

    def request_commitment(self, transaction_uid: str, objects: Sequence[Outgoing]) -> str:
        """Ask for storage commitment; return "" when the request was taken, else why not."""
        information = build_request(
            transaction_uid, {each.sop_instance_uid: each.sop_class_uid for each in objects}
        )
        try:
            status, _ = self.assoc.send_n_action(
                information, REQUEST_ACTION, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
        except (RuntimeError, ValueError):
            return "the association ended before storage commitment was asked for"
        value = _status_of(status)
        if value is None:
            return "no answer to the request for storage commitment: aborted or timed out"
        if value == 0x0000 or 0xB000 <= value <= 0xBFFF:
            return ""
        return f"the destination declines storage commitment (status {value:04X})"


def _identified(path: Path) -> Path:
    """Return a file whose data set says what it is.

    Raises
    ------
    AttributeError
        It has no SOP Class or SOP Instance UID.
    OSError, InvalidDicomError
        It cannot be read.
    """
    with path.open("rb") as file:
        start = read_partial(file, lambda tag, _vr, _length: tag > _SOP_INSTANCE_UID)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        getattr(start, keyword)
    return path


def outcome_of(
    each: Outgoing, state: ObjectState, reason: str, status: int | None = None
) -> Outcome:
    """Return an outcome of an object."""
    return Outcome(id=each.id, state=state, status=status, reason=reason)


def propose(
    objects: Iterable[Outgoing], outcomes: dict[int, Outcome], asks_commitment: bool
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
            outcomes[each.id] = outcome_of(each, ObjectState.REFUSED, "the result file is gone")
            continue
        except (OSError, InvalidDicomError, AttributeError) as exc:
            outcomes[each.id] = outcome_of(
                each, ObjectState.PENDING, f"the result file cannot be read ({type(exc).__name__})"
            )
            continue
        syntaxes[each.id] = syntax
        wanted[(each.sop_class_uid, syntax)] = None
        if syntax == ExplicitVRLittleEndian:
            wanted[(each.sop_class_uid, str(ImplicitVRLittleEndian))] = None
    pairs = list(wanted)[: _MAX_CONTEXTS - 2]
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
    if asks_commitment:
        contexts.append(build_context(STORAGE_COMMITMENT))
    contexts.append(build_context(_STUDY_ROOT_FIND))
    return contexts, syntaxes


def _status_of(response: Dataset) -> int | None:
    """Return the status of a response; pynetdicom gives an empty one for silence and aborts."""
    return int(response.Status) if "Status" in response else None
