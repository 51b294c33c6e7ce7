"""What keeps studies from being removed."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.store.tables.base import Base


class RetentionHold(Base):
    """A legal hold: nothing of this study is removed until it is released."""

    __tablename__ = "retention_holds"
    __table_args__ = (
        Index(
            "ix_retention_holds_active",
            "study_instance_uid",
            unique=True,
            sqlite_where=text("released_at IS NULL"),
            postgresql_where=text("released_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    """May be of a study that has not arrived yet."""
    reason: Mapped[str] = mapped_column(Text)
    """Of the person who placed it; a file number, no patient attribute."""
    placed_by: Mapped[str] = mapped_column(String(64))
    placed_at: Mapped[dt.datetime]
    released_by: Mapped[str] = mapped_column(String(64), default="")
    released_at: Mapped[dt.datetime | None]
