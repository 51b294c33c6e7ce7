"""The self-test over REST: send a drawn study, then ask how far it has come."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import OPERATOR, VIEWER, CheckedCall, actor_of, require
from gateway.dashboard.pages.selftest import begin_self_test
from gateway.dashboard.site import RowId, Use
from gateway.errors import SelfTestFailed
from gateway.observation.selftest import Report, report_on

router = APIRouter(prefix="/api/self-test", tags=["self-test"])


class SelfTestBody(BaseModel):
    """How a self-test is meant."""

    model_config = ConfigDict(extra="forbid")

    deliver: bool = Field(
        default=False, description="Send its results to the destinations, too; they stay there."
    )


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
def begin(request: Request, use: Use, body: SelfTestBody | None = None) -> JSONResponse:
    """Send a drawn study through the listener of this host; its results stay here if not told."""
    is_delivered = body is not None and body.deliver
    try:
        report = begin_self_test(use, actor_of(request), is_delivered=is_delivered)
    except SelfTestFailed as exc:
        raise HTTPException(503, str(exc)) from exc
    return JSONResponse(_said(report), 202)


@router.get("/{study}", dependencies=[require(VIEWER)])
def progress(use: Use, study: RowId) -> JSONResponse:
    """Say how far the self-test of this number has come, with the seconds of each stage."""
    found = use.status.numbered(study)
    if found is None:
        raise HTTPException(404, "No such study.")
    return JSONResponse(_said(report_on(use.engine, found.study_instance_uid)))
