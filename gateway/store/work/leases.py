"""Who holds which work item, and until when.

A worker *claims* a work item with one conditional UPDATE that writes a fresh token and an expiry;
every later write names the token, so a worker whose lease ran out (it hung, or its host slept)
changes nothing any more. What nobody holds is announced again by the sweeper.
"""

from __future__ import annotations

import datetime as dt
import uuid
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, func, select, update

from gateway.errors import LeaseLost
from gateway.store import states
from gateway.store.engine import reading, writing
from gateway.store.tables import WorkItem
from gateway.store.values import Claim
from gateway.store.work.defects import DEFECT, defects_of_step
from gateway.store.work.hints import HintBoard, in_order_of_claims, is_due
from gateway.store.work.routing import load_generation

MAX_CRASHES = 5
"""Workers that may die at one step of one work item before it is set aside."""
_CANDIDATES = 8  # others may take the first ones while we look
_TURN_S = 2.0  # until a work item that found no free place is announced again
NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None}
AS_NEW: dict[str, Any] = {
    **NO_LEASE,
    "state": states.UPS_SCHEDULED,
    "reason": "",
    "failure_kind": "",
    "attempts": 0,
    "crashes": 0,
    "finished_at": None,
    "hinted_at": None,
}
"""Values of a work item that is tried again as if it never had been."""
"""Columns of a work item that nobody holds."""


class LeaseDesk(HintBoard):
    """Gives work items out, takes them back, and ends them."""

    def claim_next(
        self,
        hinted_id: int,
        *,
        owner: str,
        lease_s: float,
        analyses: Collection[str],
        at_most: Mapping[str, int] | None = None,
    ) -> Claim | None:
        """Take the foremost work item that is due at the step of a hinted one.

        A hint says that there is work; which comes first is decided here, by rank, so that what is
        urgent overtakes the hints that lie before its own in the broker. Nothing starves: the rank
        is a moment, later by a bounded span for what is less urgent.

        Parameters
        ----------
        hinted_id
            What the broker named; it tells the step.
        owner, lease_s, at_most
            As for ``claim``.
        analyses
            Those that this worker may analyse; delivering is open to all.
        """
        now = self._clock()
        full = self._full(at_most, now)
        with reading(self._engine) as connection:
            step = connection.execute(
                select(WorkItem.step).where(WorkItem.id == hinted_id)
            ).scalar()
            if step is None:
                return None
            query = select(WorkItem.id).where(is_due(now), WorkItem.step == step)
            if step == states.ANALYSE:
                open_to = [name for name in analyses if name not in full]
                query = query.where(WorkItem.analysis.in_(open_to))
            candidates = list(
                connection.execute(query.order_by(*in_order_of_claims()).limit(_CANDIDATES))
                .scalars()
                .all()
            )
        # The hinted one goes last: a claim puts it off where its analysis has no free place.
        for work_item_id in (*candidates, *({hinted_id} - set(candidates))):
            claim = self.claim(work_item_id, owner=owner, lease_s=lease_s, at_most=at_most)
            if claim is not None:
                return claim
        return None

    def _full(self, at_most: Mapping[str, int] | None, now: dt.datetime) -> list[str]:
        """Return the analyses of which as many run as may."""
        with reading(self._engine) as connection:
            running = connection.execute(
                select(WorkItem.analysis, func.count())
                .where(
                    WorkItem.step == states.ANALYSE,
                    WorkItem.state == states.UPS_IN_PROGRESS,
                    WorkItem.lease_expires_at >= now,
                )
                .group_by(WorkItem.analysis)
            ).all()
        return [name for name, count in running if count >= (at_most or {}).get(name, count + 1)]

    def claim(
        self,
        work_item_id: int,
        *,
        owner: str,
        lease_s: float,
        at_most: Mapping[str, int] | None = None,
    ) -> Claim | None:
        """Take a work item that is due and that nobody holds; None when there is nothing to take.

        A lease that ran out counts as a crash of its worker; after ``MAX_CRASHES`` at one step the
        work item is canceled with that reason, so that a poisonous input cannot kill for ever.

        Parameters
        ----------
        work_item_id
            What a hint named.
        owner
            Names the worker in the timeline.
        lease_s
            How long it is held without a heartbeat.
        at_most
            Analysis -> work items of it that may be analysed at a time, over all workers; one
            more stays scheduled and is announced again soon.
        """
        now = self._clock()
        token = uuid.uuid4().hex
        expires_at = now + dt.timedelta(seconds=lease_s)
        with writing(self._engine) as connection:
            row = connection.execute(
                select(WorkItem)
                .where(WorkItem.id == work_item_id, is_due(now))
                .with_for_update(skip_locked=True, key_share=True)
            ).first()
            if row is None:
                return None
            if row.step == states.ANALYSE and not self._has_place(connection, row, at_most, now):
                return None
            crashes = row.crashes + (1 if row.lease_token is not None else 0)
            if crashes >= MAX_CRASHES:
                self._cancel(
                    connection,
                    row,
                    now,
                    kind="DEFECT",
                    reason=f"{crashes} workers died at this step ({row.step})",
                )
                return None
            connection.execute(
                update(WorkItem)
                .where(WorkItem.id == work_item_id)
                .values(
                    state=states.UPS_IN_PROGRESS,
                    lease_token=token,
                    lease_owner=owner,
                    lease_expires_at=expires_at,
                    started_at=row.started_at or now,
                    attempts=row.attempts + 1,
                    crashes=crashes,
                )
            )
            states.note(
                connection,
                now,
                f"work_item.{row.step}.started",
                study_id=row.study_id,
                work_item_id=row.id,
                level="warning" if row.lease_token is not None else "info",
                analysis=row.analysis,
                worker=owner,
                attempt=row.attempts + 1,
                **({"after": "the worker before died"} if row.lease_token is not None else {}),
            )
            states.refresh_study(connection, row.study_id, now)
            generation = load_generation(connection, row.generation_id)
        return Claim(
            work_item_id=work_item_id,
            token=token,
            step=row.step,
            analysis=row.analysis,
            model_digest=row.model_digest,
            attempt=row.attempts + 1,
            created_at=row.created_at,
            expires_at=expires_at,
            generation=generation,
        )

    def _has_place(
        self, connection: Connection, row: Any, at_most: Mapping[str, int] | None, now: dt.datetime
    ) -> bool:
        """Whether one more of this analysis may run; if not, it is put off for a moment."""
        bound = (at_most or {}).get(row.analysis)
        if bound is None:
            return True
        if connection.dialect.name == "postgresql":
            # Two claims must not count at the same time; SQLite has one writer anyway.
            key = zlib.crc32(row.analysis.encode())
            connection.execute(select(func.pg_advisory_xact_lock(key)))
        running = connection.execute(
            select(func.count())
            .select_from(WorkItem)
            .where(
                WorkItem.analysis == row.analysis,
                WorkItem.step == states.ANALYSE,
                WorkItem.state == states.UPS_IN_PROGRESS,
                WorkItem.lease_expires_at >= now,
            )
        ).scalar_one()
        if running < bound:
            return True
        connection.execute(
            update(WorkItem)
            .where(WorkItem.id == row.id)
            .values(next_attempt_at=now + dt.timedelta(seconds=_TURN_S), hinted_at=None)
        )
        return False

    def extend(self, claim: Claim, lease_s: float) -> None:
        """Heartbeat: hold the work item for another ``lease_s`` seconds.

        Raises
        ------
        LeaseLost
            Somebody else has it.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_expires_at=now + dt.timedelta(seconds=lease_s))

    def _fenced(self, connection: Connection, claim: Claim, **values: Any) -> None:
        changed = connection.execute(
            update(WorkItem)
            .where(WorkItem.id == claim.work_item_id, WorkItem.lease_token == claim.token)
            .values(**values)
        ).rowcount
        if changed != 1:
            raise LeaseLost(f"work item {claim.work_item_id} is held by another worker")

    def change_model(self, claim: Claim, model_digest: str) -> None:
        """Bind a claimed work item, of which nothing was made yet, to another model digest.

        When the generation has a work item for that digest already, this one is canceled in its
        favour.

        Raises
        ------
        LeaseLost
            Somebody else has it, or it was canceled.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_owner=WorkItem.lease_owner)
            row = connection.execute(
                select(WorkItem).where(WorkItem.id == claim.work_item_id)
            ).one()
            twin = connection.execute(
                select(WorkItem.id).where(
                    WorkItem.generation_id == row.generation_id,
                    WorkItem.analysis == row.analysis,
                    WorkItem.model_digest == model_digest,
                )
            ).scalar()
            if twin is None:
                connection.execute(
                    update(WorkItem).where(WorkItem.id == row.id).values(model_digest=model_digest)
                )
                states.note(
                    connection,
                    now,
                    "work_item.model_changed",
                    study_id=row.study_id,
                    work_item_id=row.id,
                    analysis=row.analysis,
                    model_digest=model_digest,
                )
            else:
                self._cancel(
                    connection,
                    row,
                    now,
                    kind="REJECTED",
                    reason="another version of the model was put in service; the study has its "
                    "result from that one",
                )
        if twin is not None:
            raise LeaseLost(f"work item {claim.work_item_id} was canceled")

    def defects(self, claim: Claim) -> int:
        """Return how often the claimed step has failed by a defect until now."""
        study_id = claim.generation.study_id
        with reading(self._engine) as connection:
            return defects_of_step(connection, study_id, claim.work_item_id, claim.step)

    def retry_later(
        self,
        claim: Claim,
        *,
        reason: str,
        delay_s: float,
        is_expected: bool = False,
        is_defect: bool = False,
    ) -> None:
        """Give the work item back after a failure; it is due again after ``delay_s``.

        ``is_expected``: nothing failed; somebody else has to answer first. ``is_defect``: it
        counts towards the attempts that a defect has.
        """
        kind = DEFECT if is_defect else "TRANSIENT"
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(
                connection,
                claim,
                reason=reason,
                failure_kind="" if is_expected else kind,
                next_attempt_at=now + dt.timedelta(seconds=delay_s),
                hinted_at=None,
                **NO_LEASE,
            )
            states.note(
                connection,
                now,
                f"work_item.{claim.step}.postponed",
                study_id=claim.generation.study_id,
                work_item_id=claim.work_item_id,
                level="info" if is_expected else "warning",
                analysis=claim.analysis,
                reason=reason,
                attempt=claim.attempt,
                retry_in_s=round(delay_s, 1),
                **({} if is_expected else {"kind": kind}),
            )
            states.refresh_study(connection, claim.generation.study_id, now)

    def fail(self, claim: Claim, *, kind: str, reason: str) -> None:
        """Cancel the work item for good: ``REJECTED`` (the input) or ``DEFECT`` (our software)."""
        now = self._clock()
        with writing(self._engine) as connection:
            self._fenced(connection, claim, lease_owner=WorkItem.lease_owner)
            row = connection.execute(
                select(WorkItem).where(WorkItem.id == claim.work_item_id)
            ).one()
            self._cancel(connection, row, now, kind=kind, reason=reason)

    def _cancel(
        self, connection: Connection, row: Any, now: dt.datetime, *, kind: str, reason: str
    ) -> None:
        connection.execute(
            update(WorkItem)
            .where(WorkItem.id == row.id)
            .values(
                state=states.UPS_CANCELED,
                failure_kind=kind,
                reason=reason,
                finished_at=now,
                next_attempt_at=None,
                **NO_LEASE,
            )
        )
        states.note(
            connection,
            now,
            "work_item.failed",
            study_id=row.study_id,
            work_item_id=row.id,
            level="alarm" if kind == "DEFECT" else "warning",
            analysis=row.analysis,
            kind=kind,
            reason=reason,
        )
        states.refresh_study(connection, row.study_id, now)
