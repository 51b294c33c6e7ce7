"""Reviews, and patient attributes, over REST."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ConfigDict, Field

from gateway.dashboard.access import CheckedCall, Permission, actor_of, require
from gateway.dashboard.identity.auth import session_of
from gateway.dashboard.pages.reviews import exported, reveals_of
from gateway.dashboard.site import RowId, Use
from gateway.errors import ReviewRefused
from gateway.store.people.reviews import (
    MAX_COMMENT_CHARACTERS,
    MAX_LABEL_CHARACTERS,
    MAX_LABELS,
    MAX_LESIONS,
    LesionOpinion,
    Opinion,
    ReviewDesk,
)

router = APIRouter(prefix="/api", tags=["reviews"], dependencies=[require(Permission.VIEW)])

Verdict = Literal["agree", "disagree", "correct"]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)]


class LesionReview(BaseModel):
    """An opinion on one lesion."""

    model_config = ConfigDict(extra="forbid")

    lesion: Label
    """Its number or Tracking ID as the result shows it."""
    verdict: Verdict
    """``correct`` names what it is in ``label``."""
    label: str = Field(default="", max_length=MAX_LABEL_CHARACTERS)
    """What it is."""


class NewReview(BaseModel):
    """An opinion on the result of a work item."""

    model_config = ConfigDict(extra="forbid")

    work_item: int = Field(ge=1, le=2**31 - 1)
    """Number of the work item."""
    verdict: Verdict
    """What the reviewer says of the whole."""
    differential: list[Label] = Field(default_factory=list, max_length=MAX_LABELS)
    """Diagnoses, the likeliest first."""
    lesions: list[LesionReview] = Field(default_factory=list, max_length=MAX_LESIONS)
    """Opinions on single lesions."""
    comment: str = Field(default="", max_length=MAX_COMMENT_CHARACTERS)
    """No patient attribute belongs here."""
    sop_instance_uid: str = Field(default="", max_length=64)
    """Object that was looked at; the report when empty."""
    object_sha256: str = Field(default="", max_length=64)
    """Its digest as the reviewer saw it; a changed one is refused."""


@router.get("/reviews")
def list_reviews(
    use: Use,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Any:
    """Return the newest reviews, the newest first."""
    found = ReviewDesk(use.engine).newest(limit, before)
    return jsonable_encoder([asdict(each) for each in found])


@router.post("/reviews", status_code=201, dependencies=[require(Permission.REVIEW), CheckedCall])
def sign_review(request: Request, use: Use, wanted: NewReview) -> dict[str, int]:
    """Sign an opinion; it is kept for good."""
    opinion = Opinion(
        verdict=wanted.verdict,
        differential=tuple(wanted.differential),
        lesions=tuple(
            LesionOpinion(lesion=each.lesion, verdict=each.verdict, label=each.label)
            for each in wanted.lesions
        ),
        comment=wanted.comment,
    )
    try:
        number = ReviewDesk(use.engine).sign(
            wanted.work_item,
            opinion,
            reviewer=actor_of(request),
            sop_instance_uid=wanted.sop_instance_uid,
            object_sha256=wanted.object_sha256,
        )
    except ReviewRefused as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"review": number}


@router.get("/reviews/chain")
def check_chain(use: Use) -> dict[str, Any]:
    """Follow the chain of signatures; ``faults`` is empty when it is whole."""
    desk = ReviewDesk(use.engine)
    return {"reviews": sum(desk.counts().values()), "faults": desk.faults()}


@router.post("/reviews/export", dependencies=[require(Permission.EXPORT_REVIEWS), CheckedCall])
def export_reviews(request: Request, use: Use, format: Literal["csv", "json"] = "csv") -> Response:
    """Give all reviews out, with the images that they speak of."""
    return exported(use, format, actor_of(request))


@router.post("/studies/{study_id}/reveal", dependencies=[require(Permission.REVEAL), CheckedCall])
def reveal(request: Request, use: Use, study_id: RowId) -> dict[str, str]:
    """Return the patient attributes of a study; each call is an entry of the audit trail."""
    session = session_of(request)
    found = reveals_of(use).reveal(
        study_id, actor=session.username, session_sha256=session.token_sha256
    )
    if found is None:
        raise HTTPException(404, "No such study is known.")
    return asdict(found)
