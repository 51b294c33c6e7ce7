"""SQL for lapses and spans of time, which SQLite and PostgreSQL write differently."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Float, Integer, cast, func


def seconds_between(connection: Connection, start: Any, end: Any) -> Any:
    """Return the expression of the seconds from one column of moments to another one."""
    if connection.dialect.name == "postgresql":
        return cast(func.extract("epoch", end - start), Float)
    return (func.julianday(end, type_=Float) - func.julianday(start, type_=Float)) * 86400.0


def slot_of(connection: Connection, moment: Any, slot_s: int) -> Any:
    """Return the expression of the number of a moment's slot of ``slot_s`` seconds since 1970."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(func.extract("epoch", moment) / slot_s), Integer)
    return cast(func.strftime("%s", moment), Integer) // slot_s
