"""The working half of the record: routing, leases, results, deliveries.

The database owns the work (``leases``); every write here is fenced by the lease's token. Celery and
Redis carry only hints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, update

from gateway.delivery.routes import FOLDER, Route
from gateway.errors import LeaseLost
from gateway.faults import failpoint
from gateway.store import states
from gateway.store.engine import reading, writing
from gateway.store.installation import installation_serial
from gateway.store.tables import (
    Delivery,
    Generation,
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
from gateway.store.work.leases import NO_LEASE, LeaseDesk
from gateway.store.work.routing import RoutingLedger
from gateway.store.work.self_tests import stays_here


class WorkLedger(RoutingLedger, LeaseDesk):
    """Everything that happens to a study after it has closed."""

    # -- ends of a step ---------------------------------------------------------------------

    def save_results(
        self,
        claim: Claim,
        objects: Sequence[NewObject],
        *,
        destinations: Sequence[Route],
        outcome: str,
        reason: str,
        summary: dict[str, Any],
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """End the analysis: commit its objects, each with a delivery to whoever takes it."""
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
                **NO_LEASE,
            )
            if stays_here(connection, claim.generation.study_id):
                destinations = (Route(name=FOLDER),)
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
                for route in destinations:
                    if not route.takes(new.sop_class_uid):
                        continue
                    connection.execute(
                        insert(Delivery).values(
                            result_object_id=object_id,
                            destination=route.name,
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
                measured=dict(measured or {}),
            )
            states.refresh_study(connection, claim.generation.study_id, now)
            failpoint("worker.saving")

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
            "reason": reason,
            "confirmed_by": confirmed_by,
        }
        if status is not None:  # else what it said last stands
            values["status"] = status
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
                **NO_LEASE,
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
            return installation_serial(connection, now)
