"""Values that pass between the record and its users; plain data, no database."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from gateway.rules.plan import Plan


@dataclass(frozen=True, kw_only=True)
class InstanceRow:
    """One accepted instance of a generation."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    path: str
    """Relative to the spool."""
    size_bytes: int
    tracking_uid: str = ""
    """Tracking UID; empty where the source does not track the lesion."""
    tracking_id_sha256: str = ""
    """Digest of Tracking ID."""
    body_site: str = ""
    """Scheme, code value and laterality of the anatomic region."""
    acquired_at: str = ""
    """``YYYYMMDDHHMMSS`` by the device's clock, of the study where the image has no date."""
    has_earlier: bool = False
    """Whether the record holds an earlier image of the same patient at the body site."""


@dataclass(frozen=True, kw_only=True)
class EarlierImage:
    """An image that the record holds of the same lesion, or of its site, at an earlier time."""

    instance: InstanceRow
    study_instance_uid: str
    linkage: str
    """``tracking_uid``, ``tracking_id`` or ``body_site``; the last makes a candidate only."""


@dataclass(frozen=True, kw_only=True)
class GenerationRow:
    """One generation and all instances that belong to it, its predecessors' included."""

    id: int
    study_id: int
    number: int
    closed_at: dt.datetime
    instances: tuple[InstanceRow, ...]
    attempts: int = 0
    """Attempts at routing that failed."""
    plan: Plan = field(default_factory=Plan)
    """What the rules decided for it."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """One analysis that a generation is to get."""

    analysis: str
    model_digest: str
    reason: str
    """Why the routing chose it."""
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A work item that this worker holds until ``expires_at``."""

    work_item_id: int
    token: str
    step: str
    """``analyse`` or ``deliver``."""
    analysis: str
    model_digest: str
    attempt: int
    """1 for the first attempt at this step."""
    created_at: dt.datetime
    """When the work item was made: the time that results carry, the same on every re-run."""
    expires_at: dt.datetime
    generation: GenerationRow


@dataclass(frozen=True, kw_only=True)
class NewObject:
    """One encoded result object, already on disk."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    """Relative to the results folder."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeliveryRow:
    """One object on its way to one destination."""

    id: int
    destination: str
    state: str
    """PENDING, STORED, CONFIRMED or REFUSED."""
    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    path: str
    """Relative to the results folder."""
    sha256: str
    """Digest of the file, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class PriorReport:
    """The report of an earlier generation, which the new one supersedes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Work that nobody holds: what the broker should be told."""

    kind: str
    """``route``, ``analyse`` or ``deliver``."""
    id: int
    """Generation id for ``route``, else work item id."""
    analysis: str = field(default="")
    priority: int = field(default=0)
