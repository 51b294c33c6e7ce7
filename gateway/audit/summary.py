"""Sums up the record's timeline as entries of the audit trail.

PS3.15 A.5.3 asks for one message about a transfer, not one for each instance; so the trail is fed
from the lines that the services write anyway, by the sweeper, and receiving waits for nothing.
Which lines were summed up stands beside the head of the chain and changes in the same transaction
as the entries: none twice, none left out, whoever is killed and however many sweepers there are.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from gateway.store import audit
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.following import still_missing, unread
from gateway.store.tables import (
    Delivery,
    Event,
    Generation,
    Instance,
    Refusal,
    ResultObject,
    WorkItem,
)

BATCH = 400
"""Lines of the timeline that are summed up in one transaction."""
_MAX_GAPS = 5000
_OURSELVES = "lentigo"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the timeline."""

    id: int
    at: dt.datetime
    action: str
    study_id: int | None
    work_item_id: int | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry to be."""

    at: dt.datetime
    actor: str
    action: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def summarise(engine: Engine, clock: Clock = utc_now) -> int:
    """Add what the timeline has had since the last time; return how many lines were read.

    Raises
    ------
    RecordUnavailable
        Nothing was written.
    """
    now = clock()
    with reading(engine) as connection:
        position, gaps = audit.cursor(connection)
        lines = _lines(connection, position, gaps)
        # The work is done on a snapshot, outside of the lock that all writers wait for.
        drafts = _drafts(connection, lines)
    if not lines:
        return 0
    newest = max(position, lines[-1].id)
    found = {line.id for line in lines}
    still = still_missing(position, newest, found, gaps, now, at_most=_MAX_GAPS)
    with writing(engine) as connection:
        if audit.lock_state(connection).event_id != position:
            return 0  # another sweeper was faster
        for draft in drafts:
            audit.append(connection, draft.at, draft.actor, draft.action, **draft.detail)
        audit.set_cursor(connection, newest, still)
    return len(lines)


def _lines(connection: Connection, position: int, gaps: Mapping[str, Any]) -> list[Line]:
    rows = connection.execute(
        select(Event.id, Event.at, Event.action, Event.study_id, Event.work_item_id, Event.detail)
        .where(unread(Event.id, position, gaps))
        .order_by(Event.id)
        .limit(BATCH)
    )
    return [Line(**row._mapping) for row in rows]


# -- lines to entries -------------------------------------------------------------------------

Maker = Callable[[Connection, Sequence[Line]], Iterable[Draft]]


def _drafts(connection: Connection, lines: Sequence[Line]) -> list[Draft]:
    by_action: dict[str, list[Line]] = {}
    for line in lines:
        by_action.setdefault(line.action, []).append(line)
    made = [
        draft
        for action, found in by_action.items()
        if action in _MAKERS
        for draft in _MAKERS[action](connection, found)
    ]
    return sorted(made, key=lambda draft: draft.at)


def _rejected(_: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    """One alert for each caller: a scanner must not fill the trail."""
    callers: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        caller = (line.detail.get("calling_ae_title", ""), line.detail.get("peer_address", ""))
        callers.setdefault(caller, []).append(line)
    for (ae_title, address), found in callers.items():
        detail = {"peer": address, "count": len(found), "reason": "association rejected"}
        yield Draft(at=found[-1].at, actor=ae_title, action="association.rejected", detail=detail)


def _refused(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    senders = _senders(connection, lines)
    groups: dict[tuple[str, int | None, str, str], list[Line]] = {}
    for line in lines:
        sender = senders.get((line.at, line.study_id), "")
        status, reason = line.detail.get("status", ""), line.detail.get("reason", "")
        groups.setdefault((sender, line.study_id, status, reason), []).append(line)
    for (sender, study, status, reason), found in groups.items():
        detail = {"study": study, "status": status, "reason": reason, "count": len(found)}
        yield Draft(at=found[-1].at, actor=sender, action="instances.refused", detail=detail)


def _senders(
    connection: Connection, lines: Sequence[Line]
) -> dict[tuple[dt.datetime, int | None], str]:
    """Who sent what was refused: its row is of the same transaction, so of the same moment."""
    rows = connection.execute(
        select(Refusal.at, Refusal.study_id, Refusal.calling_ae_title).where(
            Refusal.at.between(min(line.at for line in lines), max(line.at for line in lines))
        )
    )
    return {(row[0], row[1]): row[2] for row in rows}


def _of_study(action: str, **fixed: Any) -> Maker:
    """Make one entry for each study, with how often it happened."""

    def make(_: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
        counts = Counter(line.study_id for line in lines)
        for study, count in counts.items():
            last = max(line.at for line in lines if line.study_id == study)
            detail = {"study": study, "count": count, **fixed}
            yield Draft(at=last, actor=_OURSELVES, action=action, detail=detail)

    return make


def _opened(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    for line in lines:
        number = line.detail.get("generation")
        first = connection.execute(
            select(Instance.calling_ae_title, Instance.peer_address)
            .join(Generation, Instance.generation_id == Generation.id)
            .where(Generation.study_id == line.study_id, Generation.number == number)
            .order_by(Instance.id)
            .limit(1)
        ).first()
        if first is None:
            continue  # opened by a document
        detail = {"study": line.study_id, "generation": number, "peer": first.peer_address}
        yield Draft(
            at=line.at, actor=first.calling_ae_title, action="instances.begun", detail=detail
        )


def _closed(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    for line in lines:
        number = line.detail.get("generation")
        rows = connection.execute(
            select(
                Instance.calling_ae_title,
                Instance.peer_address,
                Instance.sop_class_uid,
                func.count(),
            )
            .join(Generation, Instance.generation_id == Generation.id)
            .where(Generation.study_id == line.study_id, Generation.number == number)
            .group_by(Instance.calling_ae_title, Instance.peer_address, Instance.sop_class_uid)
        ).all()
        senders: dict[tuple[str, str], dict[str, int]] = {}
        for ae_title, address, sop_class, count in rows:
            senders.setdefault((ae_title, address), {})[sop_class] = count
        for (ae_title, address), classes in sorted(senders.items()):
            detail = {
                "study": line.study_id,
                "generation": number,
                "peer": address,
                "classes": classes,
            }
            yield Draft(at=line.at, actor=ae_title, action="instances.transferred", detail=detail)


def _filed(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    """Instances that open no generation: earlier images, our own results."""
    moments = [line.at for line in lines]
    rows = connection.execute(
        select(
            Instance.study_id,
            Instance.calling_ae_title,
            Instance.peer_address,
            Instance.disposition,
            Instance.sop_class_uid,
            func.count(),
        )
        .where(
            Instance.study_id.in_({line.study_id for line in lines}),
            Instance.received_at.in_(moments),
            Instance.generation_id.is_(None),
        )
        .group_by(
            Instance.study_id,
            Instance.calling_ae_title,
            Instance.peer_address,
            Instance.disposition,
            Instance.sop_class_uid,
        )
    )
    for study, ae_title, address, disposition, sop_class, count in rows:
        detail = {
            "study": study,
            "peer": address,
            "disposition": disposition,
            "classes": {sop_class: count},
        }
        yield Draft(at=max(moments), actor=ae_title, action="instances.transferred", detail=detail)


def _scheduled(_: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    studies: dict[int | None, list[Line]] = {}
    for line in lines:
        studies.setdefault(line.study_id, []).append(line)
    for study, found in studies.items():
        analyses = sorted(str(line.detail.get("analysis", "")) for line in found)
        detail = {"study": study, "analyses": ", ".join(analyses)}
        yield Draft(at=found[-1].at, actor=_OURSELVES, action="procedure.scheduled", detail=detail)


def _failed(_: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    for line in lines:
        detail = {
            "study": line.study_id,
            "work_item": line.work_item_id,
            "analysis": line.detail.get("analysis", ""),
            "reason": line.detail.get("reason", ""),
        }
        yield Draft(at=line.at, actor=_OURSELVES, action="procedure.failed", detail=detail)


def _analysed(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    models = _models(connection, lines)
    for line in lines:
        common = {"study": line.study_id, "work_item": line.work_item_id}
        analysis = str(line.detail.get("analysis", ""))
        detail = {
            **common,
            "analysis": analysis,
            "model_digest": models.get(line.work_item_id or 0, ""),
            "outcome": line.detail.get("outcome", ""),
        }
        yield Draft(
            at=line.at,
            actor=f"{_OURSELVES} {analysis}",
            action="instances.accessed",
            detail=detail,
        )
        for destination in _sent(connection, line.work_item_id):
            yield Draft(
                at=line.at,
                actor=_OURSELVES,
                action="results.begun",
                detail={**common, "destination": destination},
            )


def _models(connection: Connection, lines: Sequence[Line]) -> dict[int, str]:
    wanted = {line.work_item_id for line in lines}
    rows = connection.execute(
        select(WorkItem.id, WorkItem.model_digest).where(WorkItem.id.in_(wanted))
    )
    return {row[0]: row[1] for row in rows}


def _sent(connection: Connection, work_item_id: int | None) -> dict[str, dict[str, dict[str, int]]]:
    """Destination -> state of the delivery -> SOP class -> objects."""
    rows = connection.execute(
        select(Delivery.destination, Delivery.state, ResultObject.sop_class_uid, func.count())
        .join(ResultObject, Delivery.result_object_id == ResultObject.id)
        .where(ResultObject.work_item_id == work_item_id)
        .group_by(Delivery.destination, Delivery.state, ResultObject.sop_class_uid)
        .order_by(Delivery.destination)
    )
    found: dict[str, dict[str, dict[str, int]]] = {}
    for destination, state, sop_class, count in rows:
        found.setdefault(destination, {}).setdefault(state, {})[sop_class] = count
    return found


def _completed(connection: Connection, lines: Sequence[Line]) -> Iterable[Draft]:
    for line in lines:
        for destination, states in _sent(connection, line.work_item_id).items():
            for state, classes in sorted(states.items()):
                detail = {
                    "study": line.study_id,
                    "work_item": line.work_item_id,
                    "destination": destination,
                    "state": state,
                    "classes": classes,
                }
                action = "results.transferred"
                if state not in ("CONFIRMED", "STORED"):
                    action = "results.undelivered"
                    detail["reason"] = "the destination refuses these objects"
                yield Draft(at=line.at, actor=_OURSELVES, action=action, detail=detail)


_MAKERS: Mapping[str, Maker] = {
    "association.rejected": _rejected,
    "instance.refused": _refused,
    "instance.conflict": _of_study(
        "instances.conflict", reason="known SOP Instance UID with other bytes; quarantined"
    ),
    "instance.own_result": _filed,
    "instance.prior": _filed,
    "generation.opened": _opened,
    "generation.closed": _closed,
    "work_item.scheduled": _scheduled,
    "work_item.analysed": _analysed,
    "work_item.failed": _failed,
    "work_item.completed": _completed,
}
"""Action of the timeline -> what the trail says of it; the others are not for an audit."""
