"""Who sends to us and whom we send to: silence, breakers, certificates, C-ECHO."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select

from gateway.dashboard.access import OPERATOR, VIEWER, Form, actor_of, require
from gateway.dashboard.site import Services, Use, page
from gateway.delivery.echo import echo
from gateway.delivery.routes import FOLDER, Destination, is_web_address, parse_routes
from gateway.delivery.stow import StowSender
from gateway.delivery.stow_settings import StowSettings
from gateway.observation.certificates import CertificateFile, certificate_files
from gateway.observation.settings import EventSettings
from gateway.observation.silence import allowed_s
from gateway.settings import DashboardSettings, DeliverySettings, ListenerSettings, TlsSettings
from gateway.store.engine import reading, utc_now
from gateway.store.reading.study_filter import is_unconfirmed
from gateway.store.tables import Delivery, SourceRhythm
from gateway.store.work.destinations import DestinationBoard

SOON_DAYS = 30.0
"""Days under which a certificate wants renewing."""

_ECHO_S = 5.0

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


def nodes_of(use: Services) -> dict[str, Any]:
    """Return the sources, the destinations and the certificates."""
    return {
        "sources": _sources(use),
        "destinations": _destinations(use),
        "certificates": _certificates(),
    }


def _sources(use: Services) -> list[dict[str, Any]]:
    now, settings = utc_now(), EventSettings()
    with reading(use.engine) as connection:
        rows = connection.execute(select(SourceRhythm).order_by(SourceRhythm.ae_title)).all()
    found = []
    for row in rows:
        pauses = row.pauses.get("seconds", ())
        allowed = allowed_s(pauses, settings)
        silent_s = (now - row.last_at).total_seconds()
        found.append(
            {
                "ae_title": row.ae_title,
                "last_at": row.last_at,
                "silent_s": silent_s,
                "usual_s": sorted(pauses)[len(pauses) // 2] if pauses else None,
                "allowed_s": allowed,
                "is_silent": allowed is not None and silent_s >= allowed,
            }
        )
    return found


def _destinations(use: Services) -> list[dict[str, Any]]:
    delivery = DeliverySettings()
    board = DestinationBoard(use.engine, max_pause_s=delivery.max_backoff_s, probe_s=_ECHO_S)
    states = {each.destination: each for each in board.all()}
    with reading(use.engine) as connection:
        waiting = {
            row[0]: row[1]
            for row in connection.execute(
                select(Delivery.destination, func.count())
                .where(is_unconfirmed(), Delivery.state == "PENDING")
                .group_by(Delivery.destination)
            )
        }
    routes = {route.name: sorted(route.kinds) for route in parse_routes(delivery.destination)}
    found = []
    for name in dict.fromkeys([*routes, *states]):
        state = states.get(name)
        found.append(
            {
                "name": name,
                "is_configured": name in routes,
                "kinds": routes.get(name, []),
                "breaker": state.state if state else "closed",
                "failures": state.failures if state else 0,
                "reason": state.reason if state else "",
                "since": state.since if state else None,
                "next_probe_at": state.next_probe_at if state else None,
                "last_answer_at": state.last_answer_at if state else None,
                "waiting": waiting.get(name, 0),
            }
        )
    return found


def _certificates() -> list[dict[str, Any]]:
    found = certificate_files(ListenerSettings(), DashboardSettings(), TlsSettings())
    return [_certificate(each, utc_now()) for each in found]


def _certificate(file: CertificateFile, now: dt.datetime) -> dict[str, Any]:
    try:
        days: float | None = round(file.days_left(now), 1)
    except (OSError, ValueError):
        days = None
    return {
        "use": file.words,
        "file": str(file.path),
        "days_left": days,
        "is_urgent": days is None or days < SOON_DAYS,
    }


def echo_of(name: str) -> dict[str, Any]:
    """Ask a configured destination whether it is there; 404 for any other."""
    delivery = DeliverySettings()
    known = {route.name for route in parse_routes(delivery.destination)}
    if name not in known or name == FOLDER:
        raise HTTPException(404, "No such destination is configured.")
    if is_web_address(name):
        problem = StowSender(name, delivery, StowSettings()).probe()
    else:
        problem = echo(
            Destination.parse(name),
            calling_ae_title=delivery.calling_ae_title,
            timeout_s=min(_ECHO_S, delivery.timeout_s),
            tls=TlsSettings(),
        )
    return {"name": name, "answers": not problem, "reason": problem}


def audited_echo(use: Services, name: str, actor: str) -> dict[str, Any]:
    """Ask a destination and note who did."""
    found = echo_of(name)
    use.accounts.audit(actor, "node.echoed", destination=name, answers=found["answers"])
    return found


@router.get("/nodes")
def show_nodes(request: Request, use: Use) -> HTMLResponse:
    """Show every node."""
    return page(request, "nodes.html", {**nodes_of(use), "echoed": None})


@router.post("/nodes/echo", dependencies=[require(OPERATOR)])
def echo_node(request: Request, use: Use, form: Form) -> HTMLResponse:
    """Ask one destination by C-ECHO, or a DICOMweb service by a query."""
    found = audited_echo(use, str(form.get("name", "")), actor_of(request))
    return page(request, "nodes.html", {**nodes_of(use), "echoed": found})
