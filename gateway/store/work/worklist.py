"""Reads of work items for the worklist (UPS): the one read that joins them with identities.

What leaves here is for an authenticated DICOM service; nothing of it is logged.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from gateway.store.engine import reading
from gateway.store.tables import (
    Delivery,
    Generation,
    Identity,
    Installation,
    Instance,
    ResultObject,
    Study,
    WorkItem,
)

CHANGED_AT = func.coalesce(
    WorkItem.finished_at, WorkItem.analysed_at, WorkItem.started_at, WorkItem.created_at
)
"""SQL expression: when a work item last went on."""


@dataclass(frozen=True, kw_only=True)
class ObjectRef:
    """One instance that a work item reads or made."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    held_by: tuple[str, ...] = ()
    """Destinations that said they have it."""


@dataclass(frozen=True, kw_only=True)
class WorklistEntry:
    """One work item."""

    id: int
    study_id: int
    study_instance_uid: str
    generation: int
    analysis: str
    model_digest: str
    state: str
    """UPS state (PS3.4 CC.1.1)."""
    step: str
    urgency: str
    outcome: str
    reason: str
    failure_kind: str
    created_at: dt.datetime
    started_at: dt.datetime | None
    analysed_at: dt.datetime | None
    finished_at: dt.datetime | None
    changed_at: dt.datetime
    identity: dict[str, str] = field(repr=False)
    """Patient attributes by the names of ``identities``."""
    inputs: tuple[ObjectRef, ...] = ()
    """Empty unless asked for."""
    outputs: tuple[ObjectRef, ...] = ()
    deliveries: int = 0
    """Objects times destinations."""
    delivered: int = 0
    """Those of them that are confirmed or refused for good."""


class Worklist:
    """Finds work items."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def serial(self) -> str:
        """Return this installation's serial number; '' before its first result."""
        with reading(self._engine) as connection:
            return str(connection.execute(select(Installation.serial)).scalar() or "")

    def entry(self, work_item_id: int) -> WorklistEntry | None:
        """Return one work item with its inputs."""
        found = self.search([WorkItem.id == work_item_id], limit=1, with_inputs=True)
        return found[0] if found else None

    def search(
        self,
        conditions: Sequence[Any],
        *,
        limit: int,
        offset: int = 0,
        with_inputs: bool = False,
    ) -> list[WorklistEntry]:
        """Return work items that meet all conditions, newest first.

        Parameters
        ----------
        conditions
            SQL expressions over ``WorkItem``, ``Study``, ``Generation`` and ``Identity``.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    WorkItem,
                    CHANGED_AT.label("changed_at"),
                    Study.study_instance_uid,
                    Generation.number,
                    *_identity_columns(),
                )
                .join(Study, WorkItem.study_id == Study.id)
                .join(Generation, WorkItem.generation_id == Generation.id)
                .join(Identity, Identity.study_id == Study.id, isouter=True)
                .where(*conditions)
                .order_by(WorkItem.id.desc())
                .limit(limit)
                .offset(offset)
            ).all()
            outputs = _outputs(connection, [row.id for row in rows])
            inputs = {row.id: _inputs(connection, row) for row in rows} if with_inputs else {}
        return [
            _entry(row, inputs.get(row.id, ()), outputs.get(row.id, _Outputs())) for row in rows
        ]


_IDENTITY = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
)


def _identity_columns() -> tuple[Any, ...]:
    return tuple(getattr(Identity, name) for name in _IDENTITY)


@dataclass(kw_only=True)
class _Outputs:
    objects: list[ObjectRef] = field(default_factory=list)
    deliveries: int = 0
    delivered: int = 0


def _outputs(connection: Connection, ids: Sequence[int]) -> dict[int, _Outputs]:
    """Return the result objects of work items, and how far their deliveries are."""
    rows = connection.execute(
        select(ResultObject, Delivery.destination, Delivery.state.label("delivery_state"))
        .join(Delivery, Delivery.result_object_id == ResultObject.id, isouter=True)
        .where(ResultObject.work_item_id.in_(ids))
        .order_by(ResultObject.id, Delivery.id)
    ).all()
    grouped: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row.work_item_id][row.id].append(row)
    return {
        work_item_id: _Outputs(
            objects=[
                ObjectRef(
                    series_instance_uid=each[0].series_instance_uid,
                    sop_class_uid=each[0].sop_class_uid,
                    sop_instance_uid=each[0].sop_instance_uid,
                    held_by=tuple(
                        row.destination
                        for row in each
                        if row.delivery_state in ("STORED", "CONFIRMED")
                    ),
                )
                for each in objects.values()
            ],
            deliveries=sum(
                row.delivery_state is not None for each in objects.values() for row in each
            ),
            delivered=sum(
                row.delivery_state in ("CONFIRMED", "REFUSED")
                for each in objects.values()
                for row in each
            ),
        )
        for work_item_id, objects in grouped.items()
    }


def _inputs(connection: Connection, row: Any) -> tuple[ObjectRef, ...]:
    """Return the instances of a work item's generation, its predecessors' included."""
    found = connection.execute(
        select(Instance.series_instance_uid, Instance.sop_class_uid, Instance.sop_instance_uid)
        .join(Generation, Instance.generation_id == Generation.id)
        .where(
            Instance.study_id == row.study_id,
            Generation.number <= row.number,
            Instance.disposition == "accepted",
        )
        .order_by(Instance.id)
    ).all()
    return tuple(ObjectRef(**each._mapping) for each in found)


def _entry(row: Any, inputs: tuple[ObjectRef, ...], outputs: _Outputs) -> WorklistEntry:
    return WorklistEntry(
        id=row.id,
        study_id=row.study_id,
        study_instance_uid=row.study_instance_uid,
        generation=row.number,
        analysis=row.analysis,
        model_digest=row.model_digest,
        state=row.state,
        step=row.step,
        urgency=row.urgency,
        outcome=row.outcome,
        reason=row.reason,
        failure_kind=row.failure_kind,
        created_at=row.created_at,
        started_at=row.started_at,
        analysed_at=row.analysed_at,
        finished_at=row.finished_at,
        changed_at=row.changed_at,
        identity={name: getattr(row, name) or "" for name in _IDENTITY},
        inputs=inputs,
        outputs=tuple(outputs.objects),
        deliveries=outputs.deliveries,
        delivered=outputs.delivered,
    )
