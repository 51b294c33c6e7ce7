"""Saved views over REST, each account's own."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import OWN, CheckedCall, actor_of, require
from gateway.dashboard.api.studies import Matching
from gateway.dashboard.site import RowId, Use
from gateway.store.people.views import MAX_NAME_CHARACTERS, SavedViews, View

router = APIRouter(prefix="/api/views", tags=["views"], dependencies=[require(OWN)])


class ViewBody(BaseModel):
    """A filter under a name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    matching: Matching


class Kept(BaseModel):
    """The number of a view."""

    id: int


@router.get("")
def list_views(request: Request, use: Use) -> list[View]:
    """Return one's own views by name."""
    return SavedViews(use.engine).of(actor_of(request))


@router.post("", dependencies=[CheckedCall])
def save_view(request: Request, use: Use, body: ViewBody) -> Kept:
    """Keep a filter under a name."""
    wanted = body.matching.as_filter()
    return Kept(id=SavedViews(use.engine).save(actor_of(request), body.name, wanted))


@router.delete("/{view_id}", status_code=204, dependencies=[CheckedCall])
def forget_view(request: Request, use: Use, view_id: RowId) -> None:
    """Delete a view."""
    if not SavedViews(use.engine).forget(actor_of(request), view_id):
        raise HTTPException(404, "There is no such view.")
