"""Which rows of a table that only grows a reader has not seen yet, though ids may come late.

An id may be missing because its transaction is still open: it is looked for a while longer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, or_
from sqlalchemy.orm import InstrumentedAttribute

_GAP_S = 900.0
"""How long a missing id is looked for: its transaction may still be open."""


def unread(
    id_column: ColumnElement[int] | InstrumentedAttribute[int],
    position: int,
    gaps: Mapping[str, Any],
) -> ColumnElement[bool]:
    """Return the condition of rows behind a position, or missed before it."""
    missed = [int(each) for each in gaps]
    after = id_column > position
    return or_(after, id_column.in_(missed)) if missed else after


def still_missing(
    position: int,
    newest: int,
    found: set[int],
    before: Mapping[str, Any],
    now: dt.datetime,
    *,
    at_most: int,
) -> dict[str, Any]:
    """Return the ids that are still missing, with when they were first missed (Unix seconds).

    Of the ids between ``position`` and ``newest`` the last ``at_most`` are added.
    """
    moment = now.timestamp()
    still = {
        key: since
        for key, since in before.items()
        if int(key) not in found and 0 <= moment - since < _GAP_S
    }
    fresh = [each for each in range(position + 1, newest) if each not in found]
    still |= {str(each): moment for each in fresh[-at_most:]}
    return still
