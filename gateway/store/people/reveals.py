"""Patient attributes, shown on purpose: one study, one session, for some minutes, audited."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.audit import append
from gateway.store.engine import Clock, reading, utc_now, writing
from gateway.store.tables import Identity, Reveal


@dataclass(frozen=True, kw_only=True)
class PatientIdentity:
    """What is masked until it is revealed; as the study's header has it."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_description: str


class Reveals:
    """Says what of a study may be shown in a session.

    Parameters
    ----------
    minutes
        How long one reveal lasts.
    """

    def __init__(self, engine: Engine, *, minutes: float, clock: Clock = utc_now) -> None:
        self._engine = engine
        self._minutes = minutes
        self._clock = clock

    def reveal(
        self, study_id: int, *, actor: str, session_sha256: str = ""
    ) -> PatientIdentity | None:
        """Return the patient attributes of a study, audited; None where it has none.

        Parameters
        ----------
        session_sha256
            Session in which they stay shown for a while; empty for a single request.
        """
        now = self._clock()
        with writing(self._engine) as connection:
            found = _identity(connection, study_id)
            if found is None:
                return None
            if session_sha256:
                dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
                until = now + dt.timedelta(minutes=self._minutes)
                connection.execute(
                    dialect.insert(Reveal)
                    .values(token_sha256=session_sha256, study_id=study_id, until=until)
                    .on_conflict_do_update(
                        index_elements=["token_sha256", "study_id"], set_={"until": until}
                    )
                )
            append(connection, now, actor, "identity.revealed", study=study_id)
        return found

    def hide(self, study_id: int, session_sha256: str) -> None:
        """Mask a study again before its time."""
        with writing(self._engine) as connection:
            connection.execute(
                delete(Reveal).where(
                    Reveal.token_sha256 == session_sha256, Reveal.study_id == study_id
                )
            )

    def shown(
        self, study_id: int, session_sha256: str
    ) -> tuple[PatientIdentity, dt.datetime] | None:
        """Return what is revealed of a study in a session and until when; None while masked."""
        now = self._clock()
        with reading(self._engine) as connection:
            until = connection.execute(
                select(Reveal.until).where(
                    Reveal.token_sha256 == session_sha256,
                    Reveal.study_id == study_id,
                    Reveal.until > now,
                )
            ).scalar()
            found = _identity(connection, study_id) if until is not None else None
        return (found, until) if found is not None and until is not None else None


def _identity(connection: Connection, study_id: int) -> PatientIdentity | None:
    columns = [getattr(Identity, name) for name in PatientIdentity.__dataclass_fields__]
    row = connection.execute(select(*columns).where(Identity.study_id == study_id)).first()
    return PatientIdentity(**row._mapping) if row is not None else None
