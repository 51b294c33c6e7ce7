"""The self-test over REST: send a drawn study, then ask how far it has come."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse

from gateway.dashboard.access import OPERATOR, VIEWER, CheckedCall, require
from gateway.dashboard.site import RowId, Use
from gateway.errors import SelfTestFailed
from gateway.observation.selftest import Report, listener_of, report_on, send_study

router = APIRouter(prefix="/api/self-test", tags=["self-test"])


def _said(report: Report) -> dict[str, object]:
    return {
        "study": report.study,
        "state": report.state,
        "reason": report.reason,
        "is_over": report.is_over,
        "has_passed": report.has_passed,
        "seconds": {stage.name: stage.seconds for stage in report.stages},
    }


@router.post("", dependencies=[require(OPERATOR), CheckedCall], status_code=202)
def begin(use: Use) -> JSONResponse:
    """Send a drawn study through the listener of this host; its results stay here."""
    try:
        uid = send_study(listener_of(use.home), is_delivered=False)
    except SelfTestFailed as exc:
        raise HTTPException(503, str(exc)) from exc
    return JSONResponse(_said(report_on(use.engine, uid)), 202)


@router.get("/{study}", dependencies=[require(VIEWER)])
def progress(use: Use, study: RowId) -> JSONResponse:
    """Say how far the self-test of this number has come, with the seconds of each stage."""
    found = use.status.numbered(study)
    if found is None:
        raise HTTPException(404, "No such study.")
    return JSONResponse(_said(report_on(use.engine, found.study_instance_uid)))
