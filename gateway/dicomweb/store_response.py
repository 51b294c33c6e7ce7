"""The answer to a STOW-RS request: its data set and its HTTP status (PS3.18 10.5.3, I.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from gateway.dicomweb.reception import PartOutcome

OUT_OF_RESOURCES = 0xA700


def status_of(outcomes: Sequence[PartOutcome], *, is_whole: bool = True) -> int:
    """Return the HTTP status of a request (PS3.18 Table 10.5.3-1).

    Parameters
    ----------
    is_whole
        Whether the body could be read to its end.

    Examples
    --------
    >>> status_of([PartOutcome(status=0)]), status_of([PartOutcome(status=0xA700)])
    (200, 503)
    """
    stored = sum(outcome.status == 0 for outcome in outcomes)
    if stored:
        return 200 if is_whole and stored == len(outcomes) else 202
    if not is_whole or not outcomes:
        return 400
    is_busy = any(outcome.status == OUT_OF_RESOURCES for outcome in outcomes)
    return 503 if is_busy else 409


def response(outcomes: Sequence[PartOutcome], *, broken: int = 0, root: str = "") -> Dataset:
    """Return the Store Instances Response (PS3.18 Table I.2-1).

    Parameters
    ----------
    broken
        Failure Reason of what could not be taken apart; 0: the body was read to its end.
    root
        Address of our DICOMweb services, for Retrieve URL; empty: they are not retrieved here.
    """
    ds = Dataset()
    stored = [outcome for outcome in outcomes if outcome.status == 0]
    failed = [outcome for outcome in outcomes if outcome.status and outcome.sop_instance_uid]
    others = [
        outcome.status for outcome in outcomes if outcome.status and not outcome.sop_instance_uid
    ]
    studies = {outcome.study_instance_uid for outcome in stored}
    ds.RetrieveURL = (
        f"{root}/studies/{studies.pop()}" if root and len(studies) == 1 and all(studies) else ""
    )
    if failed:
        ds.FailedSOPSequence = Items([_failed(outcome) for outcome in failed])
    if stored:
        ds.ReferencedSOPSequence = Items([_stored(outcome, root) for outcome in stored])
    if others or broken:
        ds.OtherFailuresSequence = Items(
            [_reason(status) for status in (*others, *((broken,) if broken else ()))]
        )
    return ds


def _named(outcome: PartOutcome) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = outcome.sop_class_uid
    item.ReferencedSOPInstanceUID = outcome.sop_instance_uid
    return item


def _stored(outcome: PartOutcome, root: str) -> Dataset:
    item = _named(outcome)
    item.RetrieveURL = (
        f"{root}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
        f"/instances/{outcome.sop_instance_uid}"
        if root and outcome.study_instance_uid
        else ""
    )
    return item


def _failed(outcome: PartOutcome) -> Dataset:
    item = _named(outcome)
    item.FailureReason = outcome.status
    return item


def _reason(status: int) -> Dataset:
    item = Dataset()
    item.FailureReason = status
    return item
