"""The start page: what is where, since when, and how fast it goes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.board import Figures
from gateway.dashboard.plots import plot_of
from gateway.dashboard.site import Services, Use, page
from gateway.home import running_instance
from gateway.settings import ListenerSettings
from gateway.store import states
from gateway.store.reading.overview import WINDOWS
from gateway.store.reading.troubles import troubles

# What is longer in a stage than this wants to be looked at.
LATE_AFTER_S = {
    "receiving": 900.0,
    "routing": 60.0,
    "queued": 900.0,
    "analysing": 900.0,
    "delivering": 900.0,
    "held": 86400.0,
}

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])

WindowName = Annotated[Literal["1h", "24h", "7d"], Query(description="Span up to now.")]


def totals(use: Services) -> dict[str, int]:
    """Return how many studies are known, in flight, completed, failed and refused."""
    counts = {each.state: each.count for each in use.status.counts()}
    under_way = sum(n for state, n in counts.items() if state not in states.FINAL_STATES)
    return {
        "known": sum(counts.values()),
        "in_flight": under_way,
        "completed": counts[states.COMPLETED],
        "failed": counts[states.FAILED],
        "refused": counts[states.REFUSED],
    }


@router.get("/")
def show_overview(request: Request, use: Use, window: WindowName = "24h") -> HTMLResponse:
    """Show the overview."""
    mark = use.history.marks([])[None]  # before the reads, so that no change is missed
    kept = use.board.figures(window)
    return page(
        request,
        "overview.html",
        {
            # Without a mark the page fetches itself again, for the figures that are being read.
            "mark": mark if kept is not None and kept.is_fresh else "",
            "totals": totals(use),
            "listener": _listener(use),
            "troubles": troubles(use.engine),
            "received_today": use.board.received_today(),
            "loads": use.board.loads(),
            "late_after_s": LATE_AFTER_S,
            "past": _past(kept.value) if kept is not None else None,
            "is_pending": kept is None or not kept.is_fresh,
            "read_at": kept.read_at if kept is not None else None,
            "window": window,
            "windows": list(WINDOWS),
        },
    )


def _listener(use: Services) -> tuple[str, int]:
    """Return AE title and port of this host's listener, for whoever sends the first study."""
    instance, settings = running_instance(use.home), ListenerSettings()
    if instance is None:
        return settings.ae_title, settings.port
    return instance.ae_title, instance.dicom_port


def _past(figures: Figures) -> dict[str, Any]:
    """Return the figures of a window as they are drawn."""
    received = figures.funnel[0].count
    return {
        "funnel": [
            {
                "step": each.step,
                "count": each.count,
                "share": each.count / received if received else 0.0,
            }
            for each in figures.funnel
        ],
        "histories": [(each, plot_of(each)) for each in figures.histories],
    }
