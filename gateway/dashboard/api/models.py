"""Models over REST."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import ADMIN, VIEWER, CheckedCall, actor_of, require
from gateway.dashboard.pages.models import model_desk
from gateway.dashboard.site import Use
from gateway.errors import ModelRefused

router = APIRouter(prefix="/api/models", tags=["models"], dependencies=[require(VIEWER)])

Name = Annotated[str, Path(pattern="^[a-z][a-z0-9_]{0,63}$")]


class Promotion(BaseModel):
    """A version to put into service."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, le=10**6)
    """Number of its folder."""
    reason: str = Field(min_length=1, max_length=200)
    """Why."""


class Rollback(BaseModel):
    """The version before goes back into service."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=200)
    """Why."""


@router.get("")
def list_models(use: Use) -> Any:
    """Return every model with versions, readiness, latency and distributions."""
    return jsonable_encoder(model_desk(use).all())


@router.get("/{name}/card")
def get_card(use: Use, name: Name) -> dict[str, str]:
    """Return a model's card, Markdown."""
    try:
        return {"name": name, "card": model_desk(use).card(name)}
    except ModelRefused as exc:
        raise HTTPException(404, str(exc)) from exc


@router.post("/{name}/promote", dependencies=[require(ADMIN), CheckedCall])
def promote(request: Request, use: Use, name: Name, wanted: Promotion) -> dict[str, str]:
    """Put a version into service and have Triton load it."""
    try:
        said = model_desk(use).change(
            name,
            "promote",
            number=wanted.number,
            reason=wanted.reason,
            actor=actor_of(request),
        )
    except ModelRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"said": said}


@router.post("/{name}/rollback", dependencies=[require(ADMIN), CheckedCall])
def roll_back(request: Request, use: Use, name: Name, wanted: Rollback) -> dict[str, str]:
    """Put the version before back into service and have Triton load it."""
    try:
        said = model_desk(use).change(
            name, "rollback", number=0, reason=wanted.reason, actor=actor_of(request)
        )
    except ModelRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"said": said}
