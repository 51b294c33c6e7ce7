"""Alembic environment: the URL comes from ``gateway.store.engine.migrate``."""

from alembic import context
from sqlalchemy import text

from gateway.store.engine import open_engine
from gateway.store.tables import Base

engine = open_engine(context.config.attributes["url"])
with engine.connect() as connection:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # SQLite changes a table by making it anew and dropping the old one, which the rows that
        # point to it would forbid (https://sqlite.org/lang_altertable.html, section 7). Only
        # outside a transaction; this connection ends with the migration.
        connection.connection.execute("PRAGMA foreign_keys=OFF")
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Two processes that start at once: the second one waits and finds nothing to do. On
            # SQLite the transaction itself takes the write lock at its start.
            connection.execute(text("SELECT pg_advisory_xact_lock(1279871060)"))
        context.run_migrations()
        if is_sqlite and connection.execute(text("PRAGMA foreign_key_check")).first():
            raise RuntimeError("the migrated record has rows that point to nothing; not changed")
    connection.commit()
engine.dispose()
