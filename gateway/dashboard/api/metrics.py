"""``/metrics`` for Prometheus: to who shows the token, or on loopback where none is set."""

from __future__ import annotations

import ipaddress
import secrets

from fastapi import APIRouter, HTTPException, Request, Response

from gateway.dashboard.site import Services, Use
from gateway.observation.gauges import Place
from gateway.observation.metrics import CONTENT_TYPE, exposition, software_version
from gateway.observation.settings import MetricsSettings

router = APIRouter()

# A proxy on this host calls from loopback for whoever called it.
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@router.get("/metrics", include_in_schema=False)
def show_metrics(request: Request, use: Use) -> Response:
    """Return the metrics in Prometheus' text format."""
    _check(request, MetricsSettings())
    return Response(exposition(_place(use), software_version()), media_type=CONTENT_TYPE)


def _place(use: Services) -> Place:
    return Place(engine=use.engine, store=use.store, dashboard=use.settings)


def _check(request: Request, settings: MetricsSettings) -> None:
    if not settings.enabled:
        raise HTTPException(404, "No such page.")
    if settings.token is None:
        if not _is_loopback(request):
            raise HTTPException(403, "Set LENTIGO_METRICS_TOKEN to read metrics from elsewhere.")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    expected = settings.token.get_secret_value()
    if scheme.lower() != "bearer" or not secrets.compare_digest(
        given.strip().encode(), expected.encode()
    ):
        raise HTTPException(
            401, "The token of the metrics is missing or wrong.", {"www-authenticate": "Bearer"}
        )


def _is_loopback(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _PROXIED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
