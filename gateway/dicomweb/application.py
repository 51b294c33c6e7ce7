"""Puts the DICOMweb services into the application that serves the admin page."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Engine
from starlette.responses import Response

from gateway.dicomweb import retrieve, workitems
from gateway.dicomweb import store as stow
from gateway.dicomweb.door import Door
from gateway.dicomweb.reception import Intake as StowIntake
from gateway.dicomweb.settings import DicomwebSettings
from gateway.errors import WebRequestRefused
from gateway.listener.filing import InstanceFiler
from gateway.retention.door import open_spool, quota_desk
from gateway.settings import CompletenessSettings, StoreSettings
from gateway.store.intake.receiving import Intake
from gateway.store.people.accounts import Accounts
from gateway.store.reading.retrieval import Retrieval
from gateway.store.work.cancel import CancelDesk
from gateway.store.work.ledger import WorkLedger
from gateway.store.work.worklist import Worklist


def install(app: FastAPI, store: StoreSettings, engine: Engine, accounts: Accounts) -> Door:
    """Add the services to ``app``; return the door in front of them."""
    settings = DicomwebSettings()
    # Spool and reserve are the listener's: one disk, one rule.
    spool = open_spool(store)
    record = Intake(engine, CompletenessSettings())
    filer = InstanceFiler(record, spool, quota_desk(engine).admit)
    app.state.stow = stow.StowDesk(
        intake=StowIntake(filer=filer, spool=spool, record=record),
        settings=settings,
    )
    app.state.worklist = workitems.WorklistDesk(
        worklist=Worklist(engine),
        ledger=WorkLedger(engine),
        cancels=CancelDesk(engine),
        accounts=accounts,
        settings=settings,
    )
    app.state.retrieve = retrieve.RetrieveDesk(
        retrieval=Retrieval(engine, store.spool_folder, store.results_folder), accounts=accounts
    )
    app.include_router(stow.router)
    app.include_router(retrieve.router)
    app.include_router(workitems.router)
    app.add_exception_handler(WebRequestRefused, _refused)
    return Door(settings, accounts, engine)


def _refused(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, WebRequestRefused)
    headers = {"warning": f"299 Lentigo: {exc}"}
    if exc.status_code == 503:
        headers["retry-after"] = "10"
    if exc.status_code in (408, 413):
        headers["connection"] = "close"
    return JSONResponse({"detail": str(exc)}, exc.status_code, headers)
