"""SOP Instance UIDs of work items: made from what the record holds, and read back without a search.

A UID is ``2.25.`` and a UUID of version 8 (RFC 9562 5.8), whose free bits say which installation
it is of, which row, and a digest of both with the moment the row was made: a row number that is
given again to another work item gives another UID.
"""

from __future__ import annotations

import datetime as dt
import hashlib

_PREFIX = "2.25."
_ID_BITS = 40
_DIGEST_BITS = 34  # of those behind the variant: 62 - 40, and the 12 of custom_b
_HIGH_BITS = 12


def workitem_uid(serial: str, work_item_id: int, created_at: dt.datetime) -> str:
    """Return the SOP Instance UID of a work item.

    Parameters
    ----------
    serial
        Of the installation.
    work_item_id
        Of the row; below 2**40.

    Examples
    --------
    >>> moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    >>> work_item_id_of(workitem_uid("serial", 7, moment))
    7
    """
    site = int.from_bytes(hashlib.sha256(serial.encode()).digest()[:6], "big")
    text = f"{serial}|{work_item_id}|{created_at.astimezone(dt.UTC).isoformat()}"
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (1 << _DIGEST_BITS)
    high, low = divmod(digest, 1 << (_DIGEST_BITS - _HIGH_BITS))
    value = site << 80 | 0x8 << 76 | high << 64 | 0b10 << 62 | low << _ID_BITS | work_item_id
    return f"{_PREFIX}{value}"


def work_item_id_of(uid: str) -> int | None:
    """Return the row that a UID names, if it is one of ours; the caller compares the whole UID."""
    digits = uid.removeprefix(_PREFIX)
    if digits == uid or not digits.isascii() or not digits.isdigit() or len(digits) > 39:
        return None
    value = int(digits)
    is_ours = value >> 76 & 0xF == 0x8 and value >> 62 & 0b11 == 0b10 and not value >> 128
    return value % (1 << _ID_BITS) if is_ours else None
