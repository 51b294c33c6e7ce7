"""Models: what is in service, what stands behind it, how it answers; promote and roll back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import ADMIN, VIEWER, Form, actor_of, may, require
from gateway.dashboard.model_desk import Change, ModelDesk
from gateway.dashboard.model_settings import ModelSettings
from gateway.dashboard.site import Services, Use, page
from gateway.errors import ModelRefused

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


def model_desk(use: Services) -> ModelDesk:
    """Return what reads and switches models."""
    return ModelDesk(use.engine, use.store, ModelSettings())


def _page(
    request: Request, use: Services, message: str = "", status_code: int = 200
) -> HTMLResponse:
    values: dict[str, Any] = {
        "models": model_desk(use).all(),
        "repository": ModelSettings().repository,
        "may_switch": may(request, ADMIN),
        "message": message,
        "is_bad": status_code >= 400,
    }
    return page(request, "models.html", values, status_code)


@router.get("/models")
def show_models(request: Request, use: Use) -> HTMLResponse:
    """Show every model of the repository."""
    return _page(request, use)


@router.get("/models/{name}/card")
def show_card(request: Request, use: Use, name: str) -> HTMLResponse:
    """Show a model's card."""
    try:
        card = model_desk(use).card(name)
    except ModelRefused as exc:
        raise HTTPException(404, f"{str(exc).capitalize()}.") from exc
    return page(request, "card.html", {"name": name, "card": card})


@router.post("/models/{name}/promote", dependencies=[require(ADMIN)])
def promote(request: Request, use: Use, name: str, form: Form) -> HTMLResponse:
    """Put a version into service."""
    given = str(form.get("number", ""))
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
    return _change(request, use, name, "promote", number, str(form.get("reason", "")))


@router.post("/models/{name}/rollback", dependencies=[require(ADMIN)])
def roll_back(request: Request, use: Use, name: str, form: Form) -> HTMLResponse:
    """Put the version before back into service."""
    return _change(request, use, name, "rollback", 0, str(form.get("reason", "")))


def _change(
    request: Request, use: Services, name: str, change: Change, number: int, reason: str
) -> HTMLResponse:
    try:
        said = model_desk(use).change(
            name, change, number=number, reason=reason, actor=actor_of(request)
        )
    except ModelRefused as exc:
        return _page(request, use, f"Not changed: {exc}.", 422)
    return _page(request, use, said)
