"""Opinions of reviewers: signed, listed, checked, given out; and what they may see for them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from sqlalchemy import select

from gateway.dashboard import review_export
from gateway.dashboard.access import Form, Permission, actor_of, may, require
from gateway.dashboard.identity.auth import session_of
from gateway.dashboard.identity.settings import AccountSettings
from gateway.dashboard.model_desk import manifest_of
from gateway.dashboard.model_settings import ModelSettings
from gateway.dashboard.site import RowId, Services, Use, page
from gateway.errors import ReviewRefused
from gateway.store.engine import reading
from gateway.store.people.reveals import Reveals
from gateway.store.people.reviews import VERDICTS, LesionOpinion, Opinion, ReviewDesk
from gateway.store.tables import ResultObject, WorkItem

PAGE_SIZE = 50
_KEEP_S = 300.0
"""How long a large record's chain counts as checked; the call ``/api/reviews/chain`` checks now."""
EXPORTS = {"csv": "text/csv", "json": "application/json"}


router = APIRouter(include_in_schema=False, dependencies=[require(Permission.VIEW)])


def _result(use: Services, work_item_id: int) -> Any:
    """Return the report of a work item with its headline; 404 where there is none."""
    query = (
        select(
            WorkItem.id,
            WorkItem.study_id,
            WorkItem.analysis,
            WorkItem.model_digest,
            WorkItem.outcome,
            WorkItem.summary,
            ResultObject.sop_instance_uid,
            ResultObject.sha256,
        )
        .join(ResultObject, ResultObject.work_item_id == WorkItem.id)
        .where(WorkItem.id == work_item_id, ResultObject.role == "sr")
        .limit(1)
    )
    with reading(use.engine) as connection:
        found = connection.execute(query).first()
    if found is None:
        raise HTTPException(404, "There is no such result.")
    return found


def _labels(analysis: str) -> dict[str, str]:
    """Return code -> name of what a model tells apart; nothing where it is not said."""
    labels = manifest_of(ModelSettings().repository / analysis).get("labels")
    return labels if isinstance(labels, dict) else {}


def _form(
    request: Request, use: Services, work_item_id: int, message: str = "", status_code: int = 200
) -> HTMLResponse:
    result = _result(use, work_item_id)
    values = {
        "result": result,
        "summary": result.summary or {},
        "labels": _labels(result.analysis),
        "verdicts": VERDICTS,
        "message": message,
        "is_bad": status_code >= 400,
    }
    return page(request, "review.html", values, status_code)


@router.get("/reviews")
def show_reviews(
    request: Request, use: Use, before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None
) -> HTMLResponse:
    """Show the newest reviews and whether their chain is whole."""
    desk = ReviewDesk(use.engine)
    found = desk.newest(PAGE_SIZE + 1, before)
    checked = use.shelf.look("reviews", desk.faults, keep_s=_KEEP_S)
    values = {
        "reviews": found[:PAGE_SIZE],
        "counts": desk.counts(),
        "faults": checked.value if checked is not None else [],
        "checked_at": checked.read_at if checked is not None else None,
        "is_pending": checked is None or not checked.is_fresh,
        "older_address": f"/reviews?before={found[PAGE_SIZE - 1].id}"
        if len(found) > PAGE_SIZE
        else "",
        "may_export": may(request, Permission.EXPORT_REVIEWS),
    }
    return page(request, "reviews.html", values)


@router.get("/reviews/object/{object_id}", dependencies=[require(Permission.REVIEW)])
def find_form(use: Use, object_id: RowId) -> Response:
    """Go to the form for an opinion on what an object reports."""
    with reading(use.engine) as connection:
        found = connection.execute(
            select(ResultObject.work_item_id).where(ResultObject.id == object_id)
        ).scalar()
    if found is None:
        raise HTTPException(404, "There is no such result.")
    return RedirectResponse(f"/reviews/new/{found}", 303)


@router.get("/reviews/new/{work_item_id}", dependencies=[require(Permission.REVIEW)])
def show_form(request: Request, use: Use, work_item_id: RowId) -> HTMLResponse:
    """Show the form for an opinion on one result."""
    return _form(request, use, work_item_id)


@router.post("/reviews/new/{work_item_id}", dependencies=[require(Permission.REVIEW)])
def sign_review(request: Request, use: Use, work_item_id: RowId, form: Form) -> Response:
    """Sign an opinion."""
    try:
        opinion = Opinion(
            verdict=str(form.get("verdict", "")),  # type: ignore[arg-type]  # checked when signed
            differential=_words(str(form.get("differential", ""))),
            lesions=_lesions(str(form.get("lesions", ""))),
            comment=str(form.get("comment", "")).replace("\r\n", "\n").strip(),
        )
        number = ReviewDesk(use.engine).sign(
            work_item_id,
            opinion,
            reviewer=actor_of(request),
            sop_instance_uid=str(form.get("sop_instance_uid", "")),
            object_sha256=str(form.get("object_sha256", "")),
        )
    except ReviewRefused as exc:
        return _form(request, use, work_item_id, f"Not signed: {exc}.", 422)
    return RedirectResponse(f"/reviews#review-{number}", 303)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in re.split(r"[,;\n]", text) if word.strip())


def _lesions(text: str) -> tuple[LesionOpinion, ...]:
    """Read one lesion a line: ``3 agree``, ``3 disagree`` or ``3 = MEL``."""
    found = []
    for line in filter(None, (each.strip() for each in text.splitlines())):
        lesion, equals, label = line.partition("=")
        if equals:
            found.append(
                LesionOpinion(lesion=lesion.strip(), verdict="correct", label=label.strip())
            )
            continue
        lesion, _, word = line.rpartition(" ")
        if word not in ("agree", "disagree"):
            raise ReviewRefused("a line of a lesion is `3 agree`, `3 disagree` or `3 = MEL`")
        found.append(
            LesionOpinion(lesion=lesion.strip(), verdict="agree" if word == "agree" else "disagree")
        )
    return tuple(found)


@router.post("/reviews/export", dependencies=[require(Permission.EXPORT_REVIEWS)])
def export_page(request: Request, use: Use, form: Form) -> Response:
    """Give all reviews out."""
    return exported(use, str(form.get("format", "csv")), actor_of(request))


def exported(use: Services, kind: str, actor: str) -> Response:
    """Return all reviews as a file, audited."""
    if kind not in EXPORTS:
        raise HTTPException(422, "Reviews are given out as csv or json.")
    desk = ReviewDesk(use.engine)
    use.accounts.audit(actor, "reviews.exported", format=kind, reviews=sum(desk.counts().values()))
    write = review_export.as_csv if kind == "csv" else review_export.as_json
    return StreamingResponse(
        write(use.engine, desk),
        media_type=EXPORTS[kind],
        headers={"content-disposition": f'attachment; filename="lentigo-reviews.{kind}"'},
    )


# -- patient attributes -----------------------------------------------------------------------


def reveals_of(use: Services) -> Reveals:
    """Return what shows patient attributes."""
    return Reveals(use.engine, minutes=AccountSettings().reveal_minutes)


def shown_identity(request: Request, study_id: int) -> Any:
    """Return (patient attributes, until when) for the template of a study; None while masked."""
    session = session_of(request)
    if not session.may(Permission.REVEAL):
        return None
    return reveals_of(request.app.state.services).shown(study_id, session.token_sha256)


@router.post("/studies/{study_id}/reveal", dependencies=[require(Permission.REVEAL)])
def reveal(request: Request, use: Use, study_id: RowId, _form: Form) -> Response:
    """Show the patient attributes of a study in this session for a while."""
    session = session_of(request)
    reveals_of(use).reveal(study_id, actor=session.username, session_sha256=session.token_sha256)
    return RedirectResponse(f"/studies/{study_id}", 303)


@router.post("/studies/{study_id}/hide", dependencies=[require(Permission.REVEAL)])
def hide(request: Request, use: Use, study_id: RowId, _form: Form) -> Response:
    """Mask a study again."""
    reveals_of(use).hide(study_id, session_of(request).token_sha256)
    return RedirectResponse(f"/studies/{study_id}", 303)
