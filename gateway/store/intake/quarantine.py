"""Lets an instance out of quarantine: it takes the place of the one whose UID it has."""

from __future__ import annotations

from sqlalchemy import Engine, select, update

from gateway.errors import OrderRefused
from gateway.store import audit, states
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.intake.generations import receiving_generation
from gateway.store.tables import Instance


class QuarantineDesk:
    """Releases what is kept apart.

    Parameters
    ----------
    window_s
        Quiet window of the generation that the released instance opens, in seconds.
    """

    def __init__(self, engine: Engine, *, window_s: float, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._window_s = window_s
        self._clock = clock

    def release(self, instance_id: int, *, actor: str, reason: str) -> int:
        """Let the study be analysed with this instance in the place of its namesake.

        Both files stay; the namesake is kept apart from now on. The study's next generation
        supersedes the results there are.

        Parameters
        ----------
        reason
            Why these bytes are the right ones; no patient attribute.

        Returns
        -------
        int
            The study's number in the record.

        Raises
        ------
        OrderRefused
            Without a reason, or when the instance is not in quarantine or its file was purged.
        """
        if not reason.strip():
            raise OrderRefused("say why these bytes are the right ones")
        now = self._clock()
        with writing(self._engine) as connection:
            study_id = connection.execute(
                select(Instance.study_id).where(Instance.id == instance_id)
            ).scalar()
            if study_id is None:
                raise OrderRefused("the record has no such instance")
            states.lock_study(connection, study_id)
            row = connection.execute(
                select(Instance.sop_instance_uid, Instance.disposition, Instance.purged_at).where(
                    Instance.id == instance_id
                )
            ).one()
            if row.disposition != "quarantined" or row.purged_at is not None:
                raise OrderRefused("the instance is not in quarantine")
            generation = receiving_generation(connection, study_id, now, window_s=self._window_s)
            said = f"released from quarantine by {actor}: {reason.strip()}"
            connection.execute(
                update(Instance)
                .where(
                    Instance.study_id == study_id,
                    Instance.sop_instance_uid == row.sop_instance_uid,
                    Instance.disposition == "accepted",
                )
                .values(
                    disposition="quarantined",
                    generation_id=None,
                    reason=f"another instance with its UID was {said}",
                )
            )
            connection.execute(
                update(Instance)
                .where(Instance.id == instance_id)
                .values(disposition="accepted", generation_id=generation.id, reason=said)
            )
            states.note(
                connection,
                now,
                "instance.released",
                study_id=study_id,
                level="warning",
                actor=actor,
                reason=reason.strip(),
                generation=generation.number,
            )
            states.refresh_study(connection, study_id, now)
            audit.append(
                connection,
                now,
                actor,
                "instance.released",
                study=study_id,
                instance=instance_id,
                reason=reason.strip(),
            )
        return int(study_id)
