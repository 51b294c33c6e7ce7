"""One STOW-RS request on its way in: parts into the spool, each decided upon as it completes.

What becomes of an instance is decided where that of a C-STORE is (``gateway.listener.filing``):
durable and in the record, and only then counted as stored. What a DIMSE sender learns while the
association is negotiated, a web client learns by Failure Reason: SOP classes and transfer syntaxes
that we do not take are turned away before their data set is written.

Nothing here waits for the network: blocks are fed by a thread, one at a time.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.dicom.file_meta import FileMeta, encode_file_meta
from gateway.dicomweb.file_start import FileStart
from gateway.dicomweb.multipart import (
    Event,
    MediaType,
    MultipartReader,
    PartBegin,
    PartData,
    PartEnd,
)
from gateway.errors import (
    GatewayError,
    InstanceError,
    SpoolError,
    Truncated,
    WebRequestRefused,
)
from gateway.listener.acceptance import ACCEPTED_SOP_CLASSES, StoreStatus
from gateway.listener.filing import InstanceFiler, StoreCommand, header_of
from gateway.listener.ports import AssociationInfo, InstanceRecord
from gateway.spool import IncomingFile, Spool

log = logging.getLogger(__name__)

DICOM = "application/dicom"
MAX_PARTS = 50_000
_MAX_NOTED_REFUSALS = 100

# PS3.18 Table I.2-2, Failure Reason beside those of a C-STORE.
PROCESSING_FAILURE = 0x0110
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
NOT_IN_THE_STUDY = 0xC409
"""Of ours, in the range Cxxx: Study Instance UID is not that of the request."""
_PLAIN_ENCODINGS = frozenset(("", "binary", "8bit", "7bit", "identity"))


@dataclass(frozen=True, kw_only=True)
class PartOutcome:
    """What became of one part."""

    status: int
    """0, or the Failure Reason (0008,1197)."""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    """Both empty where the part names no instance."""
    study_instance_uid: str = ""
    """Of a stored one."""
    series_instance_uid: str = ""
    """Of a stored one."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What takes instances in: shared by all requests of a process."""

    filer: InstanceFiler
    spool: Spool
    record: InstanceRecord


class Reception:
    """One request: its parts, and what became of them.

    Parameters
    ----------
    association
        Who sends, as the record names it.
    study_instance_uid
        Of the request; empty for any study.
    boundary
        Of the multipart body; None where the body is one instance.
    """

    def __init__(
        self,
        intake: Intake,
        association: AssociationInfo,
        *,
        study_instance_uid: str = "",
        boundary: str | None,
    ) -> None:
        self.outcomes: list[PartOutcome] = []
        self._refusals = 0
        self._intake = intake
        self._association = association
        self._study_instance_uid = study_instance_uid
        self._reader = None if boundary is None else MultipartReader(boundary)
        self._part: _Part | None = None
        if self._reader is None:
            self._part = _Part(self, {})

    def feed(self, block: bytes) -> None:
        """Take in the next bytes of the body.

        Raises
        ------
        MultipartError
            The body cannot be taken apart; what was complete before stays decided.
        """
        if self._reader is None:
            self._on_event(PartData(data=block))
            return
        for event in self._reader.feed(block):
            self._on_event(event)

    def finish(self) -> None:
        """End the body.

        Raises
        ------
        WebRequestRefused
            It ends before its closing delimiter: its last part was dropped.
        """
        if self._reader is None:
            self._on_event(PartEnd())
        elif not self._reader.is_complete:
            self.abandon()
            raise WebRequestRefused("the body ends before its closing boundary", 400)

    def abandon(self) -> None:
        """Drop a part that will never be complete; harmless at any time."""
        part, self._part = self._part, None
        if part is not None:
            part.discard()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, PartBegin):
            if len(self.outcomes) >= MAX_PARTS:
                raise WebRequestRefused(f"more than {MAX_PARTS} parts", 413)
            self._part = _Part(self, event.headers)
        elif self._part is None:
            return
        elif isinstance(event, PartData):
            self._part.write(event.data)
        else:
            part, self._part = self._part, None
            try:
                self.outcomes.append(part.end())
            finally:
                part.discard()

    # -- for a part ---------------------------------------------------------------------------

    def begin(self, meta: FileMeta) -> IncomingFile | PartOutcome:
        """Open the file of an instance, or say why it is not taken."""
        said = PartOutcome(
            status=0,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
        )
        accepted = ACCEPTED_SOP_CLASSES.get(meta.sop_class_uid)
        if accepted is None:
            return self._refused(said, 0x0122, "the SOP class is not accepted")
        if meta.transfer_syntax_uid not in accepted.transfer_syntaxes:
            reason = "the transfer syntax is not accepted for its SOP class"
            return self._refused(said, TRANSFER_SYNTAX_NOT_SUPPORTED, reason)
        try:
            return self._intake.spool.begin()
        except SpoolError as exc:
            return self.out_of_resources(said, exc)

    def out_of_resources(self, said: PartOutcome, error: SpoolError) -> PartOutcome:
        """Note that there is no room, or no disk."""
        outcome = self._intake.filer.out_of_resources(error, self._association)
        return replace(said, status=int(outcome.status), reason=outcome.reason)

    def file(self, incoming: IncomingFile, meta: FileMeta) -> PartOutcome:
        """Decide about a complete instance, as about a C-STORE."""
        said = PartOutcome(
            status=0, sop_class_uid=meta.sop_class_uid, sop_instance_uid=meta.sop_instance_uid
        )
        study = series = ""
        try:
            header = header_of(incoming)
            study, series = header.study_instance_uid, header.series_instance_uid
            if self._study_instance_uid and study != self._study_instance_uid:
                reason = "Study Instance UID is not that of the request"
                return self._refused(said, NOT_IN_THE_STUDY, reason)
        except (InstanceError, SpoolError):
            pass  # the filer meets the same, and keeps the bytes in quarantine
        command = StoreCommand(
            affected_sop_class_uid=meta.sop_class_uid,
            affected_sop_instance_uid=meta.sop_instance_uid,
        )
        try:
            outcome = self._intake.filer.file(incoming, command, self._association)
        except Exception as exc:  # as in the SCP handler: siblings must not pay for one instance
            # The message may quote values of the data set, so only the kind and place are logged.
            log.error(
                "an instance could not be filed",
                extra={
                    "action": "instance.failed",
                    "error": type(exc).__name__,
                    "frames": "".join(traceback.format_tb(exc.__traceback__)),
                },
            )
            return replace(said, status=PROCESSING_FAILURE, reason="a fault of the receiver")
        if outcome.status != StoreStatus.SUCCESS:
            return replace(said, status=int(outcome.status), reason=outcome.reason)
        return replace(said, study_instance_uid=study, series_instance_uid=series)

    def unreadable(self, error: InstanceError) -> PartOutcome:
        """Note a part that is no DICOM file."""
        return self._refused(PartOutcome(status=0), int(error.status), str(error))

    def wrong_type(self, reason: str) -> PartOutcome:
        """Note a part that is of another media type or encoding."""
        return self._refused(PartOutcome(status=0), int(StoreStatus.CANNOT_UNDERSTAND), reason)

    def _refused(self, said: PartOutcome, status: int, reason: str) -> PartOutcome:
        self._refusals += 1
        if self._refusals > _MAX_NOTED_REFUSALS:
            # The answer names each; log and record must not drown in one request.
            return replace(said, status=status, reason=reason)
        log.warning(
            "an instance was refused",
            extra={
                "action": "instance.refused",
                "status": f"{status:04X}",
                "reason": reason,
                "association_id": self._association.association_id,
            },
        )
        try:
            self._intake.record.register_refusal(
                association=self._association,
                status=status,
                reason=reason,
                stored=None,
                header=None,
            )
        except GatewayError as exc:
            # The answer is a failure anyway; the log line above has said why.
            log.warning(
                "a refusal could not be recorded",
                extra={"action": "refusal.unrecorded", "error": str(exc)},
            )
        return replace(said, status=status, reason=reason)


def _our_meta(meta: FileMeta) -> bytes:
    return encode_file_meta(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
    )


class _Part:
    """One part: its meta information first, then its data set into the spool."""

    def __init__(self, reception: Reception, headers: Mapping[str, str]) -> None:
        self._reception = reception
        self._start: FileStart | None = FileStart()
        self._meta: FileMeta | None = None
        self._incoming: IncomingFile | None = None
        self._outcome = self._check(headers)

    def _check(self, headers: Mapping[str, str]) -> PartOutcome | None:
        """Refuse a part that is no DICOM file; one without a type is taken for one."""
        content_type = headers.get("content-type", DICOM)
        if MediaType.parse(content_type).essence != DICOM:
            return self._reception.wrong_type("a part of another type than application/dicom")
        for name in ("content-transfer-encoding", "content-encoding"):
            if headers.get(name, "").strip().lower() not in _PLAIN_ENCODINGS:
                return self._reception.wrong_type("a part in a transfer or content encoding")
        return None

    def write(self, data: bytes) -> None:
        """Take in bytes; after a refusal they are only read away."""
        if self._outcome is not None:
            return
        try:
            if self._start is not None:
                started = self._start.feed(data)
                if started is None:
                    return
                self._start = None
                self._meta, data = started
                begun = self._reception.begin(self._meta)
                if isinstance(begun, PartOutcome):
                    self._outcome = begun
                    return
                self._incoming = begun
                self._incoming.write(_our_meta(self._meta))
            assert self._incoming is not None
            self._incoming.write(data)
        except InstanceError as exc:
            self._outcome = self._reception.unreadable(exc)
        except SpoolError as exc:
            self.discard()
            self._outcome = self._reception.out_of_resources(self._named(), exc)

    def _named(self) -> PartOutcome:
        assert self._meta is not None
        return PartOutcome(
            status=0,
            sop_class_uid=self._meta.sop_class_uid,
            sop_instance_uid=self._meta.sop_instance_uid,
        )

    def end(self) -> PartOutcome:
        """Return what became of the part, now that all of it is here."""
        if self._outcome is None and self._start is not None:
            self._outcome = self._reception.unreadable(
                Truncated("the file ends inside its File Meta Information")
            )
        if self._outcome is not None:
            return self._outcome
        assert self._incoming is not None
        assert self._meta is not None
        return self._reception.file(self._incoming, self._meta)

    def discard(self) -> None:
        """Remove what was written, unless it was kept."""
        if self._incoming is not None:
            self._incoming.discard()
