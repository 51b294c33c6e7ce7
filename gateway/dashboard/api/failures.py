"""Failures and the quarantine over REST."""

from __future__ import annotations

import datetime as dt

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import OPERATOR, VIEWER, CheckedCall, actor_of, require
from gateway.dashboard.pages.failures import CauseName
from gateway.dashboard.site import RowId, Use
from gateway.store.people.failures import MAX_NOTE_CHARACTERS, Cause, FailureDesk, Quarantined
from gateway.store.people.orders import Order, OrderResult

router = APIRouter(prefix="/api", tags=["failures"], dependencies=[require(VIEWER)])

_MAX_SNOOZE_HOURS = 90 * 24


class CareBody(BaseModel):
    """Who looks after a cause."""

    model_config = ConfigDict(extra="forbid")

    assigned_to: str = Field(default="", max_length=64, description="An account; empty: nobody.")
    snooze_hours: int = Field(default=0, ge=0, le=_MAX_SNOOZE_HOURS, description="0: not snoozed.")
    note: str = Field(default="", max_length=MAX_NOTE_CHARACTERS, description="No patient data.")


class ReplayBody(BaseModel):
    """Try the studies of a cause again."""

    model_config = ConfigDict(extra="forbid")

    expected: int = Field(ge=0, le=2**31 - 1, description="If more failed by now, nothing is done.")


class ReleaseBody(BaseModel):
    """Let an instance out of quarantine."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, description="Why these bytes are right.")


class Released(BaseModel):
    """The study that is analysed again."""

    study: int


@router.get("/failures")
def list_causes(use: Use) -> list[Cause]:
    """Return the causes of what stands as failed, the newest failure first."""
    return FailureDesk(use.engine).causes()


@router.get("/failures/{cause}/studies")
def list_studies_of(use: Use, cause: CauseName) -> list[int]:
    """Return the numbers of the studies that failed by a cause and can be tried again."""
    return FailureDesk(use.engine).studies_of(cause)


@router.post("/failures/{cause}/care", dependencies=[require(OPERATOR), CheckedCall])
def look_after(request: Request, use: Use, cause: CauseName, body: CareBody) -> Cause:
    """Assign, snooze, keep a note; what is left out is taken back."""
    until = None
    if body.snooze_hours:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=body.snooze_hours)
    desk = FailureDesk(use.engine)
    desk.look_after(
        cause,
        actor=actor_of(request),
        assigned_to=body.assigned_to.strip(),
        snoozed_until=until,
        note=body.note.strip(),
    )
    found = next((each for each in desk.causes() if each.cause == cause), None)
    if found is None:
        raise HTTPException(409, "Nothing fails by this cause any more.")
    return found


@router.post("/failures/{cause}/replay", dependencies=[require(OPERATOR), CheckedCall])
def replay(request: Request, use: Use, cause: CauseName, body: ReplayBody) -> OrderResult:
    """Try all studies again that failed by a cause."""
    studies = FailureDesk(use.engine).studies_of(cause)
    if len(studies) > body.expected:
        raise HTTPException(409, f"{len(studies)} studies failed by this cause by now; look again.")
    return use.orders.give(Order.RETRY, studies, actor=actor_of(request))


@router.get("/quarantine")
def list_quarantined(use: Use) -> list[Quarantined]:
    """Return the instances that are kept apart, the newest first."""
    return FailureDesk(use.engine).quarantined()


@router.post("/quarantine/{instance_id}/release", dependencies=[require(OPERATOR), CheckedCall])
def release(request: Request, use: Use, instance_id: RowId, body: ReleaseBody) -> Released:
    """Analyse the study with this instance in the place of its namesake."""
    reason = body.reason.replace("\0", "")
    study = use.quarantine.release(instance_id, actor=actor_of(request), reason=reason)
    return Released(study=study)
