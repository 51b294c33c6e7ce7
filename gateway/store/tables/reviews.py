"""What reviewers say of results: a chain of signed statements."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class Review(Base):
    """One statement; rows are only ever added, by ``gateway.store.people.reviews.ReviewDesk``.

    Triggers of the database refuse to change or remove one.
    """

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Place in the chain: 1, 2, 3 and so on, without a gap."""
    at: Mapped[dt.datetime]
    reviewer: Mapped[str] = mapped_column(String(64))
    """Account that signed."""
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    work_item_id: Mapped[int] = mapped_column(ForeignKey("work_items.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    """The result object that was looked at."""
    object_sha256: Mapped[str] = mapped_column(String(64))
    """Of its bytes, as we made them."""
    verdict: Mapped[str] = mapped_column(String(16))
    """agree, disagree or correct."""
    statement: Mapped[dict[str, Any]]
    """``differential``, ``lesions`` and ``comment``; see ``gateway.store.people.reviews``."""
    previous_sha256: Mapped[str] = mapped_column(String(64))
    """Of the review before; empty for the first."""
    sha256: Mapped[str] = mapped_column(String(64))
    """The signature: see ``gateway.store.people.reviews.review_digest``."""
