"""Tables of DICOMweb: what is offered, and what is asked of a PACS (PS3.18)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict

from fastapi import APIRouter
from fastapi.routing import APIRoute

import gateway.dicomweb
from tests.conformance.markdown import table
from tests.conformance.services import ROOT

_PREFIX = "/dicomweb"


def _routes() -> list[APIRoute]:
    """Return the routes of every router of the DICOMweb services, by path."""
    found: dict[int, APIRoute] = {}
    for info in pkgutil.iter_modules(gateway.dicomweb.__path__, "gateway.dicomweb."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, APIRouter):
                found |= {id(each): each for each in value.routes if isinstance(each, APIRoute)}
    own = [each for each in found.values() if each.path.startswith(_PREFIX)]
    return sorted(own, key=lambda each: (_service(each), each.path, sorted(each.methods)))


def _service(route: APIRoute) -> str:
    """Return the service that a resource belongs to (PS3.18 Table 10.1.1-1 and 11.1.1-1)."""
    resource = route.path.removeprefix(_PREFIX)
    if resource.startswith("/workitems"):
        return "UPS-RS"
    if "POST" in route.methods:
        return "STOW-RS"
    last = resource.rstrip("/").rpartition("/")[2]
    return "QIDO-RS" if last in ("studies", "series", "instances") else "WADO-RS"


def _asked() -> set[str]:
    """Return the services that we ask a PACS for, by what the code calls."""
    calls = {
        "QIDO-RS": r"\.search_for_\w+\(",
        "WADO-RS": r"def request_instance\(",
        "STOW-RS": r"class Stow\w+|def \w*stow\w*\(",
    }
    sources = [
        path.read_text("utf-8")
        for folder in ("gateway/delivery", "workers/adapters")
        for path in (ROOT / folder).rglob("*.py")
    ]
    return {name for name, pattern in calls.items() if any(re.search(pattern, s) for s in sources)}


def web_services() -> str:
    """Return the DICOMweb services of the overview with their roles."""
    offered, asked = {_service(each) for each in _routes()}, _asked()
    titles = {
        "STOW-RS": "Store transaction", "QIDO-RS": "Search transaction",
        "WADO-RS": "Retrieve transaction", "UPS-RS": "Worklist service",
    }  # fmt: skip
    rows = [
        (f"{title} ({name})", "Yes" if name in asked else "No", "Yes" if name in offered else "No")
        for name, title in titles.items()
    ]
    return table(("Service", "User agent", "Origin server"), rows)


def web_resources() -> str:
    """Return the resources of the origin server."""
    grouped: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for route in _routes():
        about = inspect.cleandoc(route.endpoint.__doc__ or "").splitlines()
        key = (_service(route), route.path, " ".join(about[:1]))
        grouped[key] |= route.methods - {"HEAD", "OPTIONS"}
    rows = [
        (service, ", ".join(sorted(methods)), f"`{path}`", about)
        for (service, path, about), methods in grouped.items()
    ]
    return table(("Service", "Method", "Resource", "What it does"), rows)
