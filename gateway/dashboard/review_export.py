"""Signed reviews as CSV and JSON, for those who train models.

Patients are named by the record's digest of their identifier, images by SOP Instance UID and by the
SHA-256 under which the spool keeps them. Comments are given out as they were written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine

from gateway.store.people.reviews import ReviewDesk, SignedReview, images_of

COLUMNS = (
    "review",
    "signed_at",
    "reviewer",
    "is_newest",
    "study_instance_uid",
    "patient_key",
    "analysis",
    "model_digest",
    "sop_instance_uid",
    "object_sha256",
    "verdict",
    "lesion",
    "lesion_verdict",
    "label",
    "differential",
    "comment",
    "image_sop_instance_uids",
    "image_sha256s",
    "sha256",
)
"""Columns of the CSV: one row for a review of a whole study, and one for each lesion it names."""


def as_json(engine: Engine, desk: ReviewDesk) -> Iterator[str]:
    """Yield a JSON list of all reviews, piece by piece."""
    yield "["
    for number, review in enumerate(desk.all()):
        patient, images = images_of(engine, review.study_id)
        plain = {
            **asdict(review),
            "at": review.at.isoformat(),
            "patient_key": patient,
            "images": [asdict(each) for each in images],
        }
        yield (",\n" if number else "\n") + json.dumps(plain, sort_keys=True)
    yield "\n]\n"


def as_csv(engine: Engine, desk: ReviewDesk) -> Iterator[str]:
    """Yield a CSV of all reviews, line by line (RFC 4180)."""
    yield _line(COLUMNS)
    for review in desk.all():
        patient, images = images_of(engine, review.study_id)
        shared: dict[str, Any] = {
            "review": review.id,
            "signed_at": review.at.isoformat(),
            "reviewer": review.reviewer,
            "is_newest": int(review.is_newest),
            "study_instance_uid": review.study_instance_uid,
            "patient_key": patient,
            "analysis": review.analysis,
            "model_digest": review.model_digest,
            "sop_instance_uid": review.sop_instance_uid,
            "object_sha256": review.object_sha256,
            "verdict": review.verdict,
            "differential": ";".join(review.statement.get("differential", ())),
            "comment": review.statement.get("comment", ""),
            "image_sop_instance_uids": " ".join(each.sop_instance_uid for each in images),
            "image_sha256s": " ".join(each.sha256 for each in images),
            "sha256": review.sha256,
        }
        for row in _rows(review):
            values = {**shared, **row}
            yield _line([_safe(values[name]) for name in COLUMNS])


def _rows(review: SignedReview) -> list[dict[str, str]]:
    differential = review.statement.get("differential", ())
    label = differential[0] if differential else _own_label(review)
    rows = [{"lesion": "", "lesion_verdict": "", "label": label}]
    return rows + [
        {"lesion": each["lesion"], "lesion_verdict": each["verdict"], "label": each["label"]}
        for each in review.statement.get("lesions", ())
    ]


def _own_label(review: SignedReview) -> str:
    """Return the label of the result, where the reviewer agrees with it."""
    return str(review.result.get("label", "")) if review.verdict == "agree" else ""


def _safe(value: Any) -> Any:
    # A spreadsheet would run what begins so.
    is_formula = isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}
    return f"'{value}" if is_formula else value


def _line(values: Any) -> str:
    sink = io.StringIO()
    csv.writer(sink).writerow(values)
    return sink.getvalue()
