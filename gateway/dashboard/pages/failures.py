"""Failures by cause: who looks after them, what is tried again, what is kept apart."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.dashboard.access import OPERATOR, VIEWER, Form, actor_of, require
from gateway.dashboard.site import RowId, Use, page
from gateway.errors import OrderRefused
from gateway.store.people.failures import FailureDesk
from gateway.store.people.orders import Order

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])

CauseName = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
SNOOZES = {"1": "1 hour", "8": "8 hours", "24": "1 day", "168": "1 week"}


@router.get("/failures")
def show_failures(request: Request, use: Use, snoozed: str = "", said: str = "") -> HTMLResponse:
    """Show the causes and the quarantine."""
    mark = use.history.marks([])[None]
    desk = FailureDesk(use.engine)
    causes = desk.causes()
    with_snoozed = snoozed == "yes"
    return page(
        request,
        "failures.html",
        {
            "mark": mark,
            "causes": [c for c in causes if with_snoozed or c.care.snoozed_until is None],
            "hidden": sum(c.care.snoozed_until is not None for c in causes),
            "with_snoozed": with_snoozed,
            "quarantined": desk.quarantined(),
            "snoozes": SNOOZES,
            "said": said,
        },
    )


@router.post("/failures/{cause}/care", dependencies=[require(OPERATOR)])
def look_after(request: Request, use: Use, cause: CauseName, form: Form) -> Response:
    """Assign, snooze, keep a note."""
    hours = str(form.get("snooze", ""))
    until = None
    if hours:
        if hours not in SNOOZES:
            raise HTTPException(422, "There is no such time to snooze for.")
        until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=int(hours))
    try:
        FailureDesk(use.engine).look_after(
            cause,
            actor=actor_of(request),
            assigned_to=str(form.get("assigned_to", "")).strip(),
            snoozed_until=until,
            note=str(form.get("note", "")).strip(),
        )
    except OrderRefused as exc:
        raise HTTPException(409, f"Not done: {exc}.") from exc
    return RedirectResponse("/failures", 303)


@router.get("/failures/{cause}/replay")
def confirm_replay(request: Request, use: Use, cause: CauseName) -> HTMLResponse:
    """Show how many studies would be tried again."""
    studies = FailureDesk(use.engine).studies_of(cause)
    return page(request, "replay.html", {"cause": cause, "studies": studies})


@router.post("/failures/{cause}/replay", dependencies=[require(OPERATOR)])
def replay(request: Request, use: Use, cause: CauseName, form: Form) -> Response:
    """Try all studies again that failed by a cause."""
    studies = FailureDesk(use.engine).studies_of(cause)
    expected = str(form.get("expected", "0"))
    if len(studies) > (int(expected) if expected.isdigit() and len(expected) < 9 else 0):
        raise HTTPException(409, "More studies failed by this cause by now; look again.")
    came = use.orders.give(Order.RETRY, studies, actor=actor_of(request))
    return RedirectResponse(f"/failures?said=replayed-{came.done}", 303)


@router.get("/quarantine/{instance_id}/release")
def confirm_release(request: Request, use: Use, instance_id: RowId) -> HTMLResponse:
    """Ask for the reason."""
    found = next((q for q in FailureDesk(use.engine).quarantined() if q.id == instance_id), None)
    if found is None:
        raise HTTPException(404, "This instance is not in quarantine.")
    return page(request, "release.html", {"instance": found})


@router.post("/quarantine/{instance_id}/release", dependencies=[require(OPERATOR)])
def release(request: Request, use: Use, instance_id: RowId, form: Form) -> Response:
    """Let an instance out of quarantine."""
    try:
        study_id = use.quarantine.release(
            instance_id, actor=actor_of(request), reason=str(form.get("reason", ""))[:500]
        )
    except OrderRefused as exc:
        raise HTTPException(409, f"Not done: {exc}.") from exc
    return RedirectResponse(f"/studies/{study_id}", 303)
