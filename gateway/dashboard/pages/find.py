"""The search box of every page: where is my study."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from gateway.dashboard.access import VIEWER, Form, actor_of, require
from gateway.dashboard.site import Use, page
from gateway.store.reading.search import MAX_FOUND, StudySearch
from gateway.store.reading.study_filter import StudyFilter

router = APIRouter(include_in_schema=False, dependencies=[require(VIEWER)])


@router.post("/find")
def find(request: Request, use: Use, form: Form) -> Response:
    """Go to the study that is meant, or show all that may be.

    A POST: what is looked for may name a patient, and addresses are kept in many places.
    """
    found = StudySearch(use.engine).find(str(form.get("wanted", "")), actor=actor_of(request))
    if len(found) == 1:
        return RedirectResponse(f"/studies/{found[0]}", 303)
    studies = use.status.studies(StudyFilter(ids=tuple(found))) if found else []
    return page(
        request,
        "find.html",
        {"studies": studies, "is_cut": len(found) == MAX_FOUND},
        200 if found else 404,
    )


@router.get("/find")
def start_again() -> Response:
    """Go to the studies: a reloaded answer of the search box has nothing to look for."""
    return RedirectResponse("/studies", 303)
