"""The table of gauges: what Prometheus is told of how things stand now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gauge:
    """One metric that goes up and down."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of a gauge."""

    gauge: Gauge
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


STUDIES = Gauge("lentigo_studies", "Studies of the record, by state.", ("state",))
HELD = Gauge("lentigo_studies_held", "Studies that wait for a person to release them.")
OLDEST = Gauge(
    "lentigo_oldest_item_age_seconds",
    "Age of the oldest item of each stage; 0 when there is none.",
    ("stage",),
)
QUEUED = Gauge(
    "lentigo_queue_depth", "Work items that wait, by analysis and step.", ("analysis", "step")
)
RUNNING = Gauge(
    "lentigo_work_items_in_progress",
    "Work items that a worker holds, by analysis and step.",
    ("analysis", "step"),
)
PENDING = Gauge(
    "lentigo_deliveries_pending",
    "Objects that a destination has not confirmed yet.",
    ("destination", "state"),
)
BREAKER = Gauge(
    "lentigo_destination_breaker_open",
    "1 while a destination does not answer and is left alone, 0.5 while it is tried.",
    ("destination",),
)
DISK_FREE = Gauge("lentigo_storage_free_bytes", "Free space of the home's disk.")
DISK_TOTAL = Gauge("lentigo_storage_total_bytes", "Size of the home's disk.")
DISK_RESERVE = Gauge(
    "lentigo_storage_reserve_bytes", "Free space under which instances are refused with A700."
)
DISK_LOW = Gauge(
    "lentigo_storage_low_watermark_bytes",
    "Free space under which a warning is raised and retention runs at once.",
)
CERTIFICATE = Gauge(
    "lentigo_certificate_expiry_days",
    "Days until a certificate, ours or of a CA that we trust, runs out; negative when it has.",
    ("use",),
)
AUDIT_LAG = Gauge(
    "lentigo_audit_lag_entries",
    "Entries of the audit trail that a sink does not have yet.",
    ("sink",),
)
AUDIT_FAILING = Gauge(
    "lentigo_audit_failing_seconds",
    "How long a sink of the audit trail has not taken anything; 0 while it does.",
    ("sink",),
)
NOTICES = Gauge(
    "lentigo_notices_waiting", "Events that a receiver outside has not taken yet.", ("channel",)
)
DRIFT_PSI = Gauge(
    "lentigo_drift_psi",
    "Population stability index of a model's newest answers against its reference.",
    ("source", "analysis", "measure"),
)
DRIFTING = Gauge(
    "lentigo_drifting",
    "1 while the answers of a model for a source have moved away from the reference.",
    ("source", "analysis", "measure"),
)
SILENT = Gauge(
    "lentigo_source_silent",
    "1 while a source is silent for longer than its own rhythm explains.",
    ("source",),
)
LAST_STUDY = Gauge(
    "lentigo_source_last_study_age_seconds", "Time since the newest study of a source.", ("source",)
)
SERVICE_MARK = Gauge(
    "lentigo_service_mark_age_seconds",
    "Age of the mark that a service of this host leaves while it turns.",
    ("service",),
)
OBSERVER_LAG = Gauge(
    "lentigo_observer_lag_rows", "Lines of the timeline that have not been counted yet."
)

GAUGES = (
    STUDIES,
    HELD,
    OLDEST,
    QUEUED,
    RUNNING,
    PENDING,
    BREAKER,
    DISK_FREE,
    DISK_TOTAL,
    DISK_RESERVE,
    DISK_LOW,
    CERTIFICATE,
    AUDIT_LAG,
    AUDIT_FAILING,
    NOTICES,
    DRIFT_PSI,
    DRIFTING,
    SILENT,
    LAST_STUDY,
    SERVICE_MARK,
    OBSERVER_LAG,
)
"""Everything that is asked at a scrape."""
