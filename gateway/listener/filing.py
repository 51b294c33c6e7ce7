"""Decides what becomes of one received instance, and with which status its C-STORE is answered.

The order is the promise: bytes inspected, made durable, committed to the record, and only then
0000. Nothing here knows how the bytes came in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.dicom.part10 import InstanceHeader, inspect, inspect_bytes
from gateway.errors import (
    GatewayError,
    InstanceError,
    RecordUnavailable,
    SopClassMismatch,
    SopInstanceMismatch,
    SpoolError,
)
from gateway.faults import failpoint
from gateway.listener.acceptance import StoreStatus
from gateway.listener.ports import AssociationInfo, InstanceRecord, Registration
from gateway.spool import IncomingFile, Spool, StoredFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoreCommand:
    """What the C-STORE command set says of its data set (PS3.7 9.3.1.1)."""

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    is_fetched: bool = False
    """Whether a C-MOVE of ours asked for it (Move Originator AE Title)."""


@dataclass(frozen=True, kw_only=True)
class StoreOutcome:
    """The answer to one C-STORE."""

    status: StoreStatus
    reason: str = ""
    """Why it was not stored; no value of the data set in it."""


AdmitSize = Callable[[AssociationInfo, int], None]
"""Raises ``QuotaExceeded`` when a source may not store so many bytes more."""


class InstanceFiler:
    """Files received instances in the spool and the record.

    Parameters
    ----------
    admit
        Asked before an instance is kept; without one no source has a quota.
    """

    def __init__(
        self, record: InstanceRecord, spool: Spool, admit: AdmitSize | None = None
    ) -> None:
        self._record = record
        self._spool = spool
        self._admit = admit

    def file(
        self, received: IncomingFile, command: StoreCommand, association: AssociationInfo
    ) -> StoreOutcome:
        """Return the answer once it is true.

        An instance whose UID is known with other bytes is answered with success: PS3.4 B.2.3 asks
        that the SCP has stored what it acknowledges, and both versions are on disk and in the
        record, the later one quarantined with an alarm. A failure would only make the sender
        repeat it, and the warnings of Table B.2-1 say that we changed it, which we did not.
        """
        header: InstanceHeader | None = None
        try:
            header = header_of(received)
            _check_command(command, header)
        except InstanceError as exc:
            return self._refuse(received, exc, association, header)
        except SpoolError as exc:
            return self.out_of_resources(exc, association, header)
        try:
            if self._admit is not None:
                self._admit(association, received.size_bytes)
            stored = self._spool.keep(received)
            registration = self._record.register_instance(
                header=header,
                stored=stored,
                association=association,
                is_fetched=command.is_fetched,
            )
        except (SpoolError, RecordUnavailable) as exc:
            return self.out_of_resources(exc, association, header)
        failpoint("listener.registered")
        if registration is Registration.CONFLICT:
            log.error(
                "an instance came again with other bytes; both are kept, the later in quarantine",
                extra={"action": "instance.conflict", "sha256": stored.sha256},
            )
        return StoreOutcome(status=StoreStatus.SUCCESS)

    def out_of_resources(
        self,
        error: GatewayError,
        association: AssociationInfo,
        header: InstanceHeader | None = None,
    ) -> StoreOutcome:
        """Answer A700: nothing is promised, the sender should try again later."""
        outcome = StoreOutcome(status=StoreStatus.OUT_OF_RESOURCES, reason=str(error))
        self._note(outcome, association, None, header)
        return outcome

    def refuse(self, error: InstanceError, association: AssociationInfo) -> StoreOutcome:
        """Answer why an instance was not taken whose bytes were not kept."""
        outcome = StoreOutcome(status=StoreStatus(error.status), reason=str(error))
        self._note(outcome, association, None, None)
        return outcome

    def _refuse(
        self,
        received: IncomingFile,
        error: InstanceError,
        association: AssociationInfo,
        header: InstanceHeader | None,
    ) -> StoreOutcome:
        """Keep the bytes in quarantine for whoever looks into it, and answer why."""
        outcome = StoreOutcome(status=StoreStatus(error.status), reason=str(error))
        stored: StoredFile | None = None
        try:
            stored = self._spool.quarantine(received, outcome.reason)
        except SpoolError as exc:
            # The refusal stands whether or not its bytes could be kept: nothing was promised.
            log.warning(
                "a refused instance could not be kept in quarantine",
                extra={"action": "quarantine.failed", "error": str(exc)},
            )
        self._note(outcome, association, stored, header)
        return outcome

    def _note(
        self,
        outcome: StoreOutcome,
        association: AssociationInfo,
        stored: StoredFile | None,
        header: InstanceHeader | None,
    ) -> None:
        log.warning(
            "an instance was refused",
            extra={
                "action": "instance.refused",
                "status": f"{outcome.status:04X}",
                "reason": outcome.reason,
                "association_id": association.association_id,
            },
        )
        try:
            self._record.register_refusal(
                association=association,
                status=int(outcome.status),
                reason=outcome.reason,
                stored=stored,
                header=header,
            )
        except GatewayError as exc:
            # The answer is a failure anyway; the log line above has said why.
            log.warning(
                "a refusal could not be recorded",
                extra={"action": "refusal.unrecorded", "error": str(exc)},
            )


def header_of(received: IncomingFile) -> InstanceHeader:
    """Return what a received instance says of itself.

    Raises
    ------
    InstanceError
        It is none that can be kept.
    SpoolError
        Its bytes cannot be read back.
    """
    try:
        content = received.content
        return inspect(received.path) if content is None else inspect_bytes(content)
    except OSError as exc:
        raise SpoolError(f"reading back a received instance: {exc.strerror}") from exc


def _check_command(command: StoreCommand, header: InstanceHeader) -> None:
    """Compare command and data set (PS3.7 9.1.1.1.3 and 9.1.1.1.4: they name the same instance)."""
    if command.affected_sop_class_uid != header.sop_class_uid:
        raise SopClassMismatch("Affected SOP Class UID differs from SOP Class UID of the data set")
    if command.affected_sop_instance_uid != header.sop_instance_uid:
        raise SopInstanceMismatch(
            "Affected SOP Instance UID differs from SOP Instance UID of the data set"
        )
