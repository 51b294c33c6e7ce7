"""The door for documents of a site: ``POST /api/studies/{uid}/documents?name=...``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from gateway.documents import DocumentDesk
from gateway.errors import DocumentRefused, SpoolError, SpoolFull

router = APIRouter()

_INSUFFICIENT_STORAGE = 507


@router.post("/api/studies/{uid}/documents")
async def receive(
    request: Request, uid: str, name: Annotated[str, Query(max_length=200)]
) -> JSONResponse:
    """Keep a document; 201 when it is on disk for good, 200 when it was there already.

    The gate has checked the sender (``basic``) and the length.
    """
    found = request.app.state.documents
    assert isinstance(found, DocumentDesk)
    content = await request.body()
    try:
        registered = await run_in_threadpool(
            found.receive,
            uid=uid,
            name=name,
            stated_type=request.headers.get("content-type", ""),
            content=content,
            actor=request.state.actor,
        )
    except DocumentRefused as exc:
        raise HTTPException(exc.status_code, str(exc)) from exc
    except SpoolFull as exc:
        raise HTTPException(_INSUFFICIENT_STORAGE, "There is no room; try again later.") from exc
    except SpoolError as exc:
        raise HTTPException(503, "The spool does not answer; try again later.") from exc
    return JSONResponse(
        {
            "name": name,
            "sha256": registered.sha256,
            "revision": registered.revision,
            "is_new": registered.is_new,
            "generation": registered.generation,
            "waits_for_study": registered.generation is None,
        },
        201 if registered.is_new else 200,
    )
