"""Alembic environment: the URL comes from ``gateway.store.engine.migrate``."""

from alembic import context
from sqlalchemy import text

from gateway.store.engine import open_engine
from gateway.store.tables import Base

engine = open_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Two processes that start at once: the second one waits and finds nothing to do. On
            # SQLite the transaction itself takes the write lock at its start.
            connection.execute(text("SELECT pg_advisory_xact_lock(1279871060)"))
        context.run_migrations()
    connection.commit()
engine.dispose()
