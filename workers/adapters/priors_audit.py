"""No PACS is asked for a patient's images without an entry in the audit trail."""

from __future__ import annotations

from sqlalchemy import Engine

from gateway.store.people.queries import note_query
from workers.adapters.priors import Archive, Wanted
from workers.ports import Checkpoint

_KEYS = ("PatientID", "IssuerOfPatientID", "StudyDate")


class AuditedArchive:
    """A PACS that is asked on the record.

    Parameters
    ----------
    name
        The PACS, as the settings name it.
    """

    def __init__(self, archive: Archive, engine: Engine, *, name: str) -> None:
        self._archive = archive
        self._engine = engine
        self._name = name

    def fetch(self, wanted: Wanted, checkpoint: Checkpoint) -> int:
        """Note the query, and ask; see ``Archive``."""
        note_query(self._engine, wanted.study_instance_uid, asked=self._name, keys=_KEYS)
        return self._archive.fetch(wanted, checkpoint)
