"""Hands notices to their receivers: claimed in the record, tried again with growing pauses.

As with deliveries, nothing waits without an owner or a next attempt: whoever takes a notice moves
its next attempt behind the time that one attempt may take, in the same statement, so a process that
is killed while it sends leaves a notice that is due again. A receiver gets each event at least
once; the event's id tells it what it has already.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, select, update

from gateway.errors import NoticeRefused, NoticeUndelivered, RecordUnavailable
from gateway.observation import counting
from gateway.observation.notices import DELIVERED, GIVEN_UP, WAITING
from gateway.observation.tallies import Tallies
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Notice

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_HOLD_S = 120.0
"""Longer than one attempt may take: all time-outs of one post together."""
_FIRST_PAUSE_S = 2.0
_BATCH = 50
_SWEEP_EVERY = 600  # looks


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One notice as its channel gets it."""

    id: int
    kind: str
    target: str
    payload: Mapping[str, Any]
    created_at: dt.datetime
    attempt: int


Channel = Callable[[Letter], int]
"""Sends a letter and returns the receiver's status.

Raises ``NoticeUndelivered`` when another try may help, ``NoticeRefused`` when none will.
"""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a receiver is waited for."""

    max_backoff_s: float = 600.0
    give_up_after_h: float = 72.0
    keep_days: float = 30.0


class Outbox:
    """Sends what waits.

    Parameters
    ----------
    channels
        Target of a notice -> what sends it. A target that is no longer there is given up.
    """

    def __init__(
        self,
        engine: Engine,
        channels: Mapping[str, Channel],
        patience: Patience | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._engine = engine
        self._channels = channels
        self._patience = patience or Patience()
        self._clock = clock

    def look(self) -> int:
        """Send what is due, receiver by receiver; return how many notices were taken.

        A receiver that fails once is left alone for the rest of the look: its other notices keep
        their order and wait for its turn.

        Raises
        ------
        RecordUnavailable
            What was sent and could not be noted is sent again.
        """
        now = self._clock()
        with reading(self._engine) as connection:
            due = connection.execute(
                select(Notice.id, Notice.target)
                .where(Notice.state == WAITING, Notice.next_attempt_at <= now)
                .order_by(Notice.id)
                .limit(_BATCH)
            ).all()
        failed: set[str] = set()
        taken = 0
        for row in due:
            if row.target in failed:
                continue
            letter = self._take(row.id)
            if letter is None:
                continue  # another sweeper has it
            taken += 1
            if not self._send(letter):
                failed.add(letter.target)
        return taken

    def _take(self, notice_id: int) -> Letter | None:
        now = self._clock()
        with writing(self._engine) as connection:
            row = connection.execute(
                update(Notice)
                .where(
                    Notice.id == notice_id,
                    Notice.state == WAITING,
                    Notice.next_attempt_at <= now,
                )
                .values(
                    attempts=Notice.attempts + 1,
                    next_attempt_at=now + dt.timedelta(seconds=_HOLD_S),
                )
                .returning(
                    Notice.id,
                    Notice.kind,
                    Notice.target,
                    Notice.payload,
                    Notice.created_at,
                    Notice.attempts,
                )
            ).first()
        if row is None:
            return None
        return Letter(
            id=row.id,
            kind=row.kind,
            target=row.target,
            payload=row.payload,
            created_at=row.created_at,
            attempt=row.attempts,
        )

    def _send(self, letter: Letter) -> bool:
        channel = self._channels.get(letter.target)
        if channel is None:
            self._end(letter, GIVEN_UP, None, "its receiver is no longer among the settings")
            return True
        try:
            status = channel(letter)
        except NoticeRefused as exc:
            self._end(letter, GIVEN_UP, exc.status, str(exc))
            return True
        except NoticeUndelivered as exc:
            self._postpone(letter, exc)
            return False
        self._end(letter, DELIVERED, status, "")
        return True

    def _postpone(self, letter: Letter, exc: NoticeUndelivered) -> None:
        now = self._clock()
        if now - letter.created_at >= dt.timedelta(hours=self._patience.give_up_after_h):
            self._end(letter, GIVEN_UP, exc.status, f"{exc} for too long")
            return
        pause_s = min(
            _FIRST_PAUSE_S * 2 ** min(letter.attempt - 1, 16), self._patience.max_backoff_s
        )
        pause_s = max(pause_s, exc.retry_after_s) * (1.0 + 0.25 * random.random())
        if letter.attempt == 1:
            log.warning("an event waits: %s", exc, extra={"action": "notice.waiting"})
        with writing(self._engine) as connection:
            connection.execute(
                update(Notice)
                .where(Notice.id == letter.id, Notice.state == WAITING)
                .values(
                    next_attempt_at=now + dt.timedelta(seconds=pause_s),
                    status=exc.status,
                    reason=str(exc),
                )
            )
            _count(connection, letter, "retried")

    def _end(self, letter: Letter, state: str, status: int | None, reason: str) -> None:
        now = self._clock()
        with writing(self._engine) as connection:
            changed = connection.execute(
                update(Notice)
                .where(Notice.id == letter.id, Notice.state == WAITING)
                .values(
                    state=state,
                    next_attempt_at=None,
                    delivered_at=now if state == DELIVERED else None,
                    status=status,
                    reason=reason,
                )
            ).rowcount
            if not changed:
                return
            _count(connection, letter, state.replace(" ", "_"))
            # One about a notice of its own kind would go round and round.
            if state == GIVEN_UP and letter.kind != "notice.given_up":
                states.note(
                    connection,
                    now,
                    "notice.given_up",
                    level="alarm",
                    target=letter.target.rpartition(":")[0] or letter.target,
                    kind=letter.kind,
                    reason=reason,
                )

    def forget(self) -> int:
        """Remove what was delivered or given up long ago; return how many."""
        before = self._clock() - dt.timedelta(days=self._patience.keep_days)
        with writing(self._engine) as connection:
            return int(
                connection.execute(
                    delete(Notice).where(Notice.state != WAITING, Notice.created_at < before)
                ).rowcount
            )

    def run(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set; outages are logged once and waited out."""
        outage, looks = "", 0
        while not stop.is_set():
            try:
                if looks % _SWEEP_EVERY == 0:
                    self.forget()
                looks += 1
                while self.look() == _BATCH and not stop.is_set():
                    pass
            except RecordUnavailable as exc:
                if outage != str(exc):
                    log.warning("waiting: %s", exc, extra={"action": "notice.no_record"})
                outage = str(exc)
            else:
                outage = ""
            stop.wait(_LOOK_S)


def _count(connection: Any, letter: Letter, outcome: str) -> None:
    tallies = Tallies()
    tallies.count(counting.NOTICES, channel=letter.target.partition(":")[0], outcome=outcome)
    tallies.write(connection)
