"""Reads a table that only grows, row by row, once: counts and events are made of what it sees.

The cursor changes in the transaction that writes what was made of the rows. Two sweepers take turns
at its row; one that is killed leaves it where the last commit was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.following import still_missing, unread
from gateway.store.tables import FollowedTable

BATCH = 200
"""Rows of one transaction: SQLite has one writer, and a C-STORE must not wait for long."""
_MAX_GAPS = 2000

Observe = Callable[[Connection, Sequence[Any], dt.datetime], None]


class Follower:
    """Hands every row of a table to an observer, once.

    Parameters
    ----------
    name
        Of the cursor.
    rows
        Selects what the observer wants of the table; its first column is the id.
    observe
        Writes what it makes of some rows, in the transaction it is given.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        rows: Any,
        observe: Observe,
        clock: Clock = utc_now,
    ) -> None:
        self._engine = engine
        self._name = name
        self._rows = rows
        self._id = rows.selected_columns[0]
        self._observe = observe
        self._clock = clock

    def step(self) -> int:
        """Read at most ``BATCH`` rows; return how many there were.

        Raises
        ------
        RecordUnavailable
            Nothing was written.
        """
        with reading(self._engine) as connection:
            position, gaps = self._cursor(connection)
            if not self._fetch(connection, position, gaps):
                return 0
        now = self._clock()
        with writing(self._engine) as connection:
            position, gaps = self._locked(connection)
            rows = self._fetch(connection, position, gaps)
            if rows:
                self._observe(connection, rows, now)
                newest = max(position, rows[-1][0])
                found = {row[0] for row in rows}
                still = still_missing(position, newest, found, gaps, now, at_most=_MAX_GAPS)
                connection.execute(
                    update(FollowedTable)
                    .where(FollowedTable.name == self._name)
                    .values(position=newest, gaps=still)
                )
        return len(rows)

    def behind(self) -> int:
        """Return how many rows it has not read yet, at most."""
        with reading(self._engine) as connection:
            position, _ = self._cursor(connection)
            newest = connection.execute(select(func.max(self._id))).scalar()
        return max(0, int(newest or 0) - position)

    def _cursor(self, connection: Connection) -> tuple[int, Mapping[str, Any]]:
        row = connection.execute(
            select(FollowedTable.position, FollowedTable.gaps).where(
                FollowedTable.name == self._name
            )
        ).first()
        return (row.position, row.gaps) if row is not None else (0, {})

    def _locked(self, connection: Connection) -> tuple[int, Mapping[str, Any]]:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(
            dialect.insert(FollowedTable)
            .values(name=self._name, position=0, gaps={})
            .on_conflict_do_nothing()
        )
        row = connection.execute(
            select(FollowedTable.position, FollowedTable.gaps)
            .where(FollowedTable.name == self._name)
            .with_for_update()
        ).one()
        return row.position, row.gaps

    def _fetch(self, connection: Connection, position: int, gaps: Mapping[str, Any]) -> list[Any]:
        query = self._rows.where(unread(self._id, position, gaps)).order_by(self._id).limit(BATCH)
        return list(connection.execute(query).all())
