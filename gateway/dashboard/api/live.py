"""What changed: marks, the stream of them, and whether the page is well."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.identity import auth
from gateway.dashboard.pages.study import study_of
from gateway.dashboard.site import Use
from gateway.dashboard.study_query import UidPart

router = APIRouter(tags=["live"])


@router.get("/api/mark", dependencies=[require(VIEWER)])
def get_mark(use: Use, study: UidPart = "") -> Response:
    """Return the mark of the record, or of one study, for pages without an event stream."""
    study_id = study_of(use, study).id if study else None
    marks = use.history.marks([study_id] if study_id is not None else [])
    return JSONResponse({"mark": marks.get(study_id, "")})


@router.get("/live", dependencies=[require(VIEWER)], include_in_schema=False)
async def live(request: Request, use: Use, study: UidPart = "") -> Response:
    """Stream the mark of the record, or of one study, whenever it changes."""
    study_id = (await run_in_threadpool(study_of, use, study)).id if study else None
    token = auth.cookie_of(request.headers, request.app.state.cookie)

    def is_welcome() -> bool:
        return use.accounts.session(token) is not None

    stream: AsyncIterator[str] = use.feed.stream(study_id, is_welcome)
    return StreamingResponse(
        stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


@router.get("/healthz")
def health(use: Use) -> Response:
    """Answer 200 while the record answers."""
    use.history.marks([])
    return JSONResponse({"status": "ok"})
