"""Which instances we commit to: those whose file is on disk, byte for byte as the record says."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.delivery.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
)
from gateway.store.intake.received_commitments import HeldFile, ReceivedCommitments

log = logging.getLogger(__name__)


class Holdings:
    """Checks the spool against the record.

    Parameters
    ----------
    spool_folder
        Where received instances lie.
    """

    def __init__(self, record: ReceivedCommitments, spool_folder: Path) -> None:
        self._record = record
        self._spool_folder = spool_folder

    def failures(self, instances: Mapping[str, str]) -> dict[str, int]:
        """Return SOP Instance UID -> Failure Reason of what we do not commit to.

        Parameters
        ----------
        instances
            SOP Instance UID -> SOP Class UID, as the sender names them.
        """
        held = self._record.held(instances)
        found = {}
        for uid, sop_class_uid in instances.items():
            reason = self._judge(held.get(uid, ()), sop_class_uid)
            if reason is not None:
                found[uid] = reason
        return found

    def _judge(self, files: Iterable[HeldFile], sop_class_uid: str) -> int | None:
        files = list(files)
        if not files:
            return NO_SUCH_INSTANCE
        if all(file.sop_class_uid != sop_class_uid for file in files):
            return CLASS_INSTANCE_CONFLICT
        # Other bytes under the same UID are kept too: each of them was acknowledged.
        if all(self._is_intact(file) for file in files):
            return None
        return PROCESSING_FAILURE

    def _is_intact(self, file: HeldFile) -> bool:
        try:
            with (self._spool_folder / file.path).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            log.error(
                "a file that was acknowledged cannot be read: %s",
                exc.strerror,
                extra={"action": "commitment.file_missing"},
            )
            return False
        if digest != file.sha256:
            log.error(
                "a file that was acknowledged is not as it was received",
                extra={"action": "commitment.file_changed"},
            )
        return digest == file.sha256
