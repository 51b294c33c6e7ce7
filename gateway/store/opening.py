"""Opens the record that a command is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from gateway.errors import GatewayError
from gateway.home import running_instance
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine


@contextmanager
def opened_record(store: StoreSettings) -> Iterator[Engine]:
    """Open the record of a home folder, also where a running instance keeps it elsewhere.

    Raises
    ------
    GatewayError
        There is none; SQLite would make an empty one at the first look.
    """
    running = running_instance(store.home)
    if not store.database_url and running is not None and running.database_url:
        store = StoreSettings(home=store.home, database_url=running.database_url)
    if not store.database_url and not (store.home / "record.sqlite3").is_file():
        raise GatewayError(f"there is no record in {store.home}; `lentigo up` makes one")
    engine = open_engine(store.record_url)
    try:
        yield engine
    finally:
        engine.dispose()
