"""The audit trail in the record: appended in one place, chained by digest, verifiable.

Every entry carries the SHA-256 of the entry before it. Writers pass one after the other through
the row of ``audit_state``: a lock on PostgreSQL, the write lock of the whole file on SQLite. Each
entry costs its writer that row, so what happens by the thousand (instances, refusals) is summed up
by ``gateway.audit`` and not appended one by one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.engine import reading
from gateway.store.tables import AuditEntry, AuditState

_PAGE = 1000
_STATE_ID = 1
MAX_FAULTS = 20
"""Faults of a chain that are listed; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the trail."""

    id: int
    at: dt.datetime
    actor: str
    action: str
    detail: Mapping[str, Any]
    previous_sha256: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of the chain: what an anchor outside the record bears witness to."""

    entries: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What was handed on of one entry, e.g. a line of the audit file."""

    id: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What became of the chain."""

    entries: int
    """Entries that the record holds."""
    head_sha256: str
    faults: tuple[str, ...]
    """What is wrong, in the order of the chain; empty for an untouched trail."""


def entry_digest(
    id: int,
    at: dt.datetime,
    actor: str,
    action: str,
    detail: Mapping[str, Any],
    previous_sha256: str,
) -> str:
    """Return the SHA-256 of an entry in hexadecimal.

    It is taken of the compact JSON list [id, moment in UTC with microseconds, actor, action,
    detail with sorted keys, digest of the entry before], in ASCII.

    Examples
    --------
    >>> moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    >>> entry_digest(1, moment, "admin", "login", {}, "")[:12]
    '67aba863edac'
    """
    moment = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
    content = [id, moment, actor, action, detail, previous_sha256]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def append(connection: Connection, at: dt.datetime, actor: str, action: str, **detail: Any) -> int:
    """Add one entry in the transaction of ``connection``; return its place in the chain.

    Parameters
    ----------
    at
        The moment it speaks of.
    actor
        Account, AE title, host or service; PostgreSQL keeps no NUL, so it is left out.
    action
        What was done, in the words of ``gateway.audit.events``.
    detail
        Internal ids, counts and codes; no patient attribute.

    Notes
    -----
    Other writers of the trail wait until the transaction ends, so it is taken late and kept short.
    """
    state = lock_state(connection)
    actor = actor.replace("\0", "")[:64]
    # As it will be read back: tuples become lists, and what JSON does not know is a fault of ours.
    content: dict[str, Any] = json.loads(json.dumps(detail))
    number = state.entries + 1
    digest = entry_digest(number, at, actor, action, content, state.sha256)
    connection.execute(
        insert(AuditEntry).values(
            id=number,
            at=at,
            actor=actor,
            action=action,
            detail=content,
            previous_sha256=state.sha256,
            sha256=digest,
        )
    )
    connection.execute(
        update(AuditState).where(AuditState.id == _STATE_ID).values(entries=number, sha256=digest)
    )
    return number


@dataclass(frozen=True, kw_only=True)
class State:
    """The row that serialises the writers."""

    entries: int
    sha256: str
    event_id: int
    event_gaps: dict[str, Any]


def lock_state(connection: Connection) -> State:
    """Return the state of the chain; nobody else appends until the transaction ends."""
    query = select(
        AuditState.entries, AuditState.sha256, AuditState.event_id, AuditState.event_gaps
    ).where(AuditState.id == _STATE_ID)
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(
            dialect.insert(AuditState)
            .values(id=_STATE_ID, entries=0, sha256="", event_id=0, event_gaps={})
            .on_conflict_do_nothing()
        )
        row = connection.execute(query.with_for_update()).one()
    return State(**row._mapping)


def set_cursor(connection: Connection, event_id: int, gaps: Mapping[str, Any]) -> None:
    """Say how far ``events`` was summed up; only under ``lock_state``."""
    connection.execute(
        update(AuditState)
        .where(AuditState.id == _STATE_ID)
        .values(event_id=event_id, event_gaps=dict(gaps))
    )


def cursor(connection: Connection) -> tuple[int, dict[str, Any]]:
    """Return how far ``events`` was summed up, without a lock."""
    row = connection.execute(
        select(AuditState.event_id, AuditState.event_gaps).where(AuditState.id == _STATE_ID)
    ).first()
    return (row.event_id, dict(row.event_gaps)) if row is not None else (0, {})


class Trail:
    """Reads the trail and says whether it was tampered with."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def head(self) -> Head:
        """Return the end of the chain as its writers left it."""
        with reading(self._engine) as connection:
            return _head(connection)

    def entries(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
    ) -> Iterator[Entry]:
        """Return entries in the order of the chain.

        Parameters
        ----------
        after
            The entry behind which to begin.
        limit
            How many at most.
        since, until
            Bounds of the moment they speak of; ``until`` is exclusive.
        """
        given = 0
        while limit is None or given < limit:
            page = _PAGE if limit is None else min(_PAGE, limit - given)
            with reading(self._engine) as connection:
                found = _page(connection, after, page, since, until)
            yield from found
            given += len(found)
            if len(found) < page:
                return
            after = found[-1].id

    def verify(self, anchors: Sequence[Anchor] = ()) -> Verification:
        """Follow the chain from its first entry to its last and compare it with what is known.

        Parameters
        ----------
        anchors
            What the audit file or a syslog server remembers of single entries.
        """
        faults: list[str] = []
        wanted: dict[int, set[str]] = {}
        for each in anchors:
            wanted.setdefault(each.id, set()).add(each.sha256)
        last, previous = 0, ""
        with reading(self._engine) as connection:  # one snapshot: entries may be added meanwhile
            head = _head(connection)
            while True:
                found = _page(connection, last, _PAGE, None, None)
                for entry in found:
                    faults += _faults(entry, last, previous)
                    if wanted.pop(entry.id, {entry.sha256}) != {entry.sha256}:
                        faults.append(f"entry {entry.id} is not the one that was handed on")
                    last, previous = entry.id, entry.sha256
                if len(found) < _PAGE:
                    break
        if head != Head(entries=last, sha256=previous):
            faults.append(
                f"the trail ends at entry {last}; its head speaks of {head.entries} entries"
                if head.entries != last
                else "the head of the trail has another digest than its last entry"
            )
        if wanted:
            faults.append(
                f"{len(wanted)} entries that were handed on are missing, the last of them is "
                f"entry {max(wanted)}"
            )
        shown = faults[:MAX_FAULTS]
        if len(faults) > MAX_FAULTS:
            shown.append(f"and {len(faults) - MAX_FAULTS} more")
        return Verification(entries=last, head_sha256=previous, faults=tuple(shown))


def _head(connection: Connection) -> Head:
    row = connection.execute(
        select(AuditState.entries, AuditState.sha256).where(AuditState.id == _STATE_ID)
    ).first()
    return Head(entries=row.entries, sha256=row.sha256) if row else Head(entries=0, sha256="")


def _faults(entry: Entry, last: int, previous: str) -> Iterator[str]:
    if entry.id != last + 1:
        yield f"entries {last + 1} to {entry.id - 1} are missing"
    elif entry.previous_sha256 != previous:
        yield f"entry {entry.id} does not follow the entry before it"
    own = entry_digest(
        entry.id, entry.at, entry.actor, entry.action, entry.detail, entry.previous_sha256
    )
    if own != entry.sha256:
        yield f"entry {entry.id} was changed"


def _page(
    connection: Connection,
    after: int,
    limit: int,
    since: dt.datetime | None,
    until: dt.datetime | None,
) -> list[Entry]:
    query = select(AuditEntry).where(AuditEntry.id > after).order_by(AuditEntry.id).limit(limit)
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    if until is not None:
        query = query.where(AuditEntry.at < until)
    return [Entry(**row._mapping) for row in connection.execute(query)]
