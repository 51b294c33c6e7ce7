"""What shortens the wait after a fault: a dead worker's leases end, work that waited is due now.

Neither is needed for the work to be done: leases run out and pauses end by themselves. A lease that
is ended too early costs a step done twice, of which one is recorded, since every write names its
token.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from sqlalchemy import Engine, select, update

from gateway.store import states
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import WorkItem


class RecoveryDesk:
    """Ends leases and pauses that nothing stands behind any more."""

    def __init__(self, engine: Engine, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def end_leases(self, host: str, is_alive: Callable[[int], bool]) -> int:
        """End the leases of processes of this host that are no more; return how many.

        Their next claim still counts a crash, as when a lease has run out.

        Parameters
        ----------
        host
            As in the name of an owner, ``HOST:PID``.
        is_alive
            Whether a process id is that of a living process.

        Raises
        ------
        RecordUnavailable
            The database does not answer.
        """
        now = self._clock()
        held = (WorkItem.lease_token.is_not(None), WorkItem.lease_expires_at >= now)
        with reading(self._engine) as connection:
            owners = connection.execute(select(WorkItem.lease_owner).where(*held).distinct())
            dead = [owner for owner in owners.scalars() if _is_dead(owner, host, is_alive)]
        if not dead:
            return 0
        with writing(self._engine) as connection:
            return connection.execute(
                update(WorkItem)
                .where(WorkItem.lease_owner.in_(dead), *held)
                .values(lease_expires_at=now - dt.timedelta(milliseconds=1), hinted_at=None)
            ).rowcount

    def wake_analysis(self, analysis: str) -> int:
        """Make the work items of an analysis due that a passing failure has put off.

        Returns
        -------
        How many.

        Raises
        ------
        RecordUnavailable
            The database does not answer.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            return connection.execute(
                update(WorkItem)
                .where(
                    WorkItem.analysis == analysis,
                    WorkItem.step == states.ANALYSE,
                    WorkItem.state.not_in(states.UPS_FINAL),
                    WorkItem.failure_kind == "TRANSIENT",
                    WorkItem.lease_token.is_(None),
                    WorkItem.next_attempt_at > now,
                )
                .values(next_attempt_at=now, hinted_at=None)
            ).rowcount


def _is_dead(owner: str, host: str, is_alive: Callable[[int], bool]) -> bool:
    name, _, number = owner.rpartition(":")
    return name == host and number.isdigit() and not is_alive(int(number))
