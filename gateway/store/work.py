"""The working half of the record: routing, leases, results, deliveries.

The database owns the work. A worker *claims* a work item with one conditional UPDATE that writes a
fresh token and an expiry; every later write names the token, so a worker whose lease ran out (it
hung, or its host slept) changes nothing any more. What nobody holds is announced again by the
sweeper. Celery and Redis carry only hints.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.errors import LeaseLost
from gateway.store import states
from gateway.store.engine import reading, writing
from gateway.store.hints import HintBoard, is_due
from gateway.store.routing import RoutingLedger, load_generation
from gateway.store.tables import (
    Delivery,
    Generation,
    Installation,
    ResultObject,
    Study,
    WorkItem,
)
from gateway.store.values import (
    Claim,
    DeliveryRow,
    NewObject,
    PriorReport,
)

FOLDER = "folder"
"""Destination name of the results folder."""

MAX_CRASHES = 5
"""Workers that may die at one step of one work item before it is set aside."""


class WorkLedger(RoutingLedger, HintBoard):
    """Everything that happens to a study after it has closed."""

    # -- leases -----------------------------------------------------------------------------

    def claim(self, work_item_id: int, *, owner: str, lease_s: float) -> Claim | None:
        """Take a work item that is due and that nobody holds; None when there is nothing to take.

        A lease that ran out counts as a crash of its worker; after ``MAX_CRASHES`` at one step the
        work item is canceled with that reason, so that a poisonous input cannot kill for ever.
        """
        now = self._clock()
        token = uuid.uuid4().hex
        expires_at = now + dt.timedelta(seconds=lease_s)
        with writing(self._engine) as connection:
            row = connection.execute(
                select(WorkItem)
                .where(WorkItem.id == work_item_id, is_due(now))
                .with_for_update(skip_locked=True, key_share=True)
            ).first()
            if row is None:
                return None
            crashes = row.crashes + (1 if row.lease_token is not None else 0)
            if crashes >= MAX_CRASHES:
                self._cancel(
                    connection,
                    row,
                    now,
                    kind="DEFECT",
                    reason=f"{crashes} workers died at this step ({row.step})",
                )
                return None
            connection.execute(
                update(WorkItem)
                .where(WorkItem.id == work_item_id)
                .values(
                    state=states.UPS_IN_PROGRESS,
                    lease_token=token,
                    lease_owner=owner,
                    lease_expires_at=expires_at,
                    started_at=row.started_at or now,
                    attempts=row.attempts + 1,
                    crashes=crashes,
                )
            )
            states.note(
                connection,
                now,
                f"work_item.{row.step}.started",
                study_id=row.study_id,
                work_item_id=row.id,
                level="warning" if row.lease_token is not None else "info",
                analysis=row.analysis,
                worker=owner,
                attempt=row.attempts + 1,
                **({"after": "the worker before died"} if row.lease_token is not None else {}),
            )
            states.refresh_study(connection, row.study_id, now)
            generation = load_generation(connection, row.generation_id)
        return Claim(
            work_item_id=work_item_id,
            token=token,
            step=row.step,
            analysis=row.analysis,
            model_digest=row.model_digest,
            attempt=row.attempts + 1,
            created_at=row.created_at,
            expires_at=expires_at,
            generation=generation,
        )

    def extend(self, claim: Claim, lease_s: float) -> None:
        """Heartbeat: hold the work item for another ``lease_s`` seconds.

        Raises
        ------
        LeaseLost
            Somebody else has it.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_expires_at=now + dt.timedelta(seconds=lease_s))

    def _fenced(self, connection: Connection, claim: Claim, **values: Any) -> None:
        changed = connection.execute(
            update(WorkItem)
            .where(WorkItem.id == claim.work_item_id, WorkItem.lease_token == claim.token)
            .values(**values)
        ).rowcount
        if changed != 1:
            raise LeaseLost(f"work item {claim.work_item_id} is held by another worker")

    def change_model(self, claim: Claim, model_digest: str) -> None:
        """Bind a claimed work item, of which nothing was made yet, to another model digest.

        When the generation has a work item for that digest already, this one is canceled in its
        favour.

        Raises
        ------
        LeaseLost
            Somebody else has it, or it was canceled.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_owner=WorkItem.lease_owner)
            row = connection.execute(
                select(WorkItem).where(WorkItem.id == claim.work_item_id)
            ).one()
            twin = connection.execute(
                select(WorkItem.id).where(
                    WorkItem.generation_id == row.generation_id,
                    WorkItem.analysis == row.analysis,
                    WorkItem.model_digest == model_digest,
                )
            ).scalar()
            if twin is None:
                connection.execute(
                    update(WorkItem).where(WorkItem.id == row.id).values(model_digest=model_digest)
                )
                states.note(
                    connection,
                    now,
                    "work_item.model_changed",
                    study_id=row.study_id,
                    work_item_id=row.id,
                    analysis=row.analysis,
                    model_digest=model_digest,
                )
            else:
                self._cancel(
                    connection,
                    row,
                    now,
                    kind="REJECTED",
                    reason="another version of the model was put in service; the study has its "
                    "result from that one",
                )
        if twin is not None:
            raise LeaseLost(f"work item {claim.work_item_id} was canceled")

    # -- ends of a step ---------------------------------------------------------------------

    def save_results(
        self,
        claim: Claim,
        objects: Sequence[NewObject],
        *,
        destinations: Sequence[str],
        outcome: str,
        reason: str,
        summary: dict[str, Any],
    ) -> None:
        """End the analysis: commit its objects and one delivery of each to each destination."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(
                connection,
                claim,
                step=states.DELIVER,
                outcome=outcome,
                reason=reason,
                summary={**summary, "reason": reason},
                analysed_at=now,
                attempts=0,
                crashes=0,
                failure_kind="",
                next_attempt_at=now,
                hinted_at=now,
                **_NO_LEASE,
            )
            for new in objects:
                object_id = connection.execute(
                    insert(ResultObject)
                    .values(
                        work_item_id=claim.work_item_id,
                        created_at=now,
                        **{name: getattr(new, name) for name in NewObject.__dataclass_fields__},
                    )
                    .returning(ResultObject.id)
                ).scalar_one()
                for destination in destinations:
                    connection.execute(
                        insert(Delivery).values(
                            result_object_id=object_id,
                            destination=destination,
                            state="PENDING",
                            reason="",
                            confirmed_by="",
                        )
                    )
            states.note(
                connection,
                now,
                "work_item.analysed",
                study_id=claim.generation.study_id,
                work_item_id=claim.work_item_id,
                analysis=claim.analysis,
                outcome=outcome,
                objects=len(objects),
            )
            states.refresh_study(connection, claim.generation.study_id, now)

    def load_deliveries(self, claim: Claim) -> list[DeliveryRow]:
        """Return every delivery of a claimed work item, in the order the objects were made."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    Delivery.id,
                    Delivery.destination,
                    Delivery.state,
                    ResultObject.role,
                    ResultObject.sop_class_uid,
                    ResultObject.sop_instance_uid,
                    ResultObject.series_instance_uid,
                    ResultObject.path,
                    ResultObject.sha256,
                    Study.study_instance_uid,
                )
                .join(ResultObject, Delivery.result_object_id == ResultObject.id)
                .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
                .join(Study, WorkItem.study_id == Study.id)
                .where(ResultObject.work_item_id == claim.work_item_id)
                .order_by(Delivery.id)
            ).all()
        return [DeliveryRow(**row._mapping) for row in rows]

    def mark_delivery(
        self,
        claim: Claim,
        delivery_id: int,
        *,
        state: str,
        status: int | None = None,
        reason: str = "",
        confirmed_by: str = "",
    ) -> None:
        """Write what the destination said about one object; fenced by the claim."""
        now = self._clock()
        values: dict[str, Any] = {
            "state": state,
            "status": status,
            "reason": reason,
            "confirmed_by": confirmed_by,
        }
        if state == "STORED":
            values["stored_at"] = now
        if state == "CONFIRMED":
            values["confirmed_at"] = now
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_owner=WorkItem.lease_owner)
            objects = select(ResultObject.id).where(ResultObject.work_item_id == claim.work_item_id)
            changed = connection.execute(
                update(Delivery)
                .where(Delivery.id == delivery_id, Delivery.result_object_id.in_(objects))
                .values(**values)
            ).rowcount
            if changed != 1:
                raise LeaseLost(f"delivery {delivery_id} is of another work item")
            states.note(
                connection,
                now,
                f"delivery.{state.lower()}",
                study_id=claim.generation.study_id,
                work_item_id=claim.work_item_id,
                level="warning" if state == "REFUSED" else "info",
                delivery=delivery_id,
                **{
                    key: value
                    for key, value in (
                        ("status", f"{status:04X}" if status is not None else ""),
                        ("reason", reason),
                        ("by", confirmed_by),
                    )
                    if value
                },
            )

    def complete(self, claim: Claim, *, reason: str = "") -> None:
        """End the work item: every object is confirmed, or refused for good beside others.

        Without a ``reason`` the work item's own one is restored (why it was not assessed), in the
        place of what an attempt before may have left there.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            summary = connection.execute(
                select(WorkItem.summary).where(WorkItem.id == claim.work_item_id)
            ).scalar_one()
            own_reason = str((summary or {}).get("reason", ""))
            self._fenced(
                connection,
                claim,
                state=states.UPS_COMPLETED,
                finished_at=now,
                next_attempt_at=None,
                failure_kind="",
                reason="; ".join(filter(None, (own_reason, reason))),
                **_NO_LEASE,
            )
            states.note(
                connection,
                now,
                "work_item.completed",
                study_id=claim.generation.study_id,
                work_item_id=claim.work_item_id,
                analysis=claim.analysis,
            )
            states.refresh_study(connection, claim.generation.study_id, now)

    def retry_later(self, claim: Claim, *, reason: str, delay_s: float) -> None:
        """Give the work item back after a passing failure; it is due again after ``delay_s``."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(
                connection,
                claim,
                reason=reason,
                failure_kind="TRANSIENT",
                next_attempt_at=now + dt.timedelta(seconds=delay_s),
                hinted_at=None,
                **_NO_LEASE,
            )
            states.note(
                connection,
                now,
                f"work_item.{claim.step}.postponed",
                study_id=claim.generation.study_id,
                work_item_id=claim.work_item_id,
                level="warning",
                analysis=claim.analysis,
                reason=reason,
                attempt=claim.attempt,
                retry_in_s=round(delay_s, 1),
            )
            states.refresh_study(connection, claim.generation.study_id, now)

    def fail(self, claim: Claim, *, kind: str, reason: str) -> None:
        """Cancel the work item for good: ``REJECTED`` (the input) or ``DEFECT`` (our software)."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_owner=WorkItem.lease_owner)
            row = connection.execute(
                select(WorkItem).where(WorkItem.id == claim.work_item_id)
            ).one()
            self._cancel(connection, row, now, kind=kind, reason=reason)

    def _cancel(
        self, connection: Connection, row: Any, now: dt.datetime, *, kind: str, reason: str
    ) -> None:
        connection.execute(
            update(WorkItem)
            .where(WorkItem.id == row.id)
            .values(
                state=states.UPS_CANCELED,
                failure_kind=kind,
                reason=reason,
                finished_at=now,
                next_attempt_at=None,
                **_NO_LEASE,
            )
        )
        states.note(
            connection,
            now,
            "work_item.failed",
            study_id=row.study_id,
            work_item_id=row.id,
            level="alarm" if kind == "DEFECT" else "warning",
            analysis=row.analysis,
            kind=kind,
            reason=reason,
        )
        states.refresh_study(connection, row.study_id, now)

    # -- reads ------------------------------------------------------------------------------

    def prior_report(self, claim: Claim) -> PriorReport | None:
        """Return the newest report (role ``sr``) of an earlier generation of the same analysis."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(
                    Study.study_instance_uid,
                    ResultObject.series_instance_uid,
                    ResultObject.sop_class_uid,
                    ResultObject.sop_instance_uid,
                )
                .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
                .join(Generation, WorkItem.generation_id == Generation.id)
                .join(Study, WorkItem.study_id == Study.id)
                .where(
                    WorkItem.study_id == claim.generation.study_id,
                    WorkItem.analysis == claim.analysis,
                    Generation.number < claim.generation.number,
                    ResultObject.role == "sr",
                )
                .order_by(Generation.number.desc(), ResultObject.id.desc())
                .limit(1)
            ).first()
        return PriorReport(**row._mapping) if row is not None else None

    def installation_serial(self) -> str:
        """Return this installation's serial number, made at the first call."""
        now = self._clock()
        with writing(self._engine) as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            connection.execute(
                dialect.insert(Installation)
                .values(id=1, serial=uuid.uuid4().hex, created_at=now)
                .on_conflict_do_nothing()
            )
            return str(connection.execute(select(Installation.serial)).scalar_one())


_NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None}
