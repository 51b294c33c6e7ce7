"""Storage, nodes, settings and the audit trail over REST."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import ADMIN, OPERATOR, VIEWER, CheckedCall, actor_of, require
from gateway.dashboard.pages.audit import (
    Before,
    Moment,
    Text,
    exported,
    moment_of,
    verify,
    wanted_of,
)
from gateway.dashboard.pages.nodes import audited_echo, nodes_of
from gateway.dashboard.pages.settings import settings_of
from gateway.dashboard.pages.storage import storage_of
from gateway.dashboard.site import Use
from gateway.store.people.audit_search import Wanted, search

router = APIRouter(prefix="/api", tags=["administration"])


class EchoRequest(BaseModel):
    """A destination to ask."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=300)
    """As ``/api/nodes`` names it."""


@router.get("/storage", dependencies=[require(VIEWER)])
def get_storage(use: Use) -> Any:
    """Return how full the disk is, how long it lasts, and what a purge would remove.

    Pace and purge are as of ``counted_at``; while a large record's are counted for the first time
    they are null: ask again in a moment.
    """
    return jsonable_encoder(storage_of(use))


@router.get("/nodes", dependencies=[require(VIEWER)])
def get_nodes(use: Use) -> Any:
    """Return sources with their rhythm, destinations with their breakers, certificates."""
    return jsonable_encoder(nodes_of(use))


@router.post("/nodes/echo", dependencies=[require(OPERATOR), CheckedCall])
def echo_node(request: Request, use: Use, wanted: EchoRequest) -> dict[str, Any]:
    """Ask a configured destination whether it answers."""
    return audited_echo(use, wanted.name, actor_of(request))


@router.get("/settings", dependencies=[require(ADMIN)])
def get_settings(use: Use) -> list[dict[str, Any]]:
    """Return what is set and from where; never a secret's value."""
    return settings_of(use)


@router.get("/audit", dependencies=[require(ADMIN)])
def list_audit(
    use: Use,
    actor: Text = "",
    action: Text = "",
    since: Moment = "",
    until: Moment = "",
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Any:
    """Return entries of the audit trail, the newest first."""
    found = search(use.engine, wanted_of(actor, action, since, until, before, limit))
    return jsonable_encoder([asdict(each) for each in found])


@router.post("/audit/verify", dependencies=[require(ADMIN), CheckedCall])
def verify_audit(request: Request, use: Use) -> dict[str, Any]:
    """Follow the chain from end to end; ``faults`` is empty when the trail is whole."""
    return verify(use, actor_of(request))


@router.post("/audit/export", dependencies=[require(ADMIN), CheckedCall])
def export_audit(request: Request, use: Use, since: Moment = "", until: Moment = "") -> Response:
    """Give the trail out as JSON lines, the oldest first."""
    wanted = Wanted(since=moment_of(since), until=moment_of(until))
    return exported(use, wanted, actor_of(request))
