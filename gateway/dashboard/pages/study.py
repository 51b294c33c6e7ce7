"""One study: where it is, what happened to it, what was made of it."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from gateway.dashboard.access import VIEWER, require
from gateway.dashboard.preview import PICTURE_ROLES, PreviewError, preview_png
from gateway.dashboard.report_tree import REPORT_ROLE, Node, report_tree
from gateway.dashboard.site import RowId, Services, Use, page
from gateway.store.reading.history import MAX_EVENTS
from gateway.store.reading.status import StudyStatus
from gateway.wording import delivery_answer

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


_MAX_NUMBER_DIGITS = 9
THUMBNAIL_PX = 160
_NO_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 12"><path d="M1 1h14v10H1zl14 10" '
    'fill="none" stroke="#7a8886" stroke-width=".6"/></svg>'
)


def study_of(use: Services, named: str) -> StudyStatus:
    """Return the study with this number in the record, or this Study Instance UID.

    Raises
    ------
    HTTPException
        404: there is none.
    """
    is_number = named.isascii() and named.isdigit() and len(named) <= _MAX_NUMBER_DIGITS
    study = use.status.numbered(int(named)) if is_number else use.status.study(named)
    if study is None:
        raise HTTPException(404, "No such study is known.")
    return study


def _viewer_address(use: Services, uid: str) -> str:
    template = use.settings.viewer_url
    return template.replace("{study_uid}", uid) if template else ""


@router.get("/studies/{named}")
def show_study(request: Request, use: Use, named: str) -> Response:
    """Show one study, by its number in the record; an address with its UID leads there."""
    study_id = study_of(use, named).id
    if named != str(study_id):
        return RedirectResponse(f"/studies/{study_id}", 308)
    mark = use.history.marks([study_id]).get(study_id, "")
    study = study_of(use, named)
    history = use.history.history(study_id)
    return page(
        request,
        "study.html",
        {
            "mark": mark,
            "study": study,
            "answer": delivery_answer(study),
            "history": history,
            "is_cut": len(history.events) == MAX_EVENTS,
            "picture_roles": PICTURE_ROLES,
            "report_role": REPORT_ROLE,
            "viewer_address": _viewer_address(use, study.study_instance_uid),
            "thumbnails": use.history.pictures(study_id),
            "is_held": use.history.is_held(study_id),
            "said": request.query_params.get("said", ""),
        },
    )


def report_of(use: Services, study_id: int, object_id: int) -> tuple[Node, ...]:
    """Return the content of a report of a study.

    Raises
    ------
    HTTPException
        404: there is none, or its file is gone.
    """
    found = use.history.result_object(study_id, object_id)
    if found is None or not found.role.startswith(REPORT_ROLE):
        raise HTTPException(404, "There is no such report.")
    try:
        return report_tree(use.results_folder, found.path)
    except PreviewError as exc:
        raise HTTPException(404, str(exc)) from exc


@router.get("/studies/{study_id}/objects/{object_id}/report")
def show_report(request: Request, use: Use, study_id: RowId, object_id: RowId) -> Response:
    """Show a structured report as a tree."""
    values = {"nodes": report_of(use, study_id, object_id), "study_id": study_id}
    return page(request, "report.html", values)


@router.get("/studies/{study_id}/instances/{instance_id}/thumbnail.png")
def show_thumbnail(request: Request, use: Use, study_id: RowId, instance_id: RowId) -> Response:
    """Show an instance as it was received, small; a sign where it is no picture."""
    found = use.history.instance(study_id, instance_id)
    if found is None:
        raise HTTPException(404, "There is no such instance.")
    tag = f'"{found.sha256}-small"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        content = preview_png(use.store.spool_folder, found.path, side_px=THUMBNAIL_PX)
    except PreviewError:
        return Response(
            _NO_PICTURE, media_type="image/svg+xml", headers={"cache-control": "no-store"}
        )
    return Response(content, media_type="image/png", headers=headers)


@router.get("/studies/{study_id}/objects/{object_id}/preview.png")
def show_preview(request: Request, use: Use, study_id: RowId, object_id: RowId) -> Response:
    """Show the picture of an overview object."""
    found = use.history.result_object(study_id, object_id)
    if found is None or not found.role.startswith(PICTURE_ROLES):
        raise HTTPException(404, "There is no such picture.")
    tag = f'"{found.sha256}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        content = preview_png(use.results_folder, found.path)
    except PreviewError as exc:
        raise HTTPException(404, str(exc)) from exc
    return Response(content, media_type="image/png", headers=headers)
