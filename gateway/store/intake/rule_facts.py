"""What the rules see of a study in the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from sqlalchemy import Connection, Engine, select

from gateway.rules.conditions import InstanceFacts
from gateway.rules.headers import HeaderReader
from gateway.rules.ruleset import StudyFacts
from gateway.store.engine import reading
from gateway.store.tables import Generation, Instance, Study

MAX_HEADERS = 5000
"""Instances of one study whose headers the rules see; of the others they see the record only."""

# The type parameters of Row differ between SQLAlchemy 2.0 and 2.1.
Row = Any


class RecordedInstance:
    """One received instance as the rules see it."""

    def __init__(self, row: Row, reader: HeaderReader | None) -> None:
        self._row = row
        self._reader = reader
        self._fields = {
            "modality": row.modality,
            "sop_class": row.sop_class_uid,
            "transfer_syntax": row.transfer_syntax_uid,
            "calling_ae_title": row.calling_ae_title,
            "called_ae_title": row.called_ae_title,
            "source_address": row.peer_address,
        }

    def field(self, name: str) -> str:
        """Return what the record knows of it."""
        return str(self._fields[name])

    def header(self) -> Dataset:
        """Return its attributes."""
        return self._reader.read(self._row.path) if self._reader is not None else Dataset()


@dataclass(frozen=True, kw_only=True)
class RecentStudy:
    """A study of the record, for a trial of rules."""

    study_instance_uid: str
    facts: StudyFacts


def accepted_instances(connection: Connection, study_id: int) -> Sequence[Row]:
    """Return every accepted instance of a study whose file is there."""
    return connection.execute(
        select(
            Instance.id,
            Instance.path,
            Instance.modality,
            Instance.sop_class_uid,
            Instance.transfer_syntax_uid,
            Instance.series_instance_uid,
            Instance.calling_ae_title,
            Instance.called_ae_title,
            Instance.peer_address,
            Instance.generation_id,
            Instance.is_derived,
        )
        .where(
            Instance.study_id == study_id,
            Instance.disposition == "accepted",
            Instance.purged_at.is_(None),
        )
        .order_by(Instance.id)
    ).all()


def facts_of(rows: Sequence[Row], generation: int, reader: HeaderReader | None) -> StudyFacts:
    """Return what the rules see of the instances of a study.

    Parameters
    ----------
    rows
        By ``accepted_instances``.
    generation
        Its number.
    reader
        Reads headers; without one the rules see what the record knows.
    """
    instances: list[InstanceFacts] = [
        RecordedInstance(row, reader if index < MAX_HEADERS else None)
        for index, row in enumerate(rows)
    ]
    numbers = {
        "instances": len(rows),
        "series": len({row.series_instance_uid for row in rows}),
        "generation": generation,
    }
    return StudyFacts(instances=instances, numbers=numbers)


def recent_studies(engine: Engine, reader: HeaderReader, limit: int) -> list[RecentStudy]:
    """Return the newest studies of which anything was accepted, the newest first."""
    with reading(engine) as connection:
        studies = connection.execute(
            select(Study.id, Study.study_instance_uid)
            .where(select(Generation.id).where(Generation.study_id == Study.id).exists())
            .order_by(Study.id.desc())
            .limit(limit)
        ).all()
        found = []
        for study in studies:
            number = connection.execute(
                select(Generation.number)
                .where(Generation.study_id == study.id)
                .order_by(Generation.number.desc())
                .limit(1)
            ).scalar_one()
            rows = accepted_instances(connection, study.id)
            found.append(
                RecentStudy(
                    study_instance_uid=study.study_instance_uid,
                    facts=facts_of(rows, number, reader),
                )
            )
    return found
