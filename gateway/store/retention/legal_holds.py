"""Legal holds: nothing of a held study is removed until the hold is released."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import RetentionError
from gateway.store import audit, states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import RetentionHold, Study

MAX_REASON = 500


@dataclass(frozen=True, kw_only=True)
class LegalHold:
    """A legal hold that is in force."""

    study_instance_uid: str
    reason: str
    placed_by: str
    placed_at: dt.datetime


class LegalHolds:
    """Places and releases legal holds; each leaves an entry in the audit trail."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def place(self, study_instance_uid: str, *, reason: str, actor: str) -> None:
        """Hold a study, which may not have arrived yet.

        Raises
        ------
        RetentionError
            It is held already, no reason is given, or it is no UID.
        """
        if not reason.strip():
            raise RetentionError("a hold needs a reason, e.g. a file number")
        if not 0 < len(study_instance_uid) <= 64 or set(study_instance_uid) - set("0123456789."):
            raise RetentionError("a study is named by its Study Instance UID")
        now = self._clock()
        try:
            with writing(self._engine) as connection:
                connection.execute(
                    insert(RetentionHold).values(
                        study_instance_uid=study_instance_uid,
                        reason=reason.strip()[:MAX_REASON],
                        placed_by=actor[:64],
                        placed_at=now,
                        released_by="",
                    )
                )
                study = _study_id(connection, study_instance_uid)
                if study is not None:
                    states.lock_study(connection, study)
                    states.note(connection, now, "retention.held", study_id=study)
                audit.append(connection, now, actor, "hold.placed", study=study)
        except IntegrityError as exc:
            raise RetentionError("this study is held already") from exc

    def release(self, study_instance_uid: str, *, actor: str) -> None:
        """Release a study.

        Raises
        ------
        RetentionError
            It is not held.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            released = connection.execute(
                update(RetentionHold)
                .where(
                    RetentionHold.study_instance_uid == study_instance_uid,
                    RetentionHold.released_at.is_(None),
                )
                .values(released_at=now, released_by=actor[:64])
            ).rowcount
            if not released:
                raise RetentionError("this study is not held")
            study = _study_id(connection, study_instance_uid)
            if study is not None:
                states.note(connection, now, "retention.released", study_id=study)
            audit.append(connection, now, actor, "hold.released", study=study)

    def active(self) -> list[LegalHold]:
        """Return the holds in force, the oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    RetentionHold.study_instance_uid,
                    RetentionHold.reason,
                    RetentionHold.placed_by,
                    RetentionHold.placed_at,
                )
                .where(RetentionHold.released_at.is_(None))
                .order_by(RetentionHold.id)
            )
            return [LegalHold(**row._mapping) for row in rows]


def _study_id(connection: Connection, study_instance_uid: str) -> int | None:
    return connection.execute(
        select(Study.id).where(Study.study_instance_uid == study_instance_uid)
    ).scalar()
