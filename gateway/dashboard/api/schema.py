"""The description of the REST interface: OpenAPI 3.1, and a page that shows it without a CDN."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.site import page

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])

_METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/api/openapi.json")
def show_schema(request: Request) -> Response:
    """Return the OpenAPI description."""
    return JSONResponse(request.app.openapi())


@router.get("/api")
def show_reference(request: Request) -> HTMLResponse:
    """Show every call with its parameters and its body."""
    schema = request.app.openapi()
    topics: dict[str, list[dict[str, Any]]] = {}
    for path, calls in schema["paths"].items():
        for method in _METHODS:
            if method in calls:
                call = calls[method]
                topic = (call.get("tags") or ["other"])[0]
                topics.setdefault(topic, []).append(_call(schema, method, path, call))
    return page(request, "api.html", {"topics": topics})


def _call(schema: dict[str, Any], method: str, path: str, call: dict[str, Any]) -> dict[str, Any]:
    content = call.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("schema", {})
    return {
        "method": method.upper(),
        "path": path,
        "summary": call.get("summary", ""),
        "description": call.get("description", ""),
        "fields": [_field(each, each["schema"]) for each in call.get("parameters", ())]
        + _body_fields(schema, body),
    }


def _field(parameter: dict[str, Any], kind: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": parameter["name"],
        "where": parameter["in"],
        "kind": _kind(kind),
        "is_needed": parameter.get("required", False),
        "description": parameter.get("description", ""),
    }


def _body_fields(schema: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]]:
    name = body.get("$ref", "").rpartition("/")[2]
    model = schema.get("components", {}).get("schemas", {}).get(name, {})
    return [
        _field(
            {
                "name": field,
                "in": "body",
                "required": field in model.get("required", ()),
                "description": kind.get("description", ""),
            },
            kind,
        )
        for field, kind in model.get("properties", {}).items()
    ]


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    if "anyOf" in schema:
        kinds = [_kind(each) for each in schema["anyOf"]]
        return " or ".join(kind for kind in kinds if kind != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", schema.get("$ref", "").rpartition("/")[2] or "any"))
