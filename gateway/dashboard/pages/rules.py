"""Routing rules: versions, what changed, a trial on the newest studies, publishing."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gateway.dashboard.access import ADMIN, Form, actor_of, require
from gateway.dashboard.rule_desk import MAX_TRIED, PublishRefused, RuleDesk, difference
from gateway.dashboard.site import Services, Use, page
from gateway.errors import RuleFileRefused

router = APIRouter(include_in_schema=False, dependencies=[require(ADMIN)])

VersionNumber = Annotated[int | None, Query(ge=0, le=2**31 - 1)]


def rule_desk(use: Services) -> RuleDesk:
    """Return what reads, tries and publishes rules."""
    return RuleDesk(use.engine, use.store)


def _page(
    request: Request, use: Services, values: dict[str, Any], status_code: int = 200
) -> HTMLResponse:
    desk = rule_desk(use)
    versions = desk.versions()
    in_force = versions[0].text if versions else desk.text_of(0)
    shared = {
        "versions": versions,
        "in_force": in_force,
        "draft": in_force,
        "file": desk.file,
        "last": 20,
        "max_tried": MAX_TRIED,
        "changes": None,
        "trial": None,
        "message": "",
        "is_bad": status_code >= 400,
    }
    return page(request, "rules.html", {**shared, **values}, status_code)


@router.get("/rules")
def show_rules(
    request: Request, use: Use, version: VersionNumber = None, against: VersionNumber = None
) -> HTMLResponse:
    """Show the rules in force, their versions, and what changed between two of them."""
    if version is None:
        return _page(request, use, {})
    desk = rule_desk(use)
    try:
        text = desk.text_of(version)
        before = desk.text_of(max(0, version - 1) if against is None else against)
    except PublishRefused as exc:
        return _page(request, use, {"message": f"{exc}."}, 404)
    return _page(request, use, {"changes": difference(before, text), "changed_version": version})


@router.post("/rules/try")
def try_rules(request: Request, use: Use, form: Form) -> HTMLResponse:
    """Say what a draft would decide for the newest studies; changes nothing."""
    draft, desk = str(form.get("draft", "")).replace("\r\n", "\n"), rule_desk(use)
    given = str(form.get("last", "20"))
    count = min(int(given), MAX_TRIED) if given.isascii() and given.isdigit() else 20
    try:
        trial = desk.try_out(draft, max(1, count))
    except (RuleFileRefused, PublishRefused) as exc:
        return _page(request, use, {"draft": draft, "message": f"Cannot be used: {exc}."}, 422)
    values = {
        "draft": draft,
        "last": count,
        "trial": trial,
        "changes": difference(desk.text_in_force(), draft),
        "changed_version": None,
    }
    return _page(request, use, values)


@router.post("/rules/publish")
def publish_rules(request: Request, use: Use, form: Form) -> HTMLResponse:
    """Write a draft into the file of rules; it is in force some seconds later."""
    draft = str(form.get("draft", ""))
    try:
        digest = rule_desk(use).publish(
            draft, reason=str(form.get("reason", "")), actor=actor_of(request)
        )
    except (RuleFileRefused, PublishRefused) as exc:
        return _page(request, use, {"draft": draft, "message": f"Not published: {exc}."}, 422)
    said = f"Published ({digest[:12]}). The sweeper puts it in force within seconds."
    return _page(request, use, {"draft": draft, "message": said})
