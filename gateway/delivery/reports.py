"""Takes reports on storage commitment, from whichever association they come (PS3.4 J.3.3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydicom.dataset import Dataset

from gateway.delivery.commitment import read_report
from gateway.errors import MalformedReport, RecordUnavailable

log = logging.getLogger(__name__)

SUCCESS = 0x0000
# PS3.7 10.1.1.1.8 and Annex C.
_NO_SUCH_EVENT_TYPE = 0x0113
_INVALID_ARGUMENT = 0x0115
_RESOURCE_LIMITATION = 0x0213


class Reported(Protocol):
    """What the record made of a report."""

    @property
    def is_known(self) -> bool:
        """Whether the transaction is ours, and the reporter the one that was asked."""
        ...


class ReportBook(Protocol):
    """Where answers are written."""

    def answer(
        self,
        transaction_uid: str,
        *,
        reporter: str,
        committed: Sequence[str],
        failed: Mapping[str, int],
    ) -> Reported:
        """Write down what a destination reports."""
        ...


def take_report(
    book: ReportBook, event_type_id: int | None, information: Dataset | None, *, reporter: str
) -> int:
    """Write an event report down; return the DIMSE status that answers it.

    Parameters
    ----------
    reporter
        AE title of the application entity that reports. Only the one that was asked may answer.
    """
    if event_type_id not in (1, 2):
        return _NO_SUCH_EVENT_TYPE
    try:
        report = read_report(event_type_id, information)
        outcome = book.answer(
            report.transaction_uid,
            reporter=reporter,
            committed=report.committed,
            failed=report.failed,
        )
    except MalformedReport as exc:
        log.warning("%s", exc, extra={"action": "commitment.malformed"})
        return _INVALID_ARGUMENT
    except RecordUnavailable as exc:
        # The destination reports again, or we ask again when its time has run out.
        log.warning("%s", exc, extra={"action": "commitment.unrecorded"})
        return _RESOURCE_LIMITATION
    if not outcome.is_known:
        log.warning(
            "a report on storage commitment that was not asked of its sender",
            extra={"action": "commitment.unknown"},
        )
        return _INVALID_ARGUMENT
    return SUCCESS
