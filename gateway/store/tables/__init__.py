"""Tables of the record; one module a topic. Times are UTC."""

from gateway.store.tables.attention import FailureCare, SavedView
from gateway.store.tables.audit import AuditEntry, AuditSink, AuditState
from gateway.store.tables.base import Base, UtcDateTime
from gateway.store.tables.commitment import (
    CommitmentObject,
    CommitmentRequest,
    DeliveryFault,
    DestinationHealth,
    ReceivedCommitment,
)
from gateway.store.tables.observation import (
    DriftSeries,
    FollowedTable,
    Notice,
    SourceRhythm,
    Tally,
)
from gateway.store.tables.people import (
    Account,
    ApiToken,
    Installation,
    PendingLogin,
    Reveal,
    WebSession,
)
from gateway.store.tables.retention import RetentionHold
from gateway.store.tables.reviews import Review
from gateway.store.tables.rules import AssociationEnd, ClockMark, RuleVersion
from gateway.store.tables.studies import Document, Generation, Identity, Instance, Refusal, Study
from gateway.store.tables.work import Delivery, Event, ResultObject, WorkItem

__all__ = [
    "Account",
    "ApiToken",
    "AssociationEnd",
    "AuditEntry",
    "AuditSink",
    "AuditState",
    "Base",
    "ClockMark",
    "CommitmentObject",
    "CommitmentRequest",
    "Delivery",
    "DeliveryFault",
    "DestinationHealth",
    "Document",
    "DriftSeries",
    "Event",
    "FailureCare",
    "FollowedTable",
    "Generation",
    "Identity",
    "Installation",
    "Instance",
    "Notice",
    "PendingLogin",
    "ReceivedCommitment",
    "Refusal",
    "ResultObject",
    "RetentionHold",
    "Reveal",
    "Review",
    "RuleVersion",
    "SavedView",
    "SourceRhythm",
    "Study",
    "Tally",
    "UtcDateTime",
    "WebSession",
    "WorkItem",
]
