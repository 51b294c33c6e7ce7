"""Queries that we send to a PACS for a patient, in the audit trail (PS3.15 A.5.3.10)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select

from gateway.store import audit
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.tables import Study

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def note_query(
    engine: Engine,
    study_instance_uid: str,
    *,
    asked: str,
    keys: Sequence[str],
    clock: Clock = utc_now,
) -> None:
    """Note that a PACS is about to be asked what it holds of a study's patient.

    Parameters
    ----------
    asked
        The PACS, as the settings name it.
    keys
        Keywords of the matching keys; never their values.

    Raises
    ------
    RecordUnavailable
        The database does not answer; then nothing is to be asked.
    """
    with writing(engine) as connection:
        study = connection.execute(
            select(Study.id).where(Study.study_instance_uid == study_instance_uid)
        ).scalar()
        audit.append(
            connection,
            clock(),
            asked,
            "query.sent",
            study=study,
            sop_class=STUDY_ROOT_FIND,
            keys=", ".join(keys),
        )
