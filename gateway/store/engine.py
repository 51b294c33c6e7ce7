"""Engine of the record: SQLite in WAL mode or PostgreSQL, transactions, migrations.

On SQLite a write transaction takes the write lock at its start (BEGIN IMMEDIATE): two processes
then queue up at the busy timeout instead of failing half-way with a stale snapshot.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.errors import RecordUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 15.0
_IDLE_TIMEOUT_S = 120.0
"""A transaction of ours that does nothing for so long is that of a process that hangs."""
_READ = "lentigo_read"

Clock = Callable[[], dt.datetime]


def utc_now() -> dt.datetime:
    """Return the current moment in UTC."""
    return dt.datetime.now(dt.UTC)


def open_engine(url: str) -> Engine:
    """Return an engine for the record.

    Parameters
    ----------
    url
        SQLAlchemy URL; ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
    """
    if make_url(url).get_backend_name() != "sqlite":
        engine = create_engine(
            url,
            connect_args=_patience(url),
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=30,
        )
        event.listen(engine, "connect", _configure_postgresql)
        return engine
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        pool_size=10,
        max_overflow=54,
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _patience(url: str) -> dict[str, int]:
    """Return how long libpq waits for a server that is gone without a word; the URL may say else.

    Its own defaults are to wait for ever, and two hours.
    """
    wanted = {
        "connect_timeout": 10,  # s
        "keepalives_idle": 15,  # s
        "keepalives_interval": 5,  # s
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,  # ms
    }
    return {name: value for name, value in wanted.items() if name not in make_url(url).query}


def _configure_postgresql(connection: Any, _record: Any) -> None:
    """Wait for a lock as long as on SQLite, and hold none for long where our process hangs."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S:.0f}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_TIMEOUT_S:.0f}s'")
    connection.autocommit = False


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we emit BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    # FULL: a commit is on disk when it returns, which C-STORE's success status promises.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    is_read = connection.get_execution_options().get(_READ, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a write transaction; commit at the end, roll back on any error.

    Raises
    ------
    RecordUnavailable
        The database does not answer or is locked; nothing was written.
    """
    with _translated(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction with one consistent snapshot.

    Raises
    ------
    RecordUnavailable
        The database does not answer.
    """
    options: dict[str, Any] = {_READ: True}
    if engine.dialect.name == "postgresql":
        # Its default gives every statement a snapshot of its own.
        options["isolation_level"] = "REPEATABLE READ"
    with (
        _translated(),
        engine.connect().execution_options(**options) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as exc:
        if isinstance(exc, DBAPIError) and not _is_outage(exc):
            raise
        # The driver's text can quote parameters, so it stays in the cause and out of the message.
        raise RecordUnavailable(f"the record does not answer ({type(exc).__name__})") from exc


def _is_outage(error: DBAPIError) -> bool:
    """Return whether trying again later may help: nothing is wrong with the statement.

    ``OperationalError`` covers its subclasses in psycopg: no connection, shutdown, full disk,
    deadlock, time-out. The named ones have other bases there.
    """
    kind = type(error.orig).__name__ if error.orig is not None else ""
    return (
        error.connection_invalidated
        or isinstance(error, OperationalError | InterfaceError)
        or kind in {"ReadOnlySqlTransaction", "UndefinedTable"}
    )


def migrate(url: str) -> None:
    """Bring the schema of the record at ``url`` to the newest revision.

    Raises
    ------
    RecordUnavailable
        The database does not answer, or its file cannot be made.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    with _translated():
        command.upgrade(config, "head")
