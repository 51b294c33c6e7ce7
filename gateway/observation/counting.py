"""What is counted of the timeline and of the instances that come in: the families, and when.

Nothing here holds a patient attribute or a UID of a study: labels are analyses, destinations,
states, statuses and SOP class names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from gateway.listener.acceptance import ACCEPTED_SOP_CLASSES, StoreStatus
from gateway.observation.tallies import OTHER, Family, Tallies
from gateway.store import states
from gateway.store.tables import Delivery, Event, Generation, Instance, Study, WorkItem

SOP_CLASS_NAMES: Mapping[str, str] = {
    uid: each.name.removesuffix(" Storage") for uid, each in ACCEPTED_SOP_CLASSES.items()
}

RECEIVED = Family(
    name="lentigo_instances_received_total",
    help="Instances taken (C-STORE, STOW-RS, fetched), by SOP class and what became of them.",
    labels={
        "sop_class": frozenset(SOP_CLASS_NAMES.values()),
        "disposition": frozenset({"accepted", "quarantined", "own_result", "prior"}),
    },
)
RECEIVED_BYTES = Family(
    name="lentigo_received_bytes_total",
    help="Bytes of the instances taken, by SOP class.",
    labels={"sop_class": frozenset(SOP_CLASS_NAMES.values())},
)
REFUSED = Family(
    name="lentigo_instances_refused_total",
    help="Instances refused, by the DIMSE status that was answered (PS3.4 B.2.3).",
    labels={"status": frozenset(f"{status:04X}" for status in StoreStatus)},
)
ASSOCIATIONS = Family(
    name="lentigo_associations_total",
    help="Associations and STOW-RS requests, by how they began or ended.",
    labels={"outcome": frozenset({"accepted", "rejected", "released", "aborted"})},
)
STUDIES = Family(
    name="lentigo_studies_finished_total",
    help="Studies that reached a final state; a study that got late instances counts again.",
    labels={"state": states.FINAL_STATES},
)
ATTEMPTS = Family(
    name="lentigo_attempts_total",
    help="Attempts at a step of a work item, by how they went on.",
    labels={
        "analysis": None,
        "step": frozenset({states.ANALYSE, states.DELIVER}),
        "outcome": frozenset({"started", "postponed", "done", "failed"}),
    },
)
FAILURES = Family(
    name="lentigo_failures_total",
    help="Failures, by cause: TRANSIENT (tried again), REJECTED (the input), DEFECT (our software)",
    labels={
        "analysis": None,
        "cause": frozenset({"TRANSIENT", "REJECTED", "DEFECT", "WORKER_DIED"}),
    },
)
RESULTS = Family(
    name="lentigo_results_total",
    help="Work items analysed, by whether the model could judge the study.",
    labels={"analysis": None, "outcome": frozenset({"assessed", "not_assessed"})},
)
DELIVERIES = Family(
    name="lentigo_delivery_answers_total",
    help="Answers of destinations to objects, by the state they led to.",
    labels={"destination": None, "state": frozenset({"STORED", "CONFIRMED", "REFUSED"})},
)
ALARMS = Family(
    name="lentigo_alarms_total",
    help="Alarms of the timeline, by their action.",
    labels={"action": None},
)
STAGES = Family(
    name="lentigo_stage_duration_seconds",
    help="How long each stage of a study took.",
    labels={
        "stage": frozenset({"receive", "queue", "run", "encode", "write", "deliver", "study"}),
        "analysis": None,
    },
    is_histogram=True,
)
INFERENCE = Family(
    name="lentigo_inference_duration_seconds",
    help="Time that one work item waited for the model server, summed over its requests.",
    labels={"analysis": None},
    is_histogram=True,
)
NOTICES = Family(
    name="lentigo_notices_total",
    help="Events sent outside, by channel and outcome.",
    labels={
        "channel": frozenset({"webhook", "mail", "fhir"}),
        "outcome": frozenset({"delivered", "retried", "given_up"}),
    },
)
FAMILIES = (
    RECEIVED,
    RECEIVED_BYTES,
    REFUSED,
    ASSOCIATIONS,
    STUDIES,
    ATTEMPTS,
    FAILURES,
    RESULTS,
    DELIVERIES,
    ALARMS,
    STAGES,
    INFERENCE,
    NOTICES,
)
"""Everything that is counted in the record."""


# -- instances --------------------------------------------------------------------------------


def instance_rows() -> Any:
    """Select what ``count_instances`` wants."""
    return select(Instance.id, Instance.sop_class_uid, Instance.disposition, Instance.size_bytes)


def count_instances(tallies: Tallies, rows: Sequence[Any]) -> None:
    """Count instances that came in."""
    for row in rows:
        sop_class = SOP_CLASS_NAMES.get(row.sop_class_uid, OTHER)
        tallies.count(RECEIVED, sop_class=sop_class, disposition=row.disposition)
        tallies.count(RECEIVED_BYTES, float(row.size_bytes), sop_class=sop_class)


# -- the timeline -----------------------------------------------------------------------------


def event_rows() -> Any:
    """Select what ``count_events`` wants."""
    return select(
        Event.id,
        Event.at,
        Event.study_id,
        Event.work_item_id,
        Event.action,
        Event.level,
        Event.detail,
    )


class _Context:
    """What the lines of one batch speak of, read in a few queries."""

    def __init__(self, connection: Connection, rows: Sequence[Any]) -> None:
        wanted = {row.work_item_id for row in rows if row.work_item_id is not None}
        self.items: dict[int, Any] = {}
        if wanted:
            items = select(
                WorkItem.id,
                WorkItem.created_at,
                WorkItem.started_at,
                WorkItem.analysed_at,
                WorkItem.finished_at,
                WorkItem.analysis,
            ).where(WorkItem.id.in_(wanted))
            self.items = {row.id: row for row in connection.execute(items)}
        self.opened = self._opened(connection, rows)
        self.last_received = self._last_received(connection, rows)
        self.destinations = self._destinations(connection, rows)

    @staticmethod
    def _opened(connection: Connection, rows: Sequence[Any]) -> dict[tuple[int, int], dt.datetime]:
        closed = {
            (row.study_id, row.detail.get("generation"))
            for row in rows
            if row.action == "generation.closed"
        }
        if not closed:
            return {}
        found = connection.execute(
            select(Generation.study_id, Generation.number, Generation.opened_at).where(
                Generation.study_id.in_({study for study, _ in closed})
            )
        )
        return {(row[0], row[1]): row[2] for row in found}

    @staticmethod
    def _last_received(connection: Connection, rows: Sequence[Any]) -> dict[int, dt.datetime]:
        ended = {row.study_id for row in rows if row.action == "study.completed"}
        if not ended:
            return {}
        found = connection.execute(
            select(Study.id, Study.last_received_at).where(Study.id.in_(ended))
        )
        return {row[0]: row[1] for row in found}

    @staticmethod
    def _destinations(connection: Connection, rows: Sequence[Any]) -> dict[int, str]:
        wanted = {
            row.detail["delivery"]
            for row in rows
            if row.action.startswith("delivery.") and "delivery" in row.detail
        }
        if not wanted:
            return {}
        found = connection.execute(
            select(Delivery.id, Delivery.destination).where(Delivery.id.in_(wanted))
        )
        return {row[0]: row[1] for row in found}


def count_events(connection: Connection, tallies: Tallies, rows: Sequence[Any]) -> None:
    """Count lines of the timeline."""
    context = _Context(connection, rows)
    for row in rows:
        if row.level == "alarm":
            tallies.count(ALARMS, action=row.action)
        counter = _COUNTERS.get(row.action) or _COUNTERS.get(row.action.partition(".")[0])
        if counter is not None:
            counter(tallies, row, context)


def _association(tallies: Tallies, row: Any, _: _Context) -> None:
    tallies.count(ASSOCIATIONS, outcome=row.action.partition(".")[2])


def _refused(tallies: Tallies, row: Any, _: _Context) -> None:
    tallies.count(REFUSED, status=str(row.detail.get("status", "")))


def _closed(tallies: Tallies, row: Any, context: _Context) -> None:
    opened = context.opened.get((row.study_id, row.detail.get("generation", 0)))
    if opened is not None:
        _observe(tallies, "receive", "", row.at - opened)


def _study(tallies: Tallies, row: Any, context: _Context) -> None:
    state = row.action.partition(".")[2]
    if state not in states.FINAL_STATES:
        return
    tallies.count(STUDIES, state=state)
    last = context.last_received.get(row.study_id)
    if last is not None:
        _observe(tallies, "study", "", row.at - last)


def _delivery(tallies: Tallies, row: Any, context: _Context) -> None:
    destination = context.destinations.get(row.detail.get("delivery", 0), OTHER)
    tallies.count(DELIVERIES, destination=destination, state=row.action.partition(".")[2].upper())


def _started(tallies: Tallies, row: Any, context: _Context) -> None:
    analysis, step = _analysis(row, context), row.action.split(".")[1]
    tallies.count(ATTEMPTS, analysis=analysis, step=step, outcome="started")
    if row.level == "warning":
        tallies.count(FAILURES, analysis=analysis, cause="WORKER_DIED")
    item = context.items.get(row.work_item_id)
    if step == states.ANALYSE and row.detail.get("attempt") == 1 and item is not None:
        _observe(tallies, "queue", analysis, row.at - item.created_at)


def _postponed(tallies: Tallies, row: Any, context: _Context) -> None:
    analysis = _analysis(row, context)
    tallies.count(ATTEMPTS, analysis=analysis, step=row.action.split(".")[1], outcome="postponed")
    if row.level != "info":  # else it only waits for somebody's answer
        tallies.count(FAILURES, analysis=analysis, cause="TRANSIENT")


def _analysed(tallies: Tallies, row: Any, context: _Context) -> None:
    analysis, measured = _analysis(row, context), row.detail.get("measured") or {}
    tallies.count(ATTEMPTS, analysis=analysis, step=states.ANALYSE, outcome="done")
    tallies.count(RESULTS, analysis=analysis, outcome=str(row.detail.get("outcome", "")))
    for stage in ("run", "encode", "write"):
        if f"{stage}_s" in measured:
            tallies.observe(STAGES, float(measured[f"{stage}_s"]), stage=stage, analysis=analysis)
    if "inference_s" in measured:
        tallies.observe(INFERENCE, float(measured["inference_s"]), analysis=analysis)


def _completed(tallies: Tallies, row: Any, context: _Context) -> None:
    analysis = _analysis(row, context)
    tallies.count(ATTEMPTS, analysis=analysis, step=states.DELIVER, outcome="done")
    item = context.items.get(row.work_item_id)
    if item is not None and item.analysed_at is not None:
        _observe(tallies, "deliver", analysis, row.at - item.analysed_at)


def _failed(tallies: Tallies, row: Any, context: _Context) -> None:
    analysis = _analysis(row, context)
    item = context.items.get(row.work_item_id)
    is_delivered = item is not None and item.analysed_at is not None
    step = states.DELIVER if is_delivered else states.ANALYSE
    tallies.count(ATTEMPTS, analysis=analysis, step=step, outcome="failed")
    tallies.count(FAILURES, analysis=analysis, cause=str(row.detail.get("kind", "")))


def _observe(tallies: Tallies, stage: str, analysis: str, span: dt.timedelta) -> None:
    # Stages of a whole study belong to no analysis.
    tallies.observe(STAGES, span.total_seconds(), stage=stage, analysis=analysis or "all")


def _analysis(row: Any, context: _Context) -> str:
    item = context.items.get(row.work_item_id)
    return str(row.detail.get("analysis") or (item.analysis if item is not None else OTHER))


_COUNTERS: Mapping[str, Callable[[Tallies, Any, _Context], None]] = {
    "association": _association,
    "study": _study,
    "delivery": _delivery,
    "instance.refused": _refused,
    "generation.closed": _closed,
    "work_item.analyse.started": _started,
    "work_item.deliver.started": _started,
    "work_item.analyse.postponed": _postponed,
    "work_item.deliver.postponed": _postponed,
    "work_item.analysed": _analysed,
    "work_item.completed": _completed,
    "work_item.failed": _failed,
}
"""Action of the timeline, or its topic -> what is counted of it."""
