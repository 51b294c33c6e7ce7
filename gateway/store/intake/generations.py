"""The receiving generation of a study: what arrives joins it, or opens the next one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store import states
from gateway.store.intake.study_holds import hold_study
from gateway.store.tables import AssociationEnd, Generation, Instance

MOST_PER_HOUR = 12
"""Generations of one study that may be opened in an hour before it is held."""
_LONGEST_WINDOW_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Receiving:
    """A generation that takes what arrives."""

    id: int
    number: int
    """1-based."""
    is_new: bool
    """Whether it was opened just now."""


def receiving_generation(
    connection: Connection,
    study_id: int,
    now: dt.datetime,
    *,
    window_s: float,
    most_per_hour: int = MOST_PER_HOUR,
) -> Receiving:
    """Return the receiving generation of a study, opening the next one when none is.

    Parameters
    ----------
    window_s
        Seconds of quiet after which it may close, from now on.
    most_per_hour
        Generations of a study that may be opened in an hour; one more holds the study.
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
            .values(
                last_instance_at=now,
                closes_at=max(closes_at, newest.closes_at),
                revision=Generation.revision + 1,
            )
        )
        return Receiving(id=newest.id, number=newest.number, is_new=False)
    number = newest.number + 1 if newest is not None else 1
    if number > 1:
        window_s = _guarded_window_s(connection, study_id, now, window_s, most_per_hour)
        closes_at = now + dt.timedelta(seconds=window_s)
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


def end_association(
    connection: Connection, association_id: str, outcome: str, now: dt.datetime
) -> None:
    """Note that an association has ended, for the generations that it brought instances to.

    Parameters
    ----------
    outcome
        ``released`` or ``aborted``.
    """
    brought = select(Instance.generation_id).where(Instance.association_id == association_id)
    touched = connection.execute(
        update(Generation)
        .where(Generation.state == states.RECEIVING, Generation.id.in_(brought))
        .values(revision=Generation.revision + 1)
    ).rowcount
    if not touched:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(AssociationEnd)
        .values(association_id=association_id, outcome=outcome, ended_at=now)
        .on_conflict_do_nothing()
    )


def _guarded_window_s(
    connection: Connection, study_id: int, now: dt.datetime, window_s: float, most_per_hour: int
) -> float:
    """Return the quiet window of one more generation; hold a study that has too many of them.

    Two systems that answer each other's objects would go on for ever. From half the number on,
    each window is twice as long as the one before, so that a sender that is only slow has its
    instances gathered; what still goes on after that is no sender of images.
    """
    recent = connection.execute(
        select(func.count())
        .select_from(Generation)
        .where(
            Generation.study_id == study_id,
            Generation.opened_at > now - dt.timedelta(hours=1),
        )
    ).scalar_one()
    if recent >= most_per_hour:
        hold_study(
            connection,
            study_id,
            now,
            actor="guard against loops",
            reason=f"its {recent + 1}th generation within an hour: something answers every result "
            "with another object; find it, then release the study",
            level="alarm",
        )
    doublings = min(max(recent - most_per_hour // 2, 0), 20)
    return max(window_s, min(window_s * 2.0**doublings, _LONGEST_WINDOW_S))
