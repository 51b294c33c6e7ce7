"""Queues and workers: what waits for whom."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.site import Use, page
from gateway.store.reading.queues import QueueReader

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


@router.get("/queues")
def show_queues(request: Request, use: Use) -> HTMLResponse:
    """Show the queues, the workers, what is next, and the destinations."""
    mark = use.history.marks([])[None]
    return page(request, "queues.html", {"mark": mark, "found": QueueReader(use.engine).read()})
