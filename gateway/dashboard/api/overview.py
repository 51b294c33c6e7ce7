"""Figures of the overview and the queues over REST."""

from __future__ import annotations

import datetime as dt

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.pages.overview import WindowName, totals
from gateway.dashboard.site import Use
from gateway.store.reading.overview import FunnelStep, StageHistory, StageLoad
from gateway.store.reading.queues import QueueReader, Queues

router = APIRouter(prefix="/api", tags=["overview"], dependencies=[require(VIEWER)])


class Overview(BaseModel):
    """What is where, and how fast it went."""

    received_today: int
    known: int
    in_flight: int
    completed: int
    failed: int
    refused: int
    loads: list[StageLoad]
    funnel: list[FunnelStep]
    histories: list[StageHistory]
    counted_at: dt.datetime
    """When funnel and histories were counted; a large record's are kept for a few minutes."""


@router.get("/overview")
def get_overview(use: Use, window: WindowName = "24h") -> Overview:
    """Return what is in each stage now, and funnel, throughput and p95 over a window."""
    kept = use.board.figures(window, must_have=True)
    assert kept is not None  # what is waited for
    return Overview(
        received_today=use.board.received_today(),
        loads=use.board.loads(),
        funnel=list(kept.value.funnel),
        histories=list(kept.value.histories),
        counted_at=kept.read_at,
        **totals(use),
    )


@router.get("/queues")
def get_queues(use: Use) -> Queues:
    """Return the queues, the workers, what is next, and the destinations."""
    return QueueReader(use.engine).read()
