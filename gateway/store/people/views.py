"""Saved views: filters of the list of studies under a name, each account's own."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.errors import OrderRefused
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.reading.study_filter import StudyFilter
from gateway.store.tables import SavedView

MAX_NAME_CHARACTERS = 60
MAX_VIEWS = 30


@dataclass(frozen=True, kw_only=True)
class View:
    """A filter under a name."""

    id: int
    name: str
    query: str
    """As in the address of the list."""


class SavedViews:
    """Keeps the views."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def of(self, account: str) -> list[View]:
        """Return the views of an account by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(SavedView.id, SavedView.name, SavedView.query)
                .where(SavedView.account == account)
                .order_by(SavedView.name)
            )
            return [View(**row._mapping) for row in rows]

    def save(self, account: str, name: str, wanted: StudyFilter) -> int:
        """Keep a filter under a name; return the view's id.

        Raises
        ------
        OrderRefused
            The name is taken, empty or too long, or there are too many views.
        """
        name = name.replace("\0", "").strip()
        if not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise OrderRefused(f"a view's name has 1 to {MAX_NAME_CHARACTERS} characters")
        try:
            with writing(self._engine) as connection:
                known = connection.execute(
                    select(func.count()).where(SavedView.account == account)
                ).scalar_one()
                if known >= MAX_VIEWS:
                    raise OrderRefused(f"an account keeps at most {MAX_VIEWS} views")
                return int(
                    connection.execute(
                        insert(SavedView)
                        .values(
                            account=account,
                            name=name,
                            query=wanted.as_query(before_id=None),
                            created_at=self._clock(),
                        )
                        .returning(SavedView.id)
                    ).scalar_one()
                )
        except IntegrityError as exc:
            raise OrderRefused("there is a view of this name already") from exc

    def forget(self, account: str, view_id: int) -> bool:
        """Delete a view of an account; return whether there was one."""
        with writing(self._engine) as connection:
            gone = connection.execute(
                delete(SavedView).where(SavedView.id == view_id, SavedView.account == account)
            ).rowcount
        return bool(gone)
