"""What purged instances mean to the record: how they come back, and what they hold up.

A purged row stays: its UIDs and digest still tell a duplicate. What may be purged, and in which
order, is ``gateway.store.retention.purging``'s.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, exists, func, select, update
from sqlalchemy.orm import aliased

from gateway.errors import RecordUnavailable
from gateway.spool import StoredFile
from gateway.store import states
from gateway.store.intake.generations import receiving_generation
from gateway.store.tables import Document, Generation, Instance, Study, WorkItem

PURGED_INPUT = "earlier instances of this study were purged by retention"
"""How the reason begins why a generation is not analysed: parts of the study are gone."""


def purged_instances(connection: Connection, study_id: int) -> int:
    """Return how many instances and documents an analysis of a study would miss."""
    instances = connection.execute(
        select(func.count())
        .select_from(Instance)
        .where(
            Instance.study_id == study_id,
            Instance.disposition == "accepted",
            Instance.purged_at.is_not(None),
        )
    ).scalar_one()
    newer = aliased(Document)
    documents = connection.execute(
        select(func.count())
        .select_from(Document)
        .join(Study, Study.study_instance_uid == Document.study_instance_uid)
        .where(
            Study.id == study_id,
            Document.purged_at.is_not(None),
            ~exists().where(
                newer.study_instance_uid == Document.study_instance_uid,
                newer.name == Document.name,
                newer.revision > Document.revision,
            ),
        )
    ).scalar_one()
    return int(instances) + int(documents)


def restore_instance(
    connection: Connection, instance_id: int, stored: StoredFile, now: dt.datetime, window_s: float
) -> None:
    """Take a purged instance back that was sent again, byte for byte.

    It is analysed again only where its absence kept a generation from being analysed, and then
    together with the rest: once nothing of the study is missing any more.

    Raises
    ------
    RecordUnavailable
        A purge took the file away at this very moment; the sender tries again.
    """
    row = connection.execute(
        update(Instance)
        .where(Instance.id == instance_id)
        .values(purged_at=None, is_purge_pending=False)
        .returning(Instance.study_id, Instance.disposition)
    ).one()
    # Under the row's lock: a purge that was faster is over, and one to come finds no mark.
    if stored.path is not None and not stored.path.is_file():
        raise RecordUnavailable("the instance is being purged; send it again")
    connection.execute(update(Study).where(Study.id == row.study_id).values(last_received_at=now))
    states.note(connection, now, "instance.restored", study_id=row.study_id)
    if row.disposition != "accepted":
        return
    states.lock_study(connection, row.study_id)
    if _was_kept_from_analysis(connection, row.study_id):
        receiving_generation(connection, row.study_id, now, window_s=window_s)
        states.refresh_study(connection, row.study_id, now)


def _was_kept_from_analysis(connection: Connection, study_id: int) -> bool:
    newest = connection.execute(
        select(Generation.id, Generation.state, Generation.reason)
        .where(Generation.study_id == study_id)
        .order_by(Generation.number.desc())
        .limit(1)
    ).first()
    if newest is None or newest.state != states.ROUTED:
        return False
    items = connection.execute(
        select(WorkItem.id).where(WorkItem.generation_id == newest.id).limit(1)
    ).first()
    is_kept = items is None and newest.reason.startswith(PURGED_INPUT)
    return is_kept and purged_instances(connection, study_id) == 0
