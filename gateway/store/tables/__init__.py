"""Tables of the record; one module a topic. Times are UTC."""

from gateway.store.tables.base import Base, UtcDateTime
from gateway.store.tables.people import Account, AuditEntry, Installation, WebSession
from gateway.store.tables.studies import Document, Generation, Identity, Instance, Refusal, Study
from gateway.store.tables.work import Delivery, Event, ResultObject, WorkItem

__all__ = [
    "Account",
    "AuditEntry",
    "Base",
    "Delivery",
    "Document",
    "Event",
    "Generation",
    "Identity",
    "Installation",
    "Instance",
    "Refusal",
    "ResultObject",
    "Study",
    "UtcDateTime",
    "WebSession",
    "WorkItem",
]
