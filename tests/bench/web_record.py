"""A record as it is after a month of a large site, written in bulk, for the measurement of pages.

Rows go in by ``COPY`` on PostgreSQL and by one prepared statement a table on SQLite: a million of
them in a minute or two. Chains of the audit trail and of reviews are whole.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Table, text, update
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from gateway.observation import counting
from gateway.observation.tallies import Tallies
from gateway.store.audit import lock_state
from gateway.store.tables import (
    AuditState,
    Base,
    FollowedTable,
    Generation,
    ResultObject,
    Study,
    WorkItem,
)
from tests.bench.web_rows import ANALYSES, Row, Rows, Trail, add_study, site_rows

LARGE_STUDY_INSTANCES = 3000

_CHUNK = 5000
_SPAN = dt.timedelta(days=30)


def fill(
    engine: Engine,
    studies: int,
    *,
    now: dt.datetime,
    seed: int = 1,
    large_study: int = LARGE_STUDY_INSTANCES,
) -> None:
    """Write studies of 30 days as they end up: most completed, some failed, a few in flight.

    Parameters
    ----------
    studies
        How many; each has two instances, about ten lines of timeline and two entries of the audit
        trail, most a work item with a delivered result object. Statistics for the planner are
        left to the database.
    large_study
        Instances of one of them, a third of the way.
    """
    random_ = random.Random(seed)
    trail = Trail()
    with engine.begin() as connection:
        for start in range(0, studies, _CHUNK):
            rows: Rows = defaultdict(list)
            for number in range(start + 1, min(start + _CHUNK, studies) + 1):
                at = now - _SPAN * (1 - number / studies) - dt.timedelta(minutes=3)
                instances = large_study if number == studies // 3 else 2
                is_new = number > studies - 40
                add_study(rows, number, at, random_, is_new=is_new, instances=instances)
                trail.add(rows, number, at)
            _write(connection, rows)
        _write(connection, site_rows(now, studies))
        _write_state(connection, trail)
        _mend_sequences(connection)


# -- writing ----------------------------------------------------------------------------------


def _write(connection: Connection, rows: Mapping[type[Base], list[Row]]) -> None:
    for model in sorted(rows, key=lambda each: _ORDER[each.__tablename__]):
        table = model.__table__
        assert isinstance(table, Table)
        _write_table(connection, table, rows[model])


_ORDER = {table.name: place for place, table in enumerate(Base.metadata.sorted_tables)}


def _write_table(connection: Connection, table: Table, rows: list[Row]) -> None:
    """Write rows of one table; what none of them names gets its default."""
    defaults = {
        each.name: each.default.arg
        for each in table.columns
        if each.name not in rows[0] and isinstance(each.default, ScalarElementColumnDefault)
    }
    names = [*rows[0], *defaults]
    shapes = [(name, _shape(connection, table, name)) for name in names]
    values = ([shape(row.get(name, defaults.get(name))) for name, shape in shapes] for row in rows)
    raw = connection.connection.driver_connection
    assert raw is not None
    columns = ", ".join(names)
    if connection.dialect.name == "postgresql":
        with (
            raw.cursor() as cursor,
            cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy,
        ):
            for each in values:
                copy.write_row(each)
        return
    marks = ", ".join("?" * len(names))
    raw.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", values)


def _shape(connection: Connection, table: Table, name: str) -> Callable[[Any], Any]:
    """Return what turns a value into what the driver takes."""
    dialect = connection.dialect
    processor = table.columns[name].type.dialect_impl(dialect).bind_processor(dialect)
    return processor if processor is not None else lambda value: value


def _write_state(connection: Connection, trail: Trail) -> None:
    lock_state(connection)
    connection.execute(
        update(AuditState).values(entries=trail.entries, sha256=trail.sha256, event_id=0)
    )
    tallies = Tallies()
    for analysis in ANALYSES:
        for stage in sorted(counting.STAGES.labels["stage"] or ()):
            for seconds in (0.2, 2.0, 20.0, 200.0):
                tallies.observe(counting.STAGES, seconds, stage=stage, analysis=analysis)
    for sop_class in counting.SOP_CLASS_NAMES.values():
        tallies.count(counting.RECEIVED, sop_class=sop_class, disposition="accepted")
    tallies.write(connection)
    newest = connection.execute(text("SELECT max(id) FROM events")).scalar_one()
    connection.execute(
        update(FollowedTable).where(FollowedTable.name == "events").values(position=newest)
    )


def _mend_sequences(connection: Connection) -> None:
    """Let PostgreSQL go on after the ids that were given here."""
    if connection.dialect.name != "postgresql":
        return
    for table in (Study, Generation, WorkItem, ResultObject):
        name = table.__tablename__
        connection.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}")
        )
