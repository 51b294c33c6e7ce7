"""What a person may do to one study: see ``Outcome`` and the methods of ``StudyControl``.

Each is one transaction with its line on the timeline and its entry in the audit trail; the command
line, the admin page and REST call the same functions.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, or_, select, update

from gateway.delivery.routes import Route
from gateway.errors import ResendRefused, StudyNotFound
from gateway.rules.plan import URGENT
from gateway.store import audit, states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.intake.study_holds import hold_study, release_study
from gateway.store.tables import Generation, Identity, Study
from gateway.store.work.cancel import CancelAnswer, CancelDesk
from gateway.store.work.redoing import retry_study, unfinished_items
from gateway.store.work.resend import resend_study
from gateway.store.work.upkeep import hurry

MAX_REASON_CHARACTERS = 500
_MAX_LISTED = 5


class Outcome(enum.Enum):
    """What came of an order."""

    DONE = "done"
    UNCHANGED = "unchanged"
    """It was so already, or there was nothing to do it to."""
    HELD = "held"
    """The study is held: release it first."""
    DECLINED = "declined"
    """It is too late: its results are on their way to a PACS, or there."""


@dataclass(frozen=True, kw_only=True)
class FoundStudy:
    """A study that was named."""

    id: int
    study_instance_uid: str


class StudyControl:
    """Carries out the orders."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def find(self, named: str) -> FoundStudy:
        """Return the study with this Study Instance UID, accession number or record id.

        Raises
        ------
        StudyNotFound
            There is none, or several have the accession number; the message lists their ids.
        """
        word = named.strip()
        wanted = [
            Study.study_instance_uid == word,
            (Identity.accession_number == word) & (Identity.accession_number != ""),
        ]
        with reading(self._engine) as connection:
            query = select(Study.id, Study.study_instance_uid).join(
                Identity, Identity.study_id == Study.id, isouter=True
            )
            rows = connection.execute(query.where(or_(*wanted)).order_by(Study.id)).all()
            if not rows and word.isascii() and word.isdigit() and len(word) < 18:
                rows = connection.execute(query.where(Study.id == int(word))).all()
        if not rows:
            raise StudyNotFound(
                "no study is known by this Study Instance UID, accession number or record id"
            )
        if len(rows) > 1:
            ids = ", ".join(str(row.id) for row in rows[:_MAX_LISTED])
            more = ", ..." if len(rows) > _MAX_LISTED else ""
            raise StudyNotFound(
                f"{len(rows)} studies have this accession number; name one by its record id: "
                f"{ids}{more}"
            )
        return FoundStudy(**rows[0]._mapping)

    def complete_now(self, study_id: int, *, actor: str) -> Outcome:
        """Let a receiving study close at the next look of the sweeper, whatever its window."""

        def do(connection: Connection) -> Outcome:
            held_at = connection.execute(
                select(Study.held_at).where(Study.id == study_id)
            ).scalar_one()
            if held_at is not None:
                return Outcome.HELD
            changed = connection.execute(
                update(Generation)
                .where(Generation.study_id == study_id, Generation.state == states.RECEIVING)
                .values(complete_by=actor[:64])
            ).rowcount
            return Outcome.DONE if changed else Outcome.UNCHANGED

        return self._ordered(study_id, "study.complete_now", actor, do)

    def make_urgent(self, study_id: int, *, actor: str) -> Outcome:
        """Put a study's work in front, that of its later generations too."""

        def do(connection: Connection) -> Outcome:
            changed = connection.execute(
                update(Study)
                .where(Study.id == study_id, Study.urgency != URGENT)
                .values(urgency=URGENT)
            ).rowcount
            opened_at = connection.execute(
                select(Study.first_received_at).where(Study.id == study_id)
            ).scalar_one()
            hurry(connection, study_id, opened_at)
            return Outcome.DONE if changed else Outcome.UNCHANGED

        return self._ordered(study_id, "study.made_urgent", actor, do)

    def retry(self, study_id: int, *, actor: str) -> Outcome:
        """Do again what failed, and at once what waits for a later attempt."""

        def do(connection: Connection) -> Outcome:
            done = retry_study(connection, study_id, self._clock(), actor=actor)
            return Outcome.DONE if done else Outcome.UNCHANGED

        return self._ordered(study_id, "study.retried", actor, do)

    def cancel(self, study_id: int, *, actor: str, reason: str) -> Outcome:
        """Cancel the unfinished work of a study; what was received stays.

        Raises
        ------
        ValueError
            Without a reason, or with one that is too long.
        """
        _check_reason(reason)
        desk = CancelDesk(self._engine, self._clock)

        def do(connection: Connection) -> Outcome:
            answers = [
                desk.cancel_within(connection, item, requested_by=actor, reason=reason.strip())
                for item in unfinished_items(connection, study_id)
            ]
            if CancelAnswer.CANCELED in answers:
                return Outcome.DONE
            return Outcome.DECLINED if CancelAnswer.DECLINED in answers else Outcome.UNCHANGED

        return self._ordered(study_id, "study.canceled", actor, do, reason=reason.strip())

    def resend(self, study_id: int, routes: Sequence[Route], *, actor: str) -> Outcome:
        """Send the results of the newest analysed generation once more to all destinations."""

        def do(connection: Connection) -> Outcome:
            try:
                resend_study(connection, study_id, routes, self._clock(), by=actor)
            except ResendRefused:
                return Outcome.UNCHANGED
            return Outcome.DONE

        return self._ordered(study_id, "study.resent", actor, do)

    def hold(self, study_id: int, *, actor: str, reason: str) -> Outcome:
        """Begin nothing for a study until it is released; it goes on receiving.

        Raises
        ------
        ValueError
            Without a reason, or with one that is too long.
        """
        _check_reason(reason)
        now = self._clock()
        with writing(self._engine) as connection:
            done = hold_study(connection, study_id, now, actor=actor, reason=reason.strip())
        return Outcome.DONE if done else Outcome.UNCHANGED

    def release(self, study_id: int, *, actor: str, reason: str = "") -> Outcome:
        """Let a held study go on."""
        now = self._clock()
        with writing(self._engine) as connection:
            done = release_study(connection, study_id, now, actor=actor, reason=reason.strip())
        return Outcome.DONE if done else Outcome.UNCHANGED

    def _ordered(
        self,
        study_id: int,
        action: str,
        actor: str,
        do: Callable[[Connection], Outcome],
        **detail: Any,
    ) -> Outcome:
        now = self._clock()
        with writing(self._engine) as connection:
            # Work items before the study: so do workers, and nobody waits for each other.
            unfinished_items(connection, study_id)
            states.lock_study(connection, study_id)
            outcome = do(connection)
            if outcome is Outcome.DONE:
                states.note(connection, now, action, study_id=study_id, actor=actor, **detail)
                audit.append(connection, now, actor, action, study=study_id, **detail)
        return outcome


def _check_reason(reason: str) -> None:
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARACTERS:
        raise ValueError(f"a reason has 1 to {MAX_REASON_CHARACTERS} characters")
