"""Studies over REST: lists, one study, what happened to it, orders."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import OPERATOR, VIEWER, CheckedCall, actor_of, require
from gateway.dashboard.pages.study import report_of, study_of
from gateway.dashboard.site import RowId, Use
from gateway.dashboard.study_query import StudyPageQuery, StudyQuery
from gateway.store.people.control import MAX_REASON_CHARACTERS
from gateway.store.people.orders import Match, Order, OrderResult

router = APIRouter(prefix="/api/studies", tags=["studies"], dependencies=[require(VIEWER)])

_MAX_LISTED = 1000


class Matching(StudyQuery):
    """All studies that match, as in the address of the list."""

    model_config = ConfigDict(extra="forbid")


class OrderBody(BaseModel):
    """An order about some studies, or about all that match."""

    model_config = ConfigDict(extra="forbid")

    order: Order
    studies: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field(
        default=[], max_length=_MAX_LISTED, description="Numbers of studies in the record."
    )
    matching: Matching | None = Field(
        default=None, description="Instead of numbers: all studies that match."
    )
    expected: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="With matching: the count that was looked at. If more match, nothing is done.",
    )
    reason: str = Field(
        default="", max_length=MAX_REASON_CHARACTERS, description="Needed to hold and to cancel."
    )


@router.get("")
def list_studies(use: Use, asked: Annotated[StudyPageQuery, Query()]) -> list[dict[str, Any]]:
    """Return one page of studies as ``lentigo status --json`` does; ``Link`` names the next."""
    limit = asked.limit
    wanted = replace(asked.as_filter(), before_id=asked.before, limit=limit + 1)
    found = use.status.studies(wanted)
    headers = {}
    if len(found) > limit:
        query = wanted.as_query(before_id=found[limit - 1].id)
        # RFC 8288
        headers["link"] = f'</api/studies?{query}&{urlencode({"limit": limit})}>; rel="next"'
    content = [study.as_json() for study in found[:limit]]
    return JSONResponse(content, headers=headers)  # type: ignore[return-value]  # with headers


@router.get("/count")
def count_studies(use: Use, asked: Annotated[StudyQuery, Query()]) -> Match:
    """Count the studies that match; the same parameters as the list, without pages."""
    return use.orders.match(asked.as_filter())


@router.post("/orders", dependencies=[require(OPERATOR), CheckedCall])
def order(request: Request, use: Use, body: OrderBody) -> OrderResult:
    """Carry out an order: retry, cancel, hold, release, urgent, complete_now or resend."""
    actor, reason = actor_of(request), body.reason.replace("\0", "")
    if body.matching is None:
        if not body.studies:
            raise HTTPException(422, "Name studies, or say what they match.")
        return use.orders.give(body.order, body.studies, actor=actor, reason=reason)
    if body.studies or body.expected is None:
        raise HTTPException(422, "With matching: no numbers, and the count that was looked at.")
    return use.orders.give_matching(
        body.order,
        body.matching.as_filter(missing=422),
        expected=body.expected,
        actor=actor,
        reason=reason,
    )


@router.get("/{uid}")
def get_study(use: Use, uid: str) -> dict[str, Any]:
    """Return one study, by its number or its UID, as ``lentigo status --json`` does."""
    return study_of(use, uid).as_json()


@router.get("/{uid}/history")
def get_history(use: Use, uid: str) -> dict[str, Any]:
    """Return what happened to a study: timeline, generations, series, refusals."""
    found: dict[str, Any] = jsonable_encoder(asdict(use.history.history(study_of(use, uid).id)))
    return found


@router.get("/{uid}/objects/{object_id}/report", responses={404: {}})
def get_report(use: Use, uid: str, object_id: RowId) -> Response:
    """Return the content of a structured report of ours as a tree."""
    nodes = report_of(use, study_of(use, uid).id, object_id)
    return JSONResponse([node.as_json() for node in nodes])
