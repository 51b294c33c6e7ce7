"""The documents half of the record: small files that a site sends for a study.

A document belongs to a generation as an instance does: it waits with the receiving one, or opens
the next one, so that results that did not know it are superseded. One that comes before its study
waits, and belongs to the study's first generation.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import RecordUnavailable
from gateway.settings import CompletenessSettings
from gateway.spool import StoredFile
from gateway.store import states
from gateway.store.audit import append
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.intake.generations import receiving_generation
from gateway.store.tables import Document, Generation, Instance, Study

_RACE_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class DocumentRow:
    """One document of a study."""

    name: str
    media_type: str
    path: str
    """Relative to the spool."""
    sha256: str
    size_bytes: int
    revision: int
    """1 for the first document of its name, and so on."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What the record made of a document."""

    is_new: bool
    """False when the newest document of this name has the same bytes: nothing was written."""
    revision: int
    sha256: str
    """Of the document, in hexadecimal."""
    study_id: int | None
    """None while the study has not arrived."""
    generation: int | None
    """Number of the generation that will hold it; None while the study has not arrived."""


class DocumentRecord:
    """Writes documents that arrive."""

    def __init__(
        self, engine: Engine, completeness: CompletenessSettings, clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._completeness = completeness
        self._clock = clock

    def register(
        self, *, uid: str, name: str, media_type: str, stored: StoredFile, actor: str
    ) -> Registered:
        """Commit one document that is on disk.

        Parameters
        ----------
        uid
            Study Instance UID, or SOP Instance UID of an instance that was received.
        name
            Its name; the newest of a name counts.
        actor
            Who sent it, for the audit trail.

        Raises
        ------
        RecordUnavailable
            The database does not answer; nothing was written.
        """
        for _ in range(_RACE_ATTEMPTS - 1):
            try:
                return self._register(uid, name, media_type, stored, actor)
            except IntegrityError:  # another of this name came at once: look again
                continue
        return self._register(uid, name, media_type, stored, actor)

    def _register(
        self, uid: str, name: str, media_type: str, stored: StoredFile, actor: str
    ) -> Registered:
        now = self._clock()
        with writing(self._engine) as connection:
            study_id, study_uid = _find_study(connection, uid)
            if study_id is not None:
                states.lock_study(connection, study_id)
            newest = connection.execute(
                select(Document.sha256, Document.revision, Document.generation_number)
                .where(Document.study_instance_uid == study_uid, Document.name == name)
                .order_by(Document.revision.desc())
                .limit(1)
            ).first()
            if newest is not None and newest.sha256 == stored.sha256:
                _take_back(connection, study_uid, name, newest.revision, stored)
                return Registered(
                    is_new=False,
                    revision=newest.revision,
                    sha256=stored.sha256,
                    study_id=study_id,
                    generation=newest.generation_number,
                )
            generation = self._generation(connection, study_id, now)
            revision = newest.revision + 1 if newest is not None else 1
            connection.execute(
                insert(Document).values(
                    study_instance_uid=study_uid,
                    name=name,
                    revision=revision,
                    generation_number=generation,
                    media_type=media_type,
                    sha256=stored.sha256,
                    size_bytes=stored.size_bytes,
                    path=str(stored.relative_path),
                    received_from=actor,
                    received_at=now,
                )
            )
            detail: dict[str, Any] = {"media_type": media_type, "size_bytes": stored.size_bytes}
            states.note(
                connection, now, "document.received", study_id=study_id, revision=revision, **detail
            )
            if study_id is not None:
                states.refresh_study(connection, study_id, now)
            append(
                connection,
                now,
                actor,
                "document.received",
                **detail,
                sha256=stored.sha256,
                study=study_id,
            )
        return Registered(
            is_new=True,
            revision=revision,
            sha256=stored.sha256,
            study_id=study_id,
            generation=generation,
        )

    def _generation(
        self, connection: Connection, study_id: int | None, now: dt.datetime
    ) -> int | None:
        """Number of the generation that a document comes in with; None before the first one."""
        if study_id is None or not _has_generation(connection, study_id):
            return None
        found = receiving_generation(
            connection, study_id, now, window_s=self._completeness.quiet_window_s
        )
        return found.number


class DocumentReader:
    """Reads the documents of a generation."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_generation(self, study_id: int, number: int) -> list[DocumentRow]:
        """Return the newest document of each name that a generation holds, by name.

        Parameters
        ----------
        study_id
            Number of the study in the record.
        number
            Of the generation; documents of later ones are not seen.
        """
        newest = (
            select(Document.name, func.max(Document.revision).label("revision"))
            .join(Study, Study.study_instance_uid == Document.study_instance_uid)
            .where(
                Study.id == study_id,
                (Document.generation_number.is_(None)) | (Document.generation_number <= number),
                Document.purged_at.is_(None),
            )
            .group_by(Document.name)
            .subquery()
        )
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    Document.name,
                    Document.media_type,
                    Document.path,
                    Document.sha256,
                    Document.size_bytes,
                    Document.revision,
                )
                .join(Study, Study.study_instance_uid == Document.study_instance_uid)
                .join(
                    newest,
                    (newest.c.name == Document.name) & (newest.c.revision == Document.revision),
                )
                .where(Study.id == study_id)
                .order_by(Document.name)
            ).all()
        return [DocumentRow(**row._mapping) for row in rows]


def _take_back(
    connection: Connection, study_uid: str, name: str, revision: int, stored: StoredFile
) -> None:
    """Take a purged document back that was sent again, byte for byte.

    Raises
    ------
    RecordUnavailable
        A purge took the file away at this very moment; the sender tries again.
    """
    restored = connection.execute(
        update(Document)
        .where(
            Document.study_instance_uid == study_uid,
            Document.name == name,
            Document.revision == revision,
            Document.purged_at.is_not(None),
        )
        .values(purged_at=None, is_purge_pending=False)
    ).rowcount
    if restored and stored.path is not None and not stored.path.is_file():
        raise RecordUnavailable("the document is being purged; send it again")


def attach_waiting(connection: Connection, study_id: int, now: dt.datetime) -> None:
    """Tell the timeline of a study that has just arrived which documents waited for it."""
    uid = select(Study.study_instance_uid).where(Study.id == study_id).scalar_subquery()
    attached = connection.execute(
        update(Document)
        .where(Document.study_instance_uid == uid, Document.generation_number.is_(None))
        .values(generation_number=1)
        .returning(Document.media_type, Document.size_bytes, Document.revision)
    ).all()
    for row in attached:
        states.note(connection, now, "document.attached", study_id=study_id, **row._mapping)


def _find_study(connection: Connection, uid: str) -> tuple[int | None, str]:
    """(id, Study Instance UID) of a study, or of the one that an instance lies in.

    An UID that is neither is taken for that of a study to come.
    """
    study = connection.execute(select(Study.id).where(Study.study_instance_uid == uid)).scalar()
    if study is not None:
        return int(study), uid
    of_instance = connection.execute(
        select(Study.id, Study.study_instance_uid)
        .join(Instance, Instance.study_id == Study.id)
        .where(Instance.sop_instance_uid == uid, Instance.disposition == "accepted")
        .limit(1)
    ).first()
    return (of_instance.id, of_instance.study_instance_uid) if of_instance else (None, uid)


def _has_generation(connection: Connection, study_id: int) -> bool:
    found = connection.execute(
        select(Generation.id).where(Generation.study_id == study_id).limit(1)
    ).first()
    return found is not None
