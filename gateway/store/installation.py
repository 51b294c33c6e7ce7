"""The serial number of an installation: what device identities and trace ids are derived from."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.tables import Installation


def installation_serial(connection: Connection, now: dt.datetime) -> str:
    """Return the serial number, made at the first call; needs a write transaction."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(Installation)
        .values(id=1, serial=uuid.uuid4().hex, created_at=now)
        .on_conflict_do_nothing()
    )
    return str(connection.execute(select(Installation.serial)).scalar_one())
