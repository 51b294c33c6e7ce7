"""The routing part of the record: a closed generation becomes work items, once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from gateway.faults import failpoint
from gateway.rules.plan import HANDICAP_S, Plan, urgency_of
from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.intake.lesions import lesion_columns, with_earlier
from gateway.store.intake.restored import PURGED_INPUT, purged_instances
from gateway.store.tables import Generation, Identity, Instance, Study, WorkItem
from gateway.store.values import GenerationRow, InstanceRow, Scheduled
from gateway.store.work.defects import DEFECT, defects_of_routing

_PRIORITY_STEP_S = 5.0


def load_generation(connection: Connection, generation_id: int) -> GenerationRow:
    """Return a generation with every instance that belongs to it."""
    generation = connection.execute(select(Generation).where(Generation.id == generation_id)).one()
    rows = connection.execute(
        select(
            Instance.sop_instance_uid,
            Instance.sop_class_uid,
            Instance.series_instance_uid,
            Instance.transfer_syntax_uid,
            Instance.modality,
            Instance.path,
            Instance.size_bytes,
            *lesion_columns(),
        )
        .join(Generation, Instance.generation_id == Generation.id)
        .join(Identity, Instance.study_id == Identity.study_id, isouter=True)
        .where(
            Generation.study_id == generation.study_id,
            Generation.number <= generation.number,
            Instance.disposition == "accepted",
            Instance.purged_at.is_(None),
        )
        .order_by(Instance.id)
    ).all()
    return GenerationRow(
        id=generation.id,
        study_id=generation.study_id,
        number=generation.number,
        closed_at=generation.closed_at,
        attempts=generation.attempts,
        plan=Plan.from_json(generation.plan) if generation.plan is not None else Plan(),
        instances=with_earlier(
            connection,
            generation.study_id,
            tuple(InstanceRow(**row._mapping) for row in rows),
        ),
    )


class RoutingLedger:
    """Turns closed generations into work items."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def load_generation(self, generation_id: int) -> GenerationRow | None:
        """Return a closed generation that still needs routing; None when it is routed.

        One whose study has lost instances to retention is routed at once, to nothing: a result
        made of what is left would supersede one that was made of all.
        """
        with reading(self._engine) as connection:
            row = connection.execute(
                select(Generation).where(Generation.id == generation_id)
            ).first()
            if row is None or row.state != states.CLOSED:
                return None
            purged = purged_instances(connection, row.study_id)
            if not purged:
                return load_generation(connection, generation_id)
        reason = f"{PURGED_INPUT} ({purged}); send the whole study again to have it analysed"
        self.record_routing(generation_id, [], reason)
        return None

    def record_routing(
        self,
        generation_id: int,
        scheduled: Sequence[Scheduled],
        reason: str,
        *,
        left_out: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Turn a closed generation into work items, in one transaction.

        Parameters
        ----------
        scheduled
            The analyses; empty when no rule matched.
        reason
            Why nothing was scheduled; shown when ``scheduled`` is empty.
        left_out
            Analysis that would apply -> why it is not run here; for the timeline.

        Returns
        -------
        Ids of the new work items; empty when another worker was first.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            self._lock_study_of(connection, generation_id)
            routed = connection.execute(
                update(Generation)
                .where(Generation.id == generation_id, Generation.state == states.CLOSED)
                .values(
                    state=states.ROUTED,
                    routed_at=now,
                    next_attempt_at=None,
                    reason="" if scheduled else reason,
                )
                .returning(Generation.study_id, Generation.number, Generation.plan)
            ).first()
            if routed is None:
                return []
            urgency = _urgency(connection, routed)
            ids = [
                self._schedule(connection, routed.study_id, generation_id, item, urgency, now)
                for item in scheduled
            ]
            for analysis, why in (left_out or {}).items():
                states.note(
                    connection,
                    now,
                    "analysis.left_out",
                    study_id=routed.study_id,
                    analysis=analysis,
                    reason=why,
                )
            if not scheduled:
                states.note(
                    connection,
                    now,
                    "generation.not_routed",
                    study_id=routed.study_id,
                    level="warning",
                    reason=reason,
                    generation=routed.number,
                )
            states.refresh_study(connection, routed.study_id, now)
            failpoint("routing.commit")
        return ids

    def _lock_study_of(self, connection: Connection, generation_id: int) -> None:
        study_id = connection.execute(
            select(Generation.study_id).where(Generation.id == generation_id)
        ).scalar()
        if study_id is not None:
            states.lock_study(connection, study_id)

    def _schedule(
        self,
        connection: Connection,
        study_id: int,
        generation_id: int,
        item: Scheduled,
        urgency: str,
        now: dt.datetime,
    ) -> int:
        work_item_id = connection.execute(
            insert(WorkItem)
            .values(
                study_id=study_id,
                generation_id=generation_id,
                analysis=item.analysis,
                model_digest=item.model_digest,
                state=states.UPS_SCHEDULED,
                step=states.ANALYSE,
                priority=item.priority,
                urgency=urgency,
                rank_at=rank_of(now, urgency, item.priority),
                next_attempt_at=now,
                # The router tells the broker itself, right after the commit.
                hinted_at=now,
                created_at=now,
                outcome="",
                reason="",
                failure_kind="",
                lease_owner="",
                attempts=0,
                crashes=0,
            )
            .returning(WorkItem.id)
        ).scalar_one()
        states.note(
            connection,
            now,
            "work_item.scheduled",
            study_id=study_id,
            work_item_id=work_item_id,
            analysis=item.analysis,
            reason=item.reason,
            urgency=urgency,
        )
        return int(work_item_id)

    def routing_defects(self, generation_id: int) -> int:
        """Return how often the routing of a generation has failed by a defect until now."""
        with reading(self._engine) as connection:
            return defects_of_routing(connection, generation_id)

    def postpone_routing(
        self, generation_id: int, reason: str, delay_s: float, *, is_defect: bool = False
    ) -> None:
        """Try a generation again later, e.g. because the spool could not be read."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._lock_study_of(connection, generation_id)
            postponed = connection.execute(
                update(Generation)
                .where(Generation.id == generation_id, Generation.state == states.CLOSED)
                .values(
                    next_attempt_at=now + dt.timedelta(seconds=delay_s),
                    attempts=Generation.attempts + 1,
                    reason=reason,
                )
                .returning(Generation.study_id, Generation.number, Generation.attempts)
            ).first()
            if postponed is None:
                return
            states.note(
                connection,
                now,
                "generation.postponed",
                study_id=postponed.study_id,
                level="warning",
                reason=reason,
                generation=postponed.number,
                attempt=postponed.attempts,
                retry_in_s=round(delay_s, 1),
                kind=DEFECT if is_defect else "TRANSIENT",
            )
            states.refresh_study(connection, postponed.study_id, now)


def rank_of(moment: dt.datetime, urgency: str, priority: int) -> dt.datetime:
    """Return the place of work in the order of claims, as a moment.

    Work is overtaken only by what comes less than its handicap later, so nothing starves, however
    much urgent work comes.

    Parameters
    ----------
    moment
        When the work was made.
    urgency
        Of the study: it counts in minutes.
    priority
        Of the analysis, 0 to 9, higher first: it counts in seconds.

    Examples
    --------
    >>> noon = dt.datetime(2026, 3, 1, 12, 0)
    >>> rank_of(noon, "urgent", 9) < rank_of(noon, "routine", 9) < rank_of(noon, "low", 9)
    True
    """
    handicap_s = HANDICAP_S[urgency_of(urgency)] + _PRIORITY_STEP_S * (9 - min(max(priority, 0), 9))
    return moment + dt.timedelta(seconds=handicap_s)


def _urgency(connection: Connection, routed: Any) -> str:
    """Return what a person said of the study, else what the rules said of its generation."""
    by_hand = connection.execute(
        select(Study.urgency).where(Study.id == routed.study_id)
    ).scalar_one()
    return urgency_of(by_hand or str((routed.plan or {}).get("urgency", "")))
