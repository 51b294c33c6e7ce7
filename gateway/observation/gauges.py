"""How things stand now, asked of the record and of this host at the moment of a scrape.

Each group is asked by itself: what cannot be asked is left out of the answer, and
``lentigo_scrape_errors`` says which group it was.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select

from gateway.observation.certificates import certificate_files
from gateway.observation.gauge_table import (
    AUDIT_FAILING,
    AUDIT_LAG,
    BREAKER,
    CERTIFICATE,
    DISK_FREE,
    DISK_LOW,
    DISK_RESERVE,
    DISK_TOTAL,
    DRIFT_PSI,
    DRIFTING,
    HELD,
    LAST_STUDY,
    NOTICES,
    OBSERVER_LAG,
    OLDEST,
    PENDING,
    QUEUED,
    RUNNING,
    SERVICE_MARK,
    SILENT,
    STUDIES,
    Sample,
)
from gateway.observation.tallies import MAX_SERIES
from gateway.retention.watermarks import Disk, reserve_bytes
from gateway.settings import (
    DashboardSettings,
    ListenerSettings,
    RetentionSettings,
    StoreSettings,
    TlsSettings,
)
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now
from gateway.store.tables import (
    AuditSink,
    AuditState,
    Delivery,
    DestinationHealth,
    DriftSeries,
    Event,
    FollowedTable,
    Generation,
    Notice,
    ResultObject,
    SourceRhythm,
    Study,
    WorkItem,
)

STAGES = ("receiving", "routing", "analysing", "delivering", "confirming")
SERVICES = ("sweeper", "workers-all", "workers-quick", "workers-long")
_MAX_DESTINATIONS = 32
_MAX_SOURCES = 50


@dataclass(frozen=True, kw_only=True)
class Place:
    """The installation that is looked at."""

    engine: Engine
    store: StoreSettings
    listener: ListenerSettings = field(default_factory=ListenerSettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    clock: Clock = utc_now


# -- the record -------------------------------------------------------------------------------


def work(place: Place) -> Iterator[Sample]:
    """Studies, queues, and the age of the oldest item of each stage."""
    now = place.clock()
    with reading(place.engine) as connection:
        counted = connection.execute(select(Study.state, func.count()).group_by(Study.state)).all()
        held = connection.execute(
            select(func.count()).select_from(Study).where(Study.held_at.is_not(None))
        ).scalar_one()
        items = connection.execute(
            select(
                WorkItem.analysis,
                WorkItem.step,
                (WorkItem.lease_token.is_not(None)).label("is_held"),
                func.count().label("number"),
            )
            .where(WorkItem.state.in_([states.UPS_SCHEDULED, states.UPS_IN_PROGRESS]))
            .group_by(WorkItem.analysis, WorkItem.step, WorkItem.lease_token.is_not(None))
        ).all()
        oldest = dict(_oldest(connection))
    found = {row[0]: row[1] for row in counted}
    for state in states.STUDY_STATES:
        yield Sample(gauge=STUDIES, value=found.get(state, 0), labels={"state": state})
    yield Sample(gauge=HELD, value=held)
    for row in items[:MAX_SERIES]:
        labels = {"analysis": row.analysis, "step": row.step}
        yield Sample(gauge=RUNNING if row.is_held else QUEUED, value=row.number, labels=labels)
    for stage in STAGES:
        since = oldest.get(stage)
        age_s = max(0.0, (now - since).total_seconds()) if since is not None else 0.0
        yield Sample(gauge=OLDEST, value=age_s, labels={"stage": stage})


def _oldest(connection: Connection) -> Iterator[tuple[str, dt.datetime]]:
    """Yield since when the oldest item of each stage that has one waits."""
    stages = {
        "receiving": select(func.min(Generation.opened_at)).where(
            Generation.state == states.RECEIVING
        ),
        "routing": select(func.min(Generation.closed_at)).where(Generation.state == states.CLOSED),
        "analysing": _waiting(states.ANALYSE, WorkItem.created_at),
        "delivering": select(func.min(WorkItem.analysed_at))
        .select_from(WorkItem)
        .where(_unfinished(states.DELIVER), ~_stored()),
        "confirming": select(func.min(WorkItem.analysed_at))
        .select_from(WorkItem)
        .where(_unfinished(states.DELIVER), _stored()),
    }
    for stage, query in stages.items():
        since = connection.execute(query).scalar()
        if since is not None:
            yield stage, since


def _unfinished(step: str) -> ColumnElement[bool]:
    return WorkItem.state.in_([states.UPS_SCHEDULED, states.UPS_IN_PROGRESS]) & (
        WorkItem.step == step
    )


def _waiting(step: str, since: Any) -> Any:
    return select(func.min(since)).where(_unfinished(step))


def _stored() -> ColumnElement[bool]:
    """Condition: every object of the work item lies at its destination, unconfirmed."""
    return ~exists().where(
        ResultObject.work_item_id == WorkItem.id,
        Delivery.result_object_id == ResultObject.id,
        Delivery.state == "PENDING",
    )


def deliveries(place: Place) -> Iterator[Sample]:
    """Objects under way, and the breakers of destinations."""
    with reading(place.engine) as connection:
        rows = connection.execute(
            select(Delivery.destination, Delivery.state, func.count().label("number"))
            .join(ResultObject, Delivery.result_object_id == ResultObject.id)
            .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
            .where(_unfinished(states.DELIVER), Delivery.state.in_(["PENDING", "STORED"]))
            .group_by(Delivery.destination, Delivery.state)
            .limit(2 * _MAX_DESTINATIONS)
        ).all()
        health = connection.execute(
            select(DestinationHealth.destination, DestinationHealth.state)
            .order_by(DestinationHealth.since.desc())
            .limit(_MAX_DESTINATIONS)
        ).all()
    for row in rows:
        labels = {"destination": row.destination, "state": row.state}
        yield Sample(gauge=PENDING, value=row.number, labels=labels)
    for breaker in health:
        value = {"open": 1.0, "half-open": 0.5}.get(breaker.state, 0.0)
        yield Sample(gauge=BREAKER, value=value, labels={"destination": breaker.destination})


def trail(place: Place) -> Iterator[Sample]:
    """How far the audit trail and the events have got."""
    now = place.clock()
    with reading(place.engine) as connection:
        entries = connection.execute(select(AuditState.entries)).scalar() or 0
        sinks = connection.execute(
            select(AuditSink.name, AuditSink.position, AuditSink.failing_since)
        ).all()
        waiting = connection.execute(
            select(Notice.target, func.count())
            .where(Notice.state == "waiting")
            .group_by(Notice.target)
        ).all()
        newest = connection.execute(select(func.max(Event.id))).scalar() or 0
        counted = connection.execute(
            select(FollowedTable.position).where(FollowedTable.name == "events")
        ).scalar()
    for sink in sinks:
        labels = {"sink": sink.name}
        yield Sample(gauge=AUDIT_LAG, value=max(0, entries - sink.position), labels=labels)
        since = sink.failing_since
        failing_s = max(0.0, (now - since).total_seconds()) if since is not None else 0.0
        yield Sample(gauge=AUDIT_FAILING, value=failing_s, labels=labels)
    channels = dict.fromkeys(("webhook", "mail", "fhir"), 0)
    for target, number in waiting:
        channels[target.partition(":")[0]] = channels.get(target.partition(":")[0], 0) + number
    for channel, number in channels.items():
        yield Sample(gauge=NOTICES, value=number, labels={"channel": channel})
    yield Sample(gauge=OBSERVER_LAG, value=max(0, newest - (counted or 0)))


def sources(place: Place) -> Iterator[Sample]:
    """Silence of sources, and drift of what models say of theirs."""
    now = place.clock()
    with reading(place.engine) as connection:
        rhythms = connection.execute(
            select(SourceRhythm.ae_title, SourceRhythm.last_at, SourceRhythm.silent_since)
            .order_by(SourceRhythm.last_at.desc())
            .limit(_MAX_SOURCES)
        ).all()
        drift = connection.execute(
            select(
                DriftSeries.source,
                DriftSeries.analysis,
                DriftSeries.measure,
                DriftSeries.psi,
                DriftSeries.state,
            )
            .order_by(DriftSeries.updated_at.desc())
            .limit(MAX_SERIES)
        ).all()
    for row in rhythms:
        labels = {"source": row.ae_title}
        yield Sample(gauge=SILENT, value=float(row.silent_since is not None), labels=labels)
        age_s = max(0.0, (now - row.last_at).total_seconds())
        yield Sample(gauge=LAST_STUDY, value=age_s, labels=labels)
    seen = set()
    for each in drift:
        key = (each.source, each.analysis, each.measure)
        if each.psi is None or key in seen:
            continue  # an older model's
        seen.add(key)
        labels = {"source": each.source, "analysis": each.analysis, "measure": each.measure}
        yield Sample(gauge=DRIFT_PSI, value=each.psi, labels=labels)
        yield Sample(gauge=DRIFTING, value=float(each.state == "drifting"), labels=labels)


# -- this host --------------------------------------------------------------------------------


def storage(place: Place) -> Iterator[Sample]:
    """The disk and its watermarks."""
    disk = Disk.of(place.store.home)
    reserve = reserve_bytes(place.listener, place.retention, place.store.home)
    low = place.retention.low_watermark_percent
    yield Sample(gauge=DISK_FREE, value=disk.free_bytes)
    yield Sample(gauge=DISK_TOTAL, value=disk.total_bytes)
    yield Sample(gauge=DISK_RESERVE, value=reserve)
    yield Sample(gauge=DISK_LOW, value=disk.total_bytes * (1 - low / 100) if low else 0.0)


def certificates(place: Place) -> Iterator[Sample]:
    """Days until certificates run out, ours and those of CAs that we trust."""
    for each in certificate_files(place.listener, place.dashboard, place.tls):
        days = each.days_left(place.clock())
        yield Sample(gauge=CERTIFICATE, value=days, labels={"use": each.use})


def marks(place: Place) -> Iterator[Sample]:
    """Whether the services of this host turn."""
    for service in SERVICES:
        mark = place.store.mark_folder / f"{service}.alive"
        if mark.exists():
            age_s = max(0.0, time.time() - mark.stat().st_mtime)
            yield Sample(gauge=SERVICE_MARK, value=age_s, labels={"service": service})


GROUPS: Mapping[str, Callable[[Place], Iterator[Sample]]] = {
    "work": work,
    "deliveries": deliveries,
    "trail": trail,
    "sources": sources,
    "storage": storage,
    "certificates": certificates,
    "marks": marks,
}
"""What is asked, each by itself."""
