"""The record as one SQLite file, whatever database it lives in, and back.

An SQLite record is copied by SQLite's own online backup; another database row by row in one
transaction that sees one moment. Either way writers go on meanwhile.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, delete, func, insert, inspect, select, text
from sqlalchemy.engine import make_url

from gateway.errors import BackupError
from gateway.store.engine import MIGRATIONS, migrate, open_engine, reading, writing
from gateway.store.schema import is_known, revision_of
from gateway.store.tables import (
    Account,
    AuditEntry,
    Base,
    Document,
    Instance,
    Refusal,
    Study,
)

_BATCH = 1000


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file; its name may hold anything."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _file_of(url: str) -> Path | None:
    parts = make_url(url)
    return Path(str(parts.database)) if parts.get_backend_name() == "sqlite" else None


def head_revision() -> str | None:
    """Return the schema revision of this version of Lentigo."""
    return ScriptDirectory(str(MIGRATIONS)).get_current_head()


def require_record(url: str) -> None:
    """See that there is a record of this version's schema.

    Raises
    ------
    BackupError
        There is no record, or its schema is not this version's.
    RecordUnavailable
        The database does not answer.
    """
    file = _file_of(url)
    if file is not None and not file.is_file():
        raise BackupError(f"there is no record at {file}")
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            found, wanted = revision_of(connection), head_revision()
            if found != wanted:
                raise BackupError(
                    f"the record has schema {found or 'none'}, this version needs {wanted}: "
                    "use the version that wrote it, or run `python -m gateway migrate`"
                )
    finally:
        engine.dispose()


def save_record(url: str, target: Path) -> None:
    """Write the record as it is now to a new SQLite file.

    Raises
    ------
    BackupError
        There is no record, or its schema is not this version's.
    RecordUnavailable
        The database does not answer.
    """
    require_record(url)
    file = _file_of(url)
    if file is not None:
        _save_file(file, target)
        return
    engine = open_engine(url)
    try:
        with reading(engine) as connection:
            _save_rows(connection, target)
    finally:
        engine.dispose()


def load_record(source: Path, url: str) -> None:
    """Put a saved record into an empty database, in one transaction.

    Raises
    ------
    BackupError
        The database holds something already, or the saved record is newer than this version.
    RecordUnavailable
        The database does not answer; nothing was written.
    """
    migrate(sqlite_url(source))
    migrate(url)
    source_engine, target_engine = open_engine(sqlite_url(source)), open_engine(url)
    try:
        with reading(source_engine) as read, writing(target_engine) as write:
            refuse_rows(write)
            _copy_rows(read, write)
            if write.dialect.name == "postgresql":
                _advance_sequences(write)
    finally:
        source_engine.dispose()
        target_engine.dispose()


def refuse_rows(connection: Connection) -> None:
    """Raise ``BackupError`` when a database holds anything that somebody brought in."""
    existing = set(inspect(connection).get_table_names())
    for model in (Study, Instance, Refusal, Document, Account, AuditEntry):
        name = model.__tablename__
        if name in existing and connection.execute(select(model.id).limit(1)).first() is not None:
            raise BackupError(f"the database is not empty (there are {name}); name an empty one")


def refuse_newer(engine: Engine) -> None:
    """Raise ``BackupError`` when a record comes from a later version than this one."""
    with reading(engine) as connection:
        found = revision_of(connection)
    if not is_known(found):
        raise BackupError(
            f"the backup has schema {found or 'none'}, which this version does not know; restore "
            "it with the version that made it"
        )


def settle(path: Path) -> None:
    """Make an SQLite file whole by itself: nothing of it is left in a write-ahead log."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
    finally:
        connection.close()


def _save_file(source: Path, target: Path) -> None:
    reader, copy = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reader.backup(copy)  # all pages in one step: one moment, and WAL lets writers go on
        answer = copy.execute("PRAGMA integrity_check").fetchone()
    finally:
        copy.close()
        reader.close()
    if answer != ("ok",):
        raise BackupError("the copy of the record fails SQLite's integrity check")
    settle(target)


def _save_rows(read: Connection, target: Path) -> None:
    migrate(sqlite_url(target))
    engine = open_engine(sqlite_url(target))
    try:
        with writing(engine) as write:
            _copy_rows(read, write)
    finally:
        engine.dispose()
    settle(target)


def _copy_rows(read: Connection, write: Connection) -> None:
    for table in reversed(Base.metadata.sorted_tables):
        if write.execute(select(table).limit(1)).first() is not None:
            write.execute(delete(table))  # what a migration put in
    for table in Base.metadata.sorted_tables:
        rows = read.execution_options(yield_per=_BATCH).execute(select(table))
        for batch in rows.mappings().partitions():
            write.execute(insert(table), [dict(row) for row in batch])


def _advance_sequences(connection: Connection) -> None:
    """Let numbers go on behind the highest that was put in."""
    for table in Base.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        highest = connection.execute(select(func.max(column))).scalar_one()
        if highest is not None:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, :column), :highest)"),
                {"table": table.name, "column": column.name, "highest": highest},
            )
