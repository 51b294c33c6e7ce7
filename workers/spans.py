"""The spans of a worker's steps, in the trace of their generation; nothing while traces are off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gateway.observation.tracing import traced, tracer
from gateway.store.values import Claim
from gateway.store.work.ledger import WorkLedger

_SERVICE = "workers"


def route_span(ledger: WorkLedger, generation_id: int) -> AbstractContextManager[None]:
    """Trace the routing of a generation."""
    return _span(ledger, "route", {"lentigo.generation": generation_id}, generation_id)


def step_span(ledger: WorkLedger, claim: Claim) -> AbstractContextManager[None]:
    """Trace one attempt at a step of a work item."""
    attributes = {
        "lentigo.study": claim.generation.study_id,
        "lentigo.work_item": claim.work_item_id,
        "lentigo.analysis": claim.analysis,
        "lentigo.attempt": claim.attempt,
    }
    return _span(ledger, claim.step, attributes, claim.generation.id)


def _span(
    ledger: WorkLedger, name: str, attributes: Mapping[str, Any], generation_id: int
) -> AbstractContextManager[None]:
    if tracer(_SERVICE) is None:
        return nullcontext()
    return traced(_SERVICE, name, attributes, (ledger.installation_serial(), generation_id))
