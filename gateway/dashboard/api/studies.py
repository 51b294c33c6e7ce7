"""Studies over REST."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.pages.studies import PAGE_SIZE, BeforeId, UidPart, study_filter
from gateway.dashboard.pages.study import study_of
from gateway.dashboard.site import Use

router = APIRouter(prefix="/api/studies", tags=["studies"], dependencies=[require(VIEWER)])


@router.get("")
def list_studies(
    use: Use,
    state: str = "",
    uid: UidPart = "",
    before: BeforeId = None,
    limit: Annotated[int, Query(ge=1, le=500)] = PAGE_SIZE,
) -> Response:
    """Return one page of studies as ``lentigo status --json`` does; ``Link`` names the next."""
    found = use.status.studies(study_filter(state, uid, before, limit + 1))
    headers = {}
    if len(found) > limit:
        values = {"state": state, "uid": uid, "limit": limit, "before": found[limit - 1].id}
        query = urlencode({name: value for name, value in values.items() if value})
        headers["link"] = f'</api/studies?{query}>; rel="next"'  # RFC 8288
    return JSONResponse([study.as_json() for study in found[:limit]], headers=headers)


@router.get("/{uid}")
def getstudy_of(use: Use, uid: str) -> Response:
    """Return one study as ``lentigo status --json`` does."""
    return JSONResponse(study_of(use, uid).as_json())
