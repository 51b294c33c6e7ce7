"""The audit trail: looked through, checked, given out."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from gateway.audit.recorder import log_file
from gateway.audit.settings import AuditSettings
from gateway.audit.trail_file import anchors_in
from gateway.dashboard.access import ADMIN, Form, actor_of, require
from gateway.dashboard.site import Services, Use, page
from gateway.store import audit
from gateway.store.audit import Trail
from gateway.store.engine import utc_now, writing
from gateway.store.people.audit_search import Wanted, search, sinks

PAGE_SIZE = 100

router = APIRouter(include_in_schema=False, dependencies=[require(ADMIN)])

Text = Annotated[str, Query(max_length=64)]
Moment = Annotated[str, Query(max_length=40)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def wanted_of(
    actor: str, action: str, since: str, until: str, before: int | None, limit: int
) -> Wanted:
    """Return the search that an address asks for; 422 for what is no moment."""
    return Wanted(
        actor=actor.strip(),
        action=action.strip(),
        since=moment_of(since),
        until=moment_of(until),
        before=before,
        limit=limit,
    )


def moment_of(text: str) -> dt.datetime | None:
    """Return a moment in UTC; None where none is given, 422 where it makes no sense."""
    if not text.strip():
        return None
    try:
        moment = dt.datetime.fromisoformat(text.strip())
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
        return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as exc:
        raise HTTPException(422, "A moment is written 2026-03-01 or 2026-03-01T08:00Z.") from exc


def verify(use: Services, actor: str) -> dict[str, Any]:
    """Follow the chain from end to end, note that somebody did, and return what was found."""
    path = log_file(use.store, AuditSettings())
    anchors = anchors_in(path)
    found = Trail(use.engine).verify(anchors)
    faults = list(found.faults)
    with writing(use.engine) as connection:
        audit.append(
            connection,
            utc_now(),
            actor,
            "audit.tampered" if faults else "audit.verified",
            faults=len(faults),
            reason=faults[:1],
        )
    return {
        "entries": found.entries,
        "head_sha256": found.head_sha256,
        "anchors": len(anchors),
        "faults": faults,
    }


def export(use: Services, wanted: Wanted, actor: str) -> Iterator[str]:
    """Yield entries as JSON lines, and note at the end how many were given out."""
    count = 0
    for entry in Trail(use.engine).entries(since=wanted.since, until=wanted.until):
        count += 1
        yield json.dumps({**asdict(entry), "at": entry.at.isoformat()}) + "\n"
    with writing(use.engine) as connection:
        audit.append(connection, utc_now(), actor, "audit.exported", entries=count)


def exported(use: Services, wanted: Wanted, actor: str) -> Response:
    """Return the answer that holds an export."""
    return StreamingResponse(
        export(use, wanted, actor),
        media_type="application/x-ndjson",
        headers={"content-disposition": 'attachment; filename="lentigo-audit.jsonl"'},
    )


def _page(
    request: Request,
    use: Services,
    wanted: Wanted,
    verification: dict[str, Any] | None = None,
) -> HTMLResponse:
    found = search(use.engine, wanted)
    shown = found[:PAGE_SIZE]
    terms = {
        "actor": wanted.actor,
        "action": wanted.action,
        "since": wanted.since.isoformat() if wanted.since else "",
        "until": wanted.until.isoformat() if wanted.until else "",
    }
    query = {name: value for name, value in terms.items() if value}
    more = {**query, "before": shown[-1].id} if len(found) > PAGE_SIZE else None
    values = {
        "entries": shown,
        "terms": terms,
        "head": Trail(use.engine).head(),
        "sinks": sinks(use.engine),
        "verification": verification,
        "older_address": f"/audit?{urlencode(more)}" if more else "",
    }
    return page(request, "audit.html", values)


@router.get("/audit")
def show_audit(
    request: Request,
    use: Use,
    actor: Text = "",
    action: Text = "",
    since: Moment = "",
    until: Moment = "",
    before: Before = None,
) -> HTMLResponse:
    """Show entries of the trail, the newest first."""
    return _page(request, use, wanted_of(actor, action, since, until, before, PAGE_SIZE + 1))


@router.post("/audit/verify")
def verify_trail(request: Request, use: Use, _form: Form) -> HTMLResponse:
    """Check the chain."""
    return _page(request, use, Wanted(limit=PAGE_SIZE + 1), verify(use, actor_of(request)))


@router.post("/audit/export")
def export_trail(request: Request, use: Use, form: Form) -> Response:
    """Give the trail out as JSON lines."""
    wanted = Wanted(
        since=moment_of(str(form.get("since", ""))), until=moment_of(str(form.get("until", "")))
    )
    return exported(use, wanted, actor_of(request))
