"""Which files make up a study, a series or an instance: what was received, and what was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from gateway.store.engine import reading
from gateway.store.tables import Instance, ResultObject, Study, WorkItem

_KEPT = ("accepted", "prior")


@dataclass(frozen=True, kw_only=True)
class KeptFile:
    """One instance on disk."""

    study_id: int
    path: Path
    sop_instance_uid: str


class Retrieval:
    """Finds the files of instances.

    Parameters
    ----------
    spool_folder, results_folder
        Where received instances and results lie.
    """

    def __init__(self, engine: Engine, spool_folder: Path, results_folder: Path) -> None:
        self._engine = engine
        self._spool_folder = spool_folder
        self._results_folder = results_folder

    def find(
        self, study_instance_uid: str, series_instance_uid: str = "", sop_instance_uid: str = ""
    ) -> list[KeptFile]:
        """Return what is kept of a study, of one series or of one instance of it.

        Received instances come first, then results; an instance that was received again with other
        bytes comes as it was received first. What is in quarantine, or was given up by retention,
        is left out.

        Raises
        ------
        RecordUnavailable
            The record does not answer.
        """
        received = select(Study.id, Instance.sop_instance_uid, Instance.path).join(
            Study, Instance.study_id == Study.id
        )
        made = (
            select(Study.id, ResultObject.sop_instance_uid, ResultObject.path)
            .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
            .join(Study, WorkItem.study_id == Study.id)
        )
        found: dict[str, KeptFile] = {}
        with reading(self._engine) as connection:
            for query, table, folder in (
                (received.where(Instance.disposition.in_(_KEPT)), Instance, self._spool_folder),
                (made, ResultObject, self._results_folder),
            ):
                query = query.where(
                    Study.study_instance_uid == study_instance_uid, table.purged_at.is_(None)
                ).order_by(table.id)
                if series_instance_uid:
                    query = query.where(table.series_instance_uid == series_instance_uid)
                if sop_instance_uid:
                    query = query.where(table.sop_instance_uid == sop_instance_uid)
                for row in connection.execute(query):
                    file = KeptFile(
                        study_id=row.id,
                        path=folder / row.path,
                        sop_instance_uid=row.sop_instance_uid,
                    )
                    found.setdefault(file.sop_instance_uid, file)
        return list(found.values())
