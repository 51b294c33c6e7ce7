"""Storage commitment that senders ask of us: requests, what we hold, and which reports are due."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import LeaseLost
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Instance, ReceivedCommitment

WAITING, REPORTED, GIVEN_UP = "waiting", "reported", "given up"

_FIRST_PAUSE_S = 2.0
_QUERY_LENGTH = 500  # values of one IN; well under the bounds of both databases


@dataclass(frozen=True, kw_only=True)
class HeldFile:
    """A file of an instance, as the record knows it."""

    sop_class_uid: str
    path: str
    """Relative to the spool."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class DueReport:
    """A report that is to be made now; this process has it until ``held_until``."""

    id: int
    held_until: dt.datetime
    """Another process may take it from then on; the lease's token, too."""
    calling_ae_title: str
    called_ae_title: str
    transaction_uid: str
    instances: Mapping[str, str]
    """SOP Instance UID -> SOP Class UID."""
    attempts: int
    received_at: dt.datetime


class ReceivedCommitments:
    """Requests of senders and our reports on them."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def register(
        self,
        *,
        calling_ae_title: str,
        called_ae_title: str,
        transaction_uid: str,
        instances: Mapping[str, str],
        due_in_s: float,
    ) -> int | None:
        """Write a request down; return its id, None when the UID is in use for something else.

        A request that comes again, as it was, is reported on again.

        Parameters
        ----------
        due_in_s
            When a report on a new association is due, unless it was made before.
        """
        now = self._clock()
        due = {"state": WAITING, "next_attempt_at": now + dt.timedelta(seconds=due_in_s)}
        try:
            with writing(self._engine) as connection:
                row_id: int = connection.execute(
                    insert(ReceivedCommitment)
                    .values(
                        calling_ae_title=calling_ae_title,
                        called_ae_title=called_ae_title,
                        transaction_uid=transaction_uid,
                        instances=dict(instances),
                        received_at=now,
                        failed=0,
                        attempts=0,
                        reason="",
                        **due,
                    )
                    .returning(ReceivedCommitment.id)
                ).scalar_one()
                states.note(
                    connection,
                    now,
                    "commitment.received",
                    calling_ae_title=calling_ae_title,
                    objects=len(instances),
                )
            return row_id
        except IntegrityError:
            pass
        with writing(self._engine) as connection:
            known = connection.execute(
                select(ReceivedCommitment.id, ReceivedCommitment.instances).where(
                    ReceivedCommitment.calling_ae_title == calling_ae_title,
                    ReceivedCommitment.transaction_uid == transaction_uid,
                )
            ).one()
            if known.instances != dict(instances):
                return None
            connection.execute(
                update(ReceivedCommitment).where(ReceivedCommitment.id == known.id).values(**due)
            )
            return int(known.id)

    def held(self, sop_instance_uids: Mapping[str, str]) -> dict[str, list[HeldFile]]:
        """Return the files that the record has of instances; one without any is left out."""
        uids = list(sop_instance_uids)
        found: dict[str, list[HeldFile]] = {}
        with reading(self._engine) as connection:
            for start in range(0, len(uids), _QUERY_LENGTH):
                rows = connection.execute(
                    select(
                        Instance.sop_instance_uid,
                        Instance.sop_class_uid,
                        Instance.path,
                        Instance.sha256,
                        Instance.size_bytes,
                    )
                    .where(
                        Instance.sop_instance_uid.in_(uids[start : start + _QUERY_LENGTH]),
                        Instance.purged_at.is_(None),
                    )
                    .order_by(Instance.id)
                )
                for row in rows:
                    values = dict(row._mapping)
                    uid = values.pop("sop_instance_uid")
                    found.setdefault(uid, []).append(HeldFile(**values))
        return found

    def claim_due(self, lease_s: float) -> DueReport | None:
        """Take the next report that is due; another process may take it after ``lease_s``."""
        now = self._clock()
        held_until = now + dt.timedelta(seconds=lease_s)
        with writing(self._engine) as connection:
            row = connection.execute(
                select(ReceivedCommitment)
                .where(
                    ReceivedCommitment.state == WAITING, ReceivedCommitment.next_attempt_at <= now
                )
                .order_by(ReceivedCommitment.next_attempt_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            connection.execute(
                update(ReceivedCommitment)
                .where(ReceivedCommitment.id == row.id)
                .values(next_attempt_at=held_until, attempts=row.attempts + 1)
            )
        return DueReport(
            id=row.id,
            held_until=held_until,
            calling_ae_title=row.calling_ae_title,
            called_ae_title=row.called_ae_title,
            transaction_uid=row.transaction_uid,
            instances=row.instances,
            attempts=row.attempts + 1,
            received_at=row.received_at,
        )

    def extend(self, request_id: int, held_until: dt.datetime, lease_s: float) -> dt.datetime:
        """Hold a report for another ``lease_s`` seconds; return until when.

        Raises
        ------
        LeaseLost
            Another process has it, or it is made.
        """
        extended = self._clock() + dt.timedelta(seconds=lease_s)
        with writing(self._engine) as connection:
            changed = connection.execute(
                update(ReceivedCommitment)
                .where(
                    ReceivedCommitment.id == request_id,
                    ReceivedCommitment.state == WAITING,
                    ReceivedCommitment.next_attempt_at == held_until,
                )
                .values(next_attempt_at=extended)
            ).rowcount
        if changed != 1:
            raise LeaseLost(f"report {request_id} is held by another process")
        return extended

    def checked(self, request_id: int, failed: int) -> None:
        """Note how many instances of a request we do not commit to."""
        self._write(request_id, failed=failed)

    def reported(self, request_id: int) -> None:
        """Note that the sender took the report."""
        now = self._clock()
        with writing(self._engine) as connection:
            row = connection.execute(
                update(ReceivedCommitment)
                .where(ReceivedCommitment.id == request_id, ReceivedCommitment.state == WAITING)
                .values(state=REPORTED, reported_at=now, next_attempt_at=None, reason="")
                .returning(ReceivedCommitment.calling_ae_title, ReceivedCommitment.failed)
            ).first()
            if row is not None:
                states.note(
                    connection,
                    now,
                    "commitment.reported",
                    level="warning" if row.failed else "info",
                    calling_ae_title=row.calling_ae_title,
                    failed=row.failed,
                )

    def postpone(self, request_id: int, reason: str, *, attempts: int, max_pause_s: float) -> None:
        """Note why a report was not taken; it is due again after a growing pause."""
        full = min(max_pause_s, _FIRST_PAUSE_S * 2.0 ** min(attempts, 30))
        pause_s = full * (0.5 + 0.5 * random.random())
        self._write(
            request_id,
            reason=reason,
            next_attempt_at=self._clock() + dt.timedelta(seconds=pause_s),
        )

    def give_up(self, request_id: int, reason: str) -> None:
        """Note that nobody takes a report."""
        now = self._clock()
        with writing(self._engine) as connection:
            row = connection.execute(
                update(ReceivedCommitment)
                .where(ReceivedCommitment.id == request_id, ReceivedCommitment.state == WAITING)
                .values(state=GIVEN_UP, next_attempt_at=None, reason=reason)
                .returning(ReceivedCommitment.calling_ae_title)
            ).first()
            if row is not None:
                states.note(
                    connection,
                    now,
                    "commitment.unreported",
                    level="alarm",
                    calling_ae_title=row.calling_ae_title,
                    reason=reason,
                )

    def _write(self, request_id: int, **values: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(
                update(ReceivedCommitment)
                .where(ReceivedCommitment.id == request_id, ReceivedCommitment.state == WAITING)
                .values(**values)
            )
