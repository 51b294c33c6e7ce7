"""Alembic environment: the URL comes from ``gateway.store.engine.migrate``."""

from alembic import context

from gateway.store.engine import open_engine
from gateway.store.tables import Base

engine = open_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()
