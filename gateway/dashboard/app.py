"""Builds the admin page from its parts, and serves it."""

from __future__ import annotations

import logging
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydicom.uid import UID
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import wording
from gateway.dashboard import api, pages, site
from gateway.dashboard.api import documents
from gateway.dashboard.board import OverviewBoard
from gateway.dashboard.identity import auth
from gateway.dashboard.identity.auth import Gate
from gateway.dashboard.identity.openid import OpenidLogin, check_settings
from gateway.dashboard.identity.settings import OpenidSettings
from gateway.dashboard.live import LiveFeed
from gateway.dashboard.pages.orders import ORDER_WORDS, said_words
from gateway.dashboard.pages.reviews import shown_identity
from gateway.dashboard.plots import seconds_words
from gateway.dashboard.shelf import Shelf, is_large
from gateway.delivery.routes import Route, parse_routes
from gateway.dicomweb import application as dicomweb
from gateway.documents import document_desk
from gateway.errors import OrderRefused, RecordUnavailable, SettingsError
from gateway.host.pauses import keep_pauses_short
from gateway.settings import (
    CompletenessSettings,
    DashboardSettings,
    DeliverySettings,
    StoreSettings,
)
from gateway.store.engine import open_engine
from gateway.store.intake.quarantine import QuarantineDesk
from gateway.store.people.accounts import Accounts
from gateway.store.people.orders import OrderDesk
from gateway.store.people.pending_logins import PendingLogins
from gateway.store.people.tokens import Tokens
from gateway.store.reading.history import HistoryReader
from gateway.store.reading.overview import OverviewReader
from gateway.store.reading.status import StatusReader

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_SHUTDOWN_S = 5
# The short form of the answer to "did the PACS get it?".
_ARRIVALS = {
    "yes": "✓ yes",
    "folder": "folder only",
    "partly": "⚠ partly",
    "no": "✕ no",
    "pending": "not yet",
}


def create_app(store: StoreSettings, dashboard: DashboardSettings, engine: Engine) -> FastAPI:
    """Return the admin page as an ASGI application."""
    accounts, history = Accounts(engine), HistoryReader(engine)
    feed = LiveFeed(history)
    status = StatusReader(engine, store.results_folder)
    shelf = Shelf(lambda: is_large(*status.size()))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await feed.aclose()
        shelf.close()

    app = FastAPI(
        title="Lentigo",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # Cookies know no port: two instances on one host must not share a name.
    app.state.cookie = f"lentigo_{dashboard.port}"
    app.state.services = site.Services(
        engine=engine,
        store=store,
        settings=dashboard,
        accounts=accounts,
        status=status,
        history=history,
        board=OverviewBoard(OverviewReader(engine), shelf),
        shelf=shelf,
        orders=OrderDesk(engine, _routes),
        quarantine=QuarantineDesk(engine, window_s=CompletenessSettings().quiet_window_s),
        feed=feed,
        templates=_templates(),
        navigation=_navigation(),
    )
    openid = OpenidSettings()
    check_settings(openid)
    app.state.openid = OpenidLogin(openid, PendingLogins(engine))
    app.state.documents = document_desk(store, engine)
    door = dicomweb.install(app, store, engine, accounts)
    app.include_router(documents.router)
    for router in (*pages.ROUTERS, *api.ROUTERS):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"), name="static")
    app.add_exception_handler(HTTPException, _show_http_error)
    app.add_exception_handler(RequestValidationError, _show_wrong_request)
    app.add_exception_handler(OrderRefused, _show_refused_order)
    app.add_exception_handler(RecordUnavailable, _show_outage)
    app.add_exception_handler(Exception, _show_defect)
    app.add_middleware(
        Gate, accounts=accounts, tokens=Tokens(engine), cookie=app.state.cookie, door=door
    )
    app.add_middleware(AccessLog)
    return app


def _routes() -> tuple[Route, ...]:
    """Return the destinations in force."""
    return tuple(parse_routes(DeliverySettings().destination))


def _navigation() -> tuple[tuple[str, str], ...]:
    """Return the pages in the bar that there are."""
    served = {getattr(route, "path", "") for router in pages.ROUTERS for route in router.routes}
    return tuple((path, title) for path, title in site.NAVIGATION if path in served)


def _templates() -> Jinja2Templates:
    templates = Jinja2Templates(_FOLDER / "templates")
    templates.env.trim_blocks = templates.env.lstrip_blocks = True
    templates.env.globals |= {"arrivals": _ARRIVALS, "order_words": ORDER_WORDS}
    templates.env.globals["shown_identity"] = shown_identity
    templates.env.filters["order_said"] = said_words
    templates.env.filters |= {
        "action": wording.action_words,
        "answer": wording.delivery_answer,
        "details": wording.detail_words,
        "duration": wording.duration_words,
        "size": wording.size_words,
        "findings": wording.findings,
        "item_words": wording.item_words,
        "local_time": wording.local_time,
        "lapse": seconds_words,
        "iso": lambda moment: moment.isoformat(timespec="milliseconds"),
        "short_uid": short_uid,
        "uid_name": uid_name,
    }
    return templates


def short_uid(uid: str, characters: int = 18) -> str:
    """Return the end of a long UID: its beginning is the same for all of one maker.

    Examples
    --------
    >>> short_uid("1.2.3"), short_uid("2.25.329800735698586629295641978511506172918")
    ('1.2.3', '…978511506172918')
    """
    if len(uid) <= characters:
        return uid
    return f"…{uid[-(characters - 3) :].lstrip('.')}"


def uid_name(uid: str) -> str:
    """Return the name of a well-known UID (PS3.6 Annex A), else the UID itself.

    Examples
    --------
    >>> uid_name("1.2.840.10008.1.2.4.50")
    'JPEG Baseline (Process 1)'
    """
    return UID(uid).name


# -- errors -----------------------------------------------------------------------------------


def _error(request: Request, status_code: int, message: str) -> Response:
    path = request.url.path
    if path.startswith(("/api/", "/dicomweb/")) or path in {"/live", "/healthz"}:
        return JSONResponse({"detail": message}, status_code)
    request.state.session = getattr(request.state, "session", None)
    return site.page(request, "error.html", {"message": message, "code": status_code}, status_code)


def _show_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    message = exc.detail if exc.status_code != 404 or exc.detail != "Not Found" else "No such page."
    return _error(request, exc.status_code, message)


def _show_wrong_request(request: Request, _exc: Exception) -> Response:
    return _error(request, 422, "The address or the form holds a value that cannot be used.")


def _show_refused_order(request: Request, exc: Exception) -> Response:
    return _error(request, 409, f"Not done: {exc}.")


def _show_outage(request: Request, _exc: Exception) -> Response:
    return _error(request, 503, "The record does not answer. Nothing is lost; try again.")


def _show_defect(request: Request, _exc: Exception) -> Response:
    """Answer in place of a page that failed; the failure itself is raised again, and logged."""
    answer = _error(request, 500, "This page failed.")
    answer.headers.update({**auth.HEADERS, "cache-control": "no-store"})
    return answer


# -- serving ----------------------------------------------------------------------------------


class AccessLog:
    """ASGI middleware: one line a request, with the route in the place of the address.

    Addresses hold UIDs, so they are not logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            route = getattr(scope.get("route"), "path", "")
            extra: dict[str, Any] = {
                "action": "http.request",
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_s": round(time.monotonic() - started, 4),
            }
            # Probes and pictures of the page itself would drown the rest.
            is_routine = status < 400 and (route == "/healthz" or not route)
            log.log(logging.DEBUG if is_routine else logging.INFO, "request answered", extra=extra)


class _Server(uvicorn.Server):
    """Ends open event streams as soon as it is told to stop: they would hold it up."""

    def __init__(self, config: uvicorn.Config, feed: LiveFeed) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at SIGTERM and SIGINT."""
        self._feed.close()
        super().handle_exit(sig, frame)


def _load_tls(config: uvicorn.Config) -> None:
    """Read certificate and key now, so that a wrong file is said and not shown as a traceback."""
    try:
        config.load()
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            "LENTIGO_DASHBOARD_TLS_CERTIFICATE or LENTIGO_DASHBOARD_TLS_KEY cannot be used "
            f"({type(exc).__name__})"
        ) from exc
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2


def warm_up(app: FastAPI) -> None:
    """Do beforehand what the first requests would wait for; once, in the process that serves."""
    app.openapi()
    templates = app.state.services.templates.env
    for name in templates.list_templates():
        templates.get_template(name)  # compiled now, kept for all that follow
    keep_pauses_short()


def serve(store: StoreSettings, dashboard: DashboardSettings) -> None:
    """Serve the admin page until SIGTERM or SIGINT."""
    engine = open_engine(store.record_url)
    app = create_app(store, dashboard, engine)
    warm_up(app)
    config = uvicorn.Config(
        app,
        host=dashboard.bind,
        port=dashboard.port,
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=dashboard.tls_certificate,
        ssl_keyfile=dashboard.tls_key,
    )
    if config.ssl_certfile:
        _load_tls(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes the signals while it runs, and raises them again after a clean stop.
        signal.signal(number, lambda *_: None)
    try:
        _Server(config, app.state.services.feed).run()
    finally:
        engine.dispose()
