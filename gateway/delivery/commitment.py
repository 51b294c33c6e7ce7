"""Storage Commitment Push Model as data sets: requests and event reports (PS3.4 J). No network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from gateway.errors import MalformedReport

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # PS3.4 J.3.5
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known, PS3.4 J.3.5
REQUEST_ACTION = 1  # Action Type ID, PS3.4 J.3.2.1
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type ID, PS3.4 J.3.3.1."""

PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
SOP_CLASS_NOT_SUPPORTED = 0x0122
DUPLICATE_TRANSACTION = 0x0131
RESOURCE_LIMITATION = 0x0213

# PS3.3 C.14.1.1.
_FAILURE_REASONS = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_INSTANCE: "no such object instance",
    CLASS_INSTANCE_CONFLICT: "class-instance conflict",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    RESOURCE_LIMITATION: "resource limitation",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an event report says."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP Instance UIDs."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """SOP Instance UID -> Failure Reason."""


def describe_failure(reason: int) -> str:
    """Return a Failure Reason in words.

    Examples
    --------
    >>> describe_failure(0x0112)
    'no such object instance (reason 0112)'
    """
    return f"{_FAILURE_REASONS.get(reason, 'failure')} (reason {reason:04X})"


def build_request(transaction_uid: str, instances: Mapping[str, str]) -> Dataset:
    """Return the Action Information of a request (PS3.4 Table J.3-1).

    Parameters
    ----------
    instances
        SOP Instance UID -> SOP Class UID.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_item(uid, instances[uid]) for uid in instances]
    return information


def build_report(
    transaction_uid: str, instances: Mapping[str, str], failed: Mapping[str, int]
) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of a report (PS3.4 Table J.3-2).

    Parameters
    ----------
    instances
        SOP Instance UID -> SOP Class UID of everything that was asked for.
    failed
        SOP Instance UID -> Failure Reason of what is not committed to.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    committed = [_item(uid, instances[uid]) for uid in instances if uid not in failed]
    if committed:
        information.ReferencedSOPSequence = committed
    if not failed:
        return ALL_COMMITTED, information
    items = []
    for uid, reason in failed.items():
        item = _item(uid, instances[uid])
        item.FailureReason = reason
        items.append(item)
    information.FailedSOPSequence = items
    return SOME_FAILED, information


def read_request(information: Dataset | None) -> tuple[str, dict[str, str]]:
    """Return Transaction UID and instances (UID -> SOP Class UID) of a request.

    Raises
    ------
    MalformedReport
        The Transaction UID or every reference is missing.
    """
    transaction_uid = _transaction_uid(information)
    instances = {
        _uid(item, "ReferencedSOPInstanceUID"): _uid(item, "ReferencedSOPClassUID")
        for item in _items(information, "ReferencedSOPSequence")
    }
    instances.pop("", None)
    if not instances:
        raise MalformedReport("a request for storage commitment that references nothing")
    return transaction_uid, instances


def read_report(event_type_id: int | None, information: Dataset | None) -> Report:
    """Return what an event report says.

    Raises
    ------
    MalformedReport
        It has no Transaction UID, or is of no type that exists.
    """
    if event_type_id not in (ALL_COMMITTED, SOME_FAILED):
        raise MalformedReport("an event report of a type that storage commitment does not have")
    transaction_uid = _transaction_uid(information)
    failed = {
        _uid(item, "ReferencedSOPInstanceUID"): _failure_reason(item)
        for item in _items(information, "FailedSOPSequence")
    }
    committed = [
        _uid(item, "ReferencedSOPInstanceUID")
        for item in _items(information, "ReferencedSOPSequence")
    ]
    return Report(
        transaction_uid=transaction_uid,
        # What stands in both lists is not safe.
        committed=tuple(uid for uid in committed if uid and uid not in failed),
        failed={uid: reason for uid, reason in failed.items() if uid},
    )


def _item(sop_instance_uid: str, sop_class_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _transaction_uid(information: Dataset | None) -> str:
    uid = _uid(information, "TransactionUID") if information is not None else ""
    if not 0 < len(uid) <= 64:
        raise MalformedReport("storage commitment without a Transaction UID")
    return uid


def _items(information: Dataset | None, keyword: str) -> Sequence[Dataset]:
    found = information.get(keyword) if information is not None else None
    return [item for item in found or () if isinstance(item, Dataset)]


def _uid(item: Dataset, keyword: str) -> str:
    return str(item.get(keyword) or "").strip("\0 ")


def _failure_reason(item: Dataset) -> int:
    value = item.get("FailureReason")
    return value if isinstance(value, int) else PROCESSING_FAILURE
