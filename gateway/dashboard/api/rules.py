"""Routing rules over REST."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import ADMIN, CheckedCall, actor_of, require
from gateway.dashboard.pages.rules import rule_desk
from gateway.dashboard.rule_desk import MAX_TRIED, PublishRefused
from gateway.dashboard.site import Use
from gateway.errors import RuleFileRefused
from gateway.rules.reading import MAX_TEXT_BYTES

router = APIRouter(prefix="/api/rules", tags=["rules"], dependencies=[require(ADMIN)])


class Draft(BaseModel):
    """A text of rules to try."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=MAX_TEXT_BYTES)
    """TOML."""
    last: int = Field(default=20, ge=1, le=MAX_TRIED)
    """How many of the newest studies."""


class Publication(BaseModel):
    """A text of rules to put in force."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=MAX_TEXT_BYTES)
    """TOML."""
    reason: str = Field(min_length=1, max_length=200)
    """Why."""


@router.get("")
def list_versions(use: Use) -> Any:
    """Return the versions, the newest first; the first of them is in force."""
    return jsonable_encoder([asdict(each) for each in rule_desk(use).versions()])


@router.get("/{version}")
def get_version(use: Use, version: Annotated[int, Path(ge=0, le=2**31 - 1)]) -> dict[str, Any]:
    """Return the text of one version; 0 is what is built in."""
    try:
        return {"version": version, "text": rule_desk(use).text_of(version)}
    except PublishRefused as exc:
        raise HTTPException(404, str(exc)) from exc


@router.post("/try", dependencies=[CheckedCall])
def try_rules(use: Use, draft: Draft) -> list[dict[str, Any]]:
    """Say what a text would decide for the newest studies; changes nothing."""
    try:
        return rule_desk(use).try_out(draft.text, draft.last)
    except (RuleFileRefused, PublishRefused) as exc:
        raise HTTPException(422, str(exc)) from exc


@router.post("/publish", dependencies=[CheckedCall])
def publish_rules(request: Request, use: Use, wanted: Publication) -> dict[str, str]:
    """Write a text into the site's file of rules; it is in force some seconds later."""
    try:
        digest = rule_desk(use).publish(wanted.text, reason=wanted.reason, actor=actor_of(request))
    except RuleFileRefused as exc:
        raise HTTPException(422, str(exc)) from exc
    except PublishRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"sha256": digest}
