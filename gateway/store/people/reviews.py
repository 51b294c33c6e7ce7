"""Opinions on results, signed and kept: agree, disagree, or correct.

A review names the result object that was looked at, by SOP Instance UID and by the digest of its
bytes. Its own digest is taken of everything it says and of the review before it, so that a changed
or missing one shows; each is also an entry of the audit trail, which bears witness to its digest.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, insert, select

from gateway.errors import ReviewRefused
from gateway.store import audit
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import (
    AuditEntry,
    Identity,
    Instance,
    ResultObject,
    Review,
    Study,
    WorkItem,
)

Verdict = Literal["agree", "disagree", "correct"]
VERDICTS: tuple[Verdict, ...] = ("agree", "disagree", "correct")
MAX_LABELS = 20
MAX_LESIONS = 1000
MAX_LABEL_CHARACTERS = 64
MAX_COMMENT_CHARACTERS = 2000
_SIGNED = "review.signed"
_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class LesionOpinion:
    """What a reviewer says of one lesion."""

    lesion: str
    """Its number or Tracking ID as the result shows it."""
    verdict: Verdict
    label: str = ""
    """What it is, where the verdict is ``correct``."""


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a reviewer says of a result."""

    verdict: Verdict
    differential: tuple[str, ...] = ()
    """Labels, the likeliest first; what the result should have said."""
    lesions: tuple[LesionOpinion, ...] = ()
    comment: str = ""
    """For those who train models; no patient attribute belongs here."""

    def statement(self) -> dict[str, Any]:
        """Return what is kept beside the verdict."""
        return {
            "differential": list(self.differential),
            "lesions": [asdict(each) for each in self.lesions],
            "comment": self.comment,
        }


@dataclass(frozen=True, kw_only=True)
class SignedReview:
    """One review, with what it speaks of."""

    id: int
    at: dt.datetime
    reviewer: str
    study_id: int
    study_instance_uid: str
    work_item_id: int
    analysis: str
    model_digest: str
    sop_instance_uid: str
    object_sha256: str
    verdict: str
    statement: dict[str, Any]
    previous_sha256: str
    sha256: str
    result: dict[str, Any] = field(default_factory=dict)
    """Headline of the result that was judged."""
    is_newest: bool = True
    """Whether its reviewer has said nothing later of the same result."""


def review_digest(
    id: int,
    at: dt.datetime,
    reviewer: str,
    work_item_id: int,
    sop_instance_uid: str,
    object_sha256: str,
    verdict: str,
    statement: Mapping[str, Any],
    previous_sha256: str,
) -> str:
    """Return the SHA-256 of a review in hexadecimal.

    It is taken of the compact JSON list of the arguments in this order, the moment in UTC with
    microseconds, keys sorted, in ASCII.

    Examples
    --------
    >>> moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    >>> review_digest(1, moment, "ada", 7, "1.2.3", "00", "agree", {}, "")[:12]
    '9f76950345d5'
    """
    moment = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
    content = [
        id,
        moment,
        reviewer,
        work_item_id,
        sop_instance_uid,
        object_sha256,
        verdict,
        statement,
        previous_sha256,
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def check(opinion: Opinion) -> None:
    """Refuse an opinion that says nothing, too much, or contradicts itself.

    Raises
    ------
    ReviewRefused
        The message is for the reviewer.
    """
    if opinion.verdict not in VERDICTS:
        raise ReviewRefused(f"the verdict is one of {', '.join(VERDICTS)}")
    if opinion.verdict == "correct" and not (opinion.differential or opinion.lesions):
        raise ReviewRefused("a correction names a diagnosis, or a lesion with its diagnosis")
    if opinion.verdict == "agree" and opinion.differential:
        raise ReviewRefused("who names another diagnosis does not agree; choose correct")
    if len(opinion.differential) > MAX_LABELS or len(opinion.lesions) > MAX_LESIONS:
        raise ReviewRefused(f"at most {MAX_LABELS} diagnoses and {MAX_LESIONS} lesions")
    if len(set(opinion.differential)) != len(opinion.differential):
        raise ReviewRefused("a diagnosis is named twice")
    for label in opinion.differential:
        _check_text(label, "a diagnosis")
    seen: set[str] = set()
    for lesion in opinion.lesions:
        _check_lesion(lesion, seen)
    if len(opinion.comment) > MAX_COMMENT_CHARACTERS or "\0" in opinion.comment:
        raise ReviewRefused(f"a comment has at most {MAX_COMMENT_CHARACTERS} characters")


def _check_lesion(opinion: LesionOpinion, seen: set[str]) -> None:
    _check_text(opinion.lesion, "a lesion")
    if opinion.lesion in seen:
        raise ReviewRefused("a lesion is named twice")
    seen.add(opinion.lesion)
    if opinion.verdict not in VERDICTS:
        raise ReviewRefused(f"the verdict on a lesion is one of {', '.join(VERDICTS)}")
    if opinion.verdict == "correct":
        _check_text(opinion.label, "the diagnosis of a corrected lesion")
    elif opinion.label:
        raise ReviewRefused("a lesion with a diagnosis of its own has the verdict correct")


def _check_text(text: str, what: str) -> None:
    if not text.strip() or len(text) > MAX_LABEL_CHARACTERS or not text.isprintable():
        raise ReviewRefused(f"{what} has 1 to {MAX_LABEL_CHARACTERS} characters, on one line")


class ReviewDesk:
    """Signs, lists and checks reviews."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def sign(
        self,
        work_item_id: int,
        opinion: Opinion,
        *,
        reviewer: str,
        sop_instance_uid: str = "",
        object_sha256: str = "",
    ) -> int:
        """Keep an opinion on the result of a work item; return its number.

        Parameters
        ----------
        sop_instance_uid
            The object that was looked at; empty for the work item's report.
        object_sha256
            Its digest as the reviewer saw it; empty to take the present one.

        Raises
        ------
        ReviewRefused
            There is no such result, it is not the one that was looked at, or the opinion will
            not do.
        """
        check(opinion)
        now, statement = self._clock(), opinion.statement()
        with writing(self._engine) as connection:
            # Everybody who signs passes through here one after the other, as the audit trail does.
            audit.lock_state(connection)
            made = _object(connection, work_item_id, sop_instance_uid)
            if object_sha256 and object_sha256 != made.sha256:
                raise ReviewRefused("the result has changed since it was shown; load it again")
            last = connection.execute(
                select(Review.id, Review.sha256).order_by(Review.id.desc()).limit(1)
            ).first()
            number = last.id + 1 if last is not None else 1
            previous = last.sha256 if last is not None else ""
            values = {
                "id": number,
                "at": now,
                "reviewer": reviewer[:64],
                "work_item_id": work_item_id,
                "sop_instance_uid": made.sop_instance_uid,
                "object_sha256": made.sha256,
                "verdict": opinion.verdict,
                "statement": statement,
                "previous_sha256": previous,
            }
            digest = review_digest(**values)
            connection.execute(
                insert(Review).values(**values, study_id=made.study_id, sha256=digest)
            )
            audit.append(
                connection,
                now,
                reviewer,
                _SIGNED,
                study=made.study_id,
                work_item=work_item_id,
                review=number,
                sha256=digest,
            )
        return number

    def all(
        self, *, after: int = 0, study_id: int | None = None, limit: int | None = None
    ) -> Iterator[SignedReview]:
        """Yield reviews in the order in which they were signed."""
        given = 0
        while limit is None or given < limit:
            page = _PAGE if limit is None else min(_PAGE, limit - given)
            with reading(self._engine) as connection:
                found = _page(connection, after, study_id, page)
            yield from found
            given += len(found)
            if len(found) < page:
                return
            after = found[-1].id

    def newest(self, limit: int, before: int | None = None) -> list[SignedReview]:
        """Return the newest reviews, the newest first."""
        with reading(self._engine) as connection:
            query = select(Review.id).order_by(Review.id.desc()).limit(limit)
            if before is not None:
                query = query.where(Review.id < before)
            ids = list(connection.execute(query).scalars())
            if not ids:
                return []
            found = _page(connection, ids[-1] - 1, None, len(ids))
        return found[::-1]

    def counts(self) -> dict[str, int]:
        """Return how many reviews there are of each verdict."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(Review.verdict, func.count()).group_by(Review.verdict)
            ).all()
        return {row[0]: row[1] for row in rows}

    def faults(self) -> list[str]:
        """Return what is wrong with the chain of reviews; nothing for an untouched one."""
        with reading(self._engine) as connection:
            witnessed = {
                int(row.detail["review"]): str(row.detail["sha256"])
                for row in connection.execute(
                    select(AuditEntry.detail).where(AuditEntry.action == _SIGNED)
                )
            }
            rows = connection.execute(select(Review).order_by(Review.id)).all()
        found, previous, last = [], "", 0
        for row in rows:
            if row.id != last + 1:
                found.append(f"reviews {last + 1} to {row.id - 1} are missing")
            elif row.previous_sha256 != previous:
                found.append(f"review {row.id} does not follow the one before it")
            own = review_digest(
                row.id,
                row.at,
                row.reviewer,
                row.work_item_id,
                row.sop_instance_uid,
                row.object_sha256,
                row.verdict,
                row.statement,
                row.previous_sha256,
            )
            if own != row.sha256 or witnessed.pop(row.id, own) != own:
                found.append(f"review {row.id} was changed")
            last, previous = row.id, row.sha256
        found += [f"review {number} is missing" for number in sorted(witnessed) if number > last]
        return found


def _object(connection: Connection, work_item_id: int, sop_instance_uid: str) -> Any:
    query = (
        select(
            ResultObject.sop_instance_uid,
            ResultObject.sha256,
            WorkItem.study_id,
        )
        .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
        .where(WorkItem.id == work_item_id)
        .order_by(ResultObject.id)
        .limit(1)
    )
    if sop_instance_uid:
        query = query.where(ResultObject.sop_instance_uid == sop_instance_uid)
    else:
        query = query.where(ResultObject.role == "sr")
    found = connection.execute(query).first()
    if found is None:
        raise ReviewRefused("there is no such result yet")
    return found


def _page(
    connection: Connection, after: int, study_id: int | None, limit: int
) -> list[SignedReview]:
    later = Review.__table__.alias("later")
    is_newest = ~(
        select(later.c.id)
        .where(
            later.c.work_item_id == Review.work_item_id,
            later.c.reviewer == Review.reviewer,
            later.c.id > Review.id,
        )
        .exists()
    )
    query = (
        select(
            Review,
            Study.study_instance_uid,
            WorkItem.analysis,
            WorkItem.model_digest,
            WorkItem.summary,
            is_newest.label("is_newest"),
        )
        .join(Study, Review.study_id == Study.id)
        .join(WorkItem, Review.work_item_id == WorkItem.id)
        .where(Review.id > after)
        .order_by(Review.id)
        .limit(limit)
    )
    if study_id is not None:
        query = query.where(Review.study_id == study_id)
    found = []
    for row in connection.execute(query):
        values = dict(row._mapping)
        result = values.pop("summary") or {}
        found.append(SignedReview(**values, result=result))
    return found


@dataclass(frozen=True, kw_only=True)
class ReviewedImage:
    """One image that a reviewed result was made from."""

    sop_instance_uid: str
    sha256: str


def images_of(engine: Engine, study_id: int) -> tuple[str, list[ReviewedImage]]:
    """Return the digest that stands for the patient, and the images of a study."""
    with reading(engine) as connection:
        patient = connection.execute(
            select(Identity.patient_key).where(Identity.study_id == study_id)
        ).scalar()
        rows = connection.execute(
            select(Instance.sop_instance_uid, Instance.sha256)
            .where(Instance.study_id == study_id, Instance.disposition == "accepted")
            .order_by(Instance.id)
        ).all()
    return patient or "", [ReviewedImage(**row._mapping) for row in rows]
