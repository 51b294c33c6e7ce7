"""The receiving generation of a study: what arrives joins it, or opens the next one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from gateway.store import states
from gateway.store.tables import Generation


@dataclass(frozen=True, kw_only=True)
class Receiving:
    """A generation that takes what arrives."""

    id: int
    number: int
    """1-based."""
    is_new: bool
    """Whether it was opened just now."""


def receiving_generation(
    connection: Connection, study_id: int, now: dt.datetime, *, window_s: float
) -> Receiving:
    """Return the receiving generation of a study, opening the next one when none is.

    Parameters
    ----------
    window_s
        Seconds of quiet after which it may close, from now on.
    """
    closes_at = now + dt.timedelta(seconds=window_s)
    newest = connection.execute(
        select(Generation.id, Generation.number, Generation.state, Generation.closes_at)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
        .with_for_update(key_share=True)
    ).first()
    if newest is not None and newest.state == states.RECEIVING:
        connection.execute(
            update(Generation)
            .where(Generation.id == newest.id)
            .values(last_instance_at=now, closes_at=max(closes_at, newest.closes_at))
        )
        return Receiving(id=newest.id, number=newest.number, is_new=False)
    number = newest.number + 1 if newest is not None else 1
    created = connection.execute(
        insert(Generation)
        .values(
            study_id=study_id,
            number=number,
            state=states.RECEIVING,
            opened_at=now,
            last_instance_at=now,
            closes_at=closes_at,
            reason="",
            attempts=0,
        )
        .returning(Generation.id)
    ).scalar_one()
    states.note(connection, now, "generation.opened", study_id=study_id, generation=number)
    return Receiving(id=int(created), number=number, is_new=True)
