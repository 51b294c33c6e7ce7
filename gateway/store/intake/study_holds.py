"""Holds: a study for which nothing is begun until a person lets it go on.

A held study goes on receiving; its generation does not close, and its work items are not claimed. A
step that runs already ends.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, update

from gateway.store import audit, states
from gateway.store.tables import Generation, Study


def hold_study(
    connection: Connection,
    study_id: int,
    now: dt.datetime,
    *,
    actor: str,
    reason: str,
    level: str = "warning",
) -> bool:
    """Hold a study; return False where it was held already.

    Parameters
    ----------
    actor
        Account, ``command line: NAME``, ``rule: NAME`` or the guard that did it.
    reason
        Why, for whoever looks for the result; no patient attribute.
    level
        Of the line on the timeline: warning, or alarm where nobody asked for it.
    """
    states.lock_study(connection, study_id)
    changed = connection.execute(
        update(Study)
        .where(Study.id == study_id, Study.held_at.is_(None))
        .values(held_at=now, held_by=actor[:64], hold_reason=reason)
    ).rowcount
    if not changed:
        return False
    states.note(
        connection, now, "study.held", study_id=study_id, level=level, actor=actor, reason=reason
    )
    states.refresh_study(connection, study_id, now)
    audit.append(connection, now, actor, "study.held", study=study_id, reason=reason)
    return True


def release_study(
    connection: Connection, study_id: int, now: dt.datetime, *, actor: str, reason: str
) -> bool:
    """Let a held study go on; return False where it was not held.

    The rules do not hold its present generation again; a later one they may.
    """
    states.lock_study(connection, study_id)
    changed = connection.execute(
        update(Study)
        .where(Study.id == study_id, Study.held_at.is_not(None))
        .values(held_at=None, held_by="", hold_reason="")
    ).rowcount
    if not changed:
        return False
    connection.execute(
        update(Generation)
        .where(Generation.study_id == study_id, Generation.state != states.ROUTED)
        .values(hold_released_at=now)
    )
    states.note(connection, now, "study.released", study_id=study_id, actor=actor, reason=reason)
    states.refresh_study(connection, study_id, now)
    audit.append(connection, now, actor, "study.released", study=study_id, reason=reason)
    return True
