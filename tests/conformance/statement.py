"""Which table stands where in ``CONFORMANCE.md``."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance import parameters, services, web
from tests.conformance.markdown import fill
from tests.conformance.objects import OBJECT_TABLES

STATEMENT = services.ROOT / "CONFORMANCE.md"

TABLES: dict[str, Callable[[], str]] = {
    "network services": services.network_services,
    "web services": web.web_services,
    "identification": services.identification,
    "association rejections": services.association_rejections,
    "accepted contexts": services.accepted_contexts,
    "transfer syntaxes": services.transfer_syntaxes,
    "store statuses": services.store_statuses,
    "sent statuses": services.sent_statuses,
    "commitment failures": services.commitment_failures,
    "web resources": web.web_resources,
    "audit events": services.audit_events,
    "character sets": services.character_sets,
    "parameters": parameters.parameters,
    **OBJECT_TABLES,
}


def generate(text: str) -> str:
    """Return the statement with every table made anew."""
    return fill(text, TABLES)
