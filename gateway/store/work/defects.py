"""How often work failed by a defect of ours, told from the timeline.

Attempts say nothing of it: an outage of a day leaves hundreds of them, and the first defect after
it must not be the last word.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from gateway.store.tables import Event, Generation

DEFECT = "DEFECT"


def defects_of_step(connection: Connection, study_id: int, work_item_id: int, step: str) -> int:
    """Return how often a step of a work item was postponed for a defect.

    What was before an order to try again does not count: the attempts begin at one again.
    """
    of_item = (Event.study_id == study_id, Event.work_item_id == work_item_id)
    begun = select(func.max(Event.id)).where(
        *of_item,
        Event.action == f"work_item.{step}.started",
        Event.detail["attempt"].as_integer() == 1,
    )
    since = connection.execute(begun).scalar() or 0
    counted = select(func.count()).where(
        *of_item,
        Event.id > since,
        Event.action == f"work_item.{step}.postponed",
        Event.detail["kind"].as_string() == DEFECT,
    )
    return connection.execute(counted).scalar_one()


def defects_of_routing(connection: Connection, generation_id: int) -> int:
    """Return how often the routing of a generation was postponed for a defect.

    What was before an order to try the study again does not count.
    """
    generation = connection.execute(
        select(Generation.study_id, Generation.number).where(Generation.id == generation_id)
    ).one()
    ordered = select(func.max(Event.id)).where(
        Event.study_id == generation.study_id, Event.action == "study.retried"
    )
    since = connection.execute(ordered).scalar() or 0
    counted = select(func.count()).where(
        Event.study_id == generation.study_id,
        Event.id > since,
        Event.action == "generation.postponed",
        Event.detail["generation"].as_integer() == generation.number,
        Event.detail["kind"].as_string() == DEFECT,
    )
    return connection.execute(counted).scalar_one()
