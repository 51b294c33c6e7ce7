"""What every page and every REST call works with: the services, and the one way to fill a page."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy import Engine

from gateway.dashboard.board import OverviewBoard
from gateway.dashboard.live import LiveFeed
from gateway.dashboard.shelf import Shelf
from gateway.roles import Permission
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.intake.quarantine import QuarantineDesk
from gateway.store.people.accounts import Accounts
from gateway.store.people.orders import OrderDesk
from gateway.store.reading.history import HistoryReader
from gateway.store.reading.status import StatusReader

NAVIGATION = (
    ("/", "Overview"),
    ("/studies", "Studies"),
    ("/failures", "Failures"),
    ("/queues", "Queues"),
    ("/models", "Models"),
    ("/rules", "Rules"),
    ("/nodes", "Nodes"),
    ("/storage", "Storage"),
    ("/reviews", "Reviews"),
    ("/audit", "Audit"),
    ("/settings", "Settings"),
    ("/accounts", "Accounts"),
)
"""Pages in the bar, in order; those that the application serves are shown."""
_ADMINISTRATION = frozenset({"/rules", "/audit", "/settings", "/accounts"})


@dataclass(frozen=True, kw_only=True)
class Services:
    """What pages and calls work with."""

    engine: Engine
    store: StoreSettings
    settings: DashboardSettings
    accounts: Accounts
    status: StatusReader
    history: HistoryReader
    board: OverviewBoard
    shelf: Shelf
    orders: OrderDesk
    quarantine: QuarantineDesk
    feed: LiveFeed
    templates: Jinja2Templates
    navigation: tuple[tuple[str, str], ...]
    """(path, title) of the pages in the bar."""

    @property
    def home(self) -> Path:
        """The home folder."""
        return self.store.home

    @property
    def results_folder(self) -> Path:
        """Where result objects lie."""
        return self.store.results_folder


def services(request: Request) -> Services:
    """Return the services of the running application."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Use = Annotated[Services, Depends(services)]
RowId = Annotated[int, InPath(ge=1, le=2**31 - 1)]
"""A number of a row in an address: what an integer of the database holds."""


def _administers(request: Request) -> bool:
    session = request.state.session
    return session is not None and session.may(Permission.ADMINISTER)


def page(
    request: Request, name: str, values: dict[str, Any], status_code: int = 200
) -> HTMLResponse:
    """Fill a template.

    Every template has ``session``, ``now``, ``navigation`` and ``here`` (path of the page in the
    bar that it belongs to) beside ``values``.
    """
    use = services(request)
    path = request.url.path
    here = max(
        (
            each
            for each, _ in NAVIGATION
            if path == each or (each != "/" and path.startswith(each + "/"))
        ),
        key=len,
        default="",
    )
    session = request.state.session
    shared = {
        "session": session,
        "now": dt.datetime.now(dt.UTC),
        "navigation": [
            (path, title)
            for path, title in use.navigation
            if path not in _ADMINISTRATION or _administers(request)
        ],
        "here": here,
        "may_operate": session is not None and session.may(Permission.OPERATE),
    }
    return use.templates.TemplateResponse(
        request, name, {**shared, **values}, status_code=status_code
    )
