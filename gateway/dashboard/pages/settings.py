"""What is set, and from where; never a secret's value."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from gateway.dashboard.access import ADMIN, require
from gateway.dashboard.site import Services, Use, page
from gateway.errors import SettingsError
from gateway.secret_files import secret_variables, variable_of
from gateway.settings import ALL_SETTINGS

router = APIRouter(include_in_schema=False, dependencies=[require(ADMIN)])


def settings_of(use: Services) -> list[dict[str, Any]]:
    """Return the settings by topic, as this process reads its environment."""
    return [_topic(use, cls) for cls in ALL_SETTINGS]


def _topic(use: Services, cls: type[BaseSettings]) -> dict[str, Any]:
    try:
        found: Any = use.store if cls is type(use.store) else cls()
    except (ValidationError, SettingsError):  # e.g. its secret's file cannot be read any more
        found = None
    return {
        "topic": (cls.__doc__ or "").strip().splitlines()[0].rstrip("."),
        "is_readable": found is not None,
        "settings": [_setting(found, cls, name) for name in cls.model_fields],
    }


def _setting(found: Any, cls: type[BaseSettings], name: str) -> dict[str, Any]:
    field, variable = cls.model_fields[name], variable_of(cls, name)
    value = getattr(found, name, None)
    is_secret = variable in secret_variables((cls,))
    if is_secret:
        shown = "set, not shown" if value else "not set"
    else:
        shown = "" if value is None else str(value)
    return {
        "variable": variable,
        "value": shown,
        "is_secret": is_secret,
        "source": _source(variable),
        "meaning": " ".join((field.description or "").split()),
    }


def _source(variable: str) -> str:
    given = {name.upper() for name in os.environ}
    if variable in given:
        return "environment"
    if f"{variable}_FILE" in given:
        return f"file named by {variable}_FILE"
    return "default"


@router.get("/settings")
def show_settings(request: Request, use: Use) -> HTMLResponse:
    """Show every setting with its source."""
    return page(request, "settings.html", {"topics": settings_of(use)})
