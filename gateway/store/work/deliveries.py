"""What a worker keeps of deliveries beside their states: commitments, and faults at one object."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.engine import reading, writing
from gateway.store.tables import Delivery, DeliveryFault, ResultObject
from gateway.store.work.commitment import CommitmentBook


class DeliveryDesk(CommitmentBook):
    """Storage commitment, and how often a destination ended the association at an object."""

    def faults(self, work_item_id: int) -> dict[int, int]:
        """Return delivery id -> faults in a row, of the deliveries of a work item that had any."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(DeliveryFault.delivery_id, DeliveryFault.faults)
                .join(Delivery, Delivery.id == DeliveryFault.delivery_id)
                .join(ResultObject, ResultObject.id == Delivery.result_object_id)
                .where(ResultObject.work_item_id == work_item_id)
            ).all()
        return {row.delivery_id: row.faults for row in rows}

    def count_fault(self, delivery_id: int) -> int:
        """Note that a destination ended the association at an object; return how often by now."""
        with writing(self._engine) as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            return int(
                connection.execute(
                    dialect.insert(DeliveryFault)
                    .values(delivery_id=delivery_id, faults=1)
                    .on_conflict_do_update(
                        index_elements=[DeliveryFault.delivery_id],
                        set_={"faults": DeliveryFault.faults + 1},
                    )
                    .returning(DeliveryFault.faults)
                ).scalar_one()
            )

    def forget_faults(self, delivery_ids: Sequence[int]) -> None:
        """Start counting again: the destination answered."""
        with writing(self._engine) as connection:
            connection.execute(
                delete(DeliveryFault).where(DeliveryFault.delivery_id.in_(delivery_ids))
            )
