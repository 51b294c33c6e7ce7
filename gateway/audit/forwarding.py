"""Hands the trail on: what the record holds and a sink does not have goes there, in order.

The record is the spool. A sink that does not answer is tried again with growing pauses and holds
up nothing; it goes on where it stopped. A sink gets each entry at least once: the file exactly
once, a syslog server again what it may have lost.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.audit.message import Source, Subject, audit_message
from gateway.audit.syslog import syslog_line
from gateway.errors import SinkUnavailable
from gateway.store.audit import Entry, Trail
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import AuditSink, Identity, Study

_BATCH = 200
_HOLD_S = 60.0


class Sink(Protocol):
    """A place outside the record."""

    def send(self, lines: Sequence[str]) -> None:
        """Take lines in their order; raises ``SinkUnavailable``."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Renderer:
    """Makes the lines of entries, with the studies they speak of.

    Parameters
    ----------
    shows_patient_id
        Whether messages carry the Patient ID in the place of the digest that stands for it.
    """

    def __init__(self, engine: Engine, source: Source, *, shows_patient_id: bool) -> None:
        self._engine = engine
        self._source = source
        self._shows_patient_id = shows_patient_id

    def lines(self, entries: Sequence[Entry]) -> list[str]:
        """Return one RFC 5424 line for each entry."""
        subjects = self._subjects({_study_of(each) for each in entries} - {None})
        return [
            syslog_line(
                entry,
                audit_message(entry, self._source, subjects.get(_study_of(entry) or 0)),
                self._source.source_id,
                os.getpid(),
            )
            for entry in entries
        ]

    def _subjects(self, study_ids: set[int | None]) -> Mapping[int, Subject]:
        if not study_ids:
            return {}
        patient = Identity.patient_id if self._shows_patient_id else Identity.patient_key
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(Study.id, Study.study_instance_uid, patient)
                .join(Identity, Identity.study_id == Study.id, isouter=True)
                .where(Study.id.in_(study_ids))
            ).all()
        return {row[0]: Subject(study_instance_uid=row[1], patient=row[2] or "") for row in rows}


def _study_of(entry: Entry) -> int | None:
    study = entry.detail.get("study")
    return study if isinstance(study, int) else None


class Forwarder:
    """Brings one sink up to date."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        sink: Sink,
        renderer: Renderer,
        clock: Clock = utc_now,
    ) -> None:
        self.name = name
        self._engine = engine
        self._sink = sink
        self._renderer = renderer
        self._trail = Trail(engine)
        self._clock = clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"[:64]

    def forward(self) -> int:
        """Hand on what is missing; return how many entries.

        Raises
        ------
        SinkUnavailable
            The sink does not take them; it is noted in the record, and nothing is lost.
        RecordUnavailable
            The database does not answer.
        """
        behind = self._position()
        if behind is None or behind >= self._trail.head().entries:
            return 0
        position = self._take()
        if position is None:
            return 0  # another process is at it
        given = 0
        try:
            while True:
                entries = list(self._trail.entries(after=position, limit=_BATCH))
                if not entries:
                    break
                self._sink.send(self._renderer.lines(entries))
                position, given = entries[-1].id, given + len(entries)
                self._advance(position)
        except SinkUnavailable as exc:
            self._fail(str(exc))
            raise
        self._release()
        return given

    def close(self) -> None:
        """Let go of the sink's connection."""
        self._sink.close()

    def _position(self) -> int | None:
        with reading(self._engine) as connection:
            found = connection.execute(
                select(AuditSink.position).where(AuditSink.name == self.name)
            ).scalar()
        return int(found) if found is not None else 0

    def _take(self) -> int | None:
        now = self._clock()
        with writing(self._engine) as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(
                dialect.insert(AuditSink)
                .values(name=self.name, position=0, error="", holder="")
                .on_conflict_do_nothing()
            )
            taken = connection.execute(
                update(AuditSink)
                .where(
                    AuditSink.name == self.name,
                    or_(
                        AuditSink.held_until.is_(None),
                        AuditSink.held_until <= now,
                        AuditSink.holder == self._holder,
                        # A clock that was set back must not lock the sink for long.
                        AuditSink.held_until > now + dt.timedelta(seconds=2 * _HOLD_S),
                    ),
                )
                .values(holder=self._holder, held_until=now + dt.timedelta(seconds=_HOLD_S))
                .returning(AuditSink.position)
            ).scalar()
        return int(taken) if taken is not None else None

    def _advance(self, position: int) -> None:
        now = self._clock()
        self._update(
            position=position,
            held_until=now + dt.timedelta(seconds=_HOLD_S),
            error="",
            failing_since=None,
        )

    def _fail(self, reason: str) -> None:
        now = self._clock()
        with writing(self._engine) as connection:
            since = connection.execute(
                select(AuditSink.failing_since).where(AuditSink.name == self.name)
            ).scalar()
            self._set(connection, error=reason, failing_since=since or now, held_until=None)

    def _release(self) -> None:
        self._update(held_until=None)

    def _update(self, **values: object) -> None:
        with writing(self._engine) as connection:
            self._set(connection, **values)

    def _set(self, connection: Connection, **values: object) -> None:
        connection.execute(
            update(AuditSink)
            .where(AuditSink.name == self.name, AuditSink.holder == self._holder)
            .values(**values)
        )
