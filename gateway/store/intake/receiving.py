"""The receiving half of the record: instances, refusals, generations of studies."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gateway.dicom.part10 import InstanceHeader
from gateway.faults import failpoint
from gateway.listener.ports import AssociationInfo, Registration
from gateway.rules.ruleset import RuleSet
from gateway.settings import CompletenessSettings
from gateway.spool import StoredFile
from gateway.store import states
from gateway.store.engine import Clock, utc_now, writing
from gateway.store.group_commit import GroupCommit
from gateway.store.intake.arrivals import instance_values, join_receiving
from gateway.store.intake.closing import ClosingDesk
from gateway.store.intake.documents import attach_waiting
from gateway.store.intake.generations import end_association, receiving_generation
from gateway.store.intake.lesions import PRIOR, patient_key
from gateway.store.intake.own_results import is_ours_at_a_glance
from gateway.store.intake.restored import restore_instance
from gateway.store.tables import (
    Identity,
    Instance,
    Refusal,
    Study,
)

SLIDE_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"

_RACE_ATTEMPTS = 5

_DISPOSITIONS = {
    Registration.NEW: "accepted",
    Registration.CONFLICT: "quarantined",
    Registration.OWN_RESULT: "own_result",
    Registration.PRIOR: PRIOR,
}

_IDENTITY_FIELDS = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
    "study_description",
)


class Intake:
    """Writes what arrives; implements ``gateway.listener.ports.InstanceRecord``.

    Every method is one transaction: it is committed when it returns, and nothing was written when
    it raises ``RecordUnavailable``.
    """

    def __init__(
        self, engine: Engine, completeness: CompletenessSettings, clock: Clock = utc_now
    ) -> None:
        self._engine = engine
        self._completeness = completeness
        self._clock = clock
        self._together: GroupCommit[Registration] = GroupCommit(engine)

    def register_instance(
        self,
        *,
        header: InstanceHeader,
        stored: StoredFile,
        association: AssociationInfo,
        is_fetched: bool = False,
    ) -> Registration:
        """Commit one received instance.

        Parameters
        ----------
        is_fetched
            Whether we asked for it ourselves: it is kept for comparison, opens no generation and
            is analysed only once it is sent like any other instance.

        Notes
        -----
        Two associations that send the same instance at once race for the unique key; the loser
        looks again and finds a duplicate.
        """

        def work(connection: Connection) -> Registration:
            return self._register(connection, header, stored, association, is_fetched=is_fetched)

        for _ in range(_RACE_ATTEMPTS - 1):
            try:
                return self._together.run(header.study_instance_uid, work)
            except IntegrityError:
                continue
        return self._together.run(header.study_instance_uid, work)

    def _register(
        self,
        connection: Connection,
        header: InstanceHeader,
        stored: StoredFile,
        association: AssociationInfo,
        *,
        is_fetched: bool,
    ) -> Registration:
        now = self._clock()
        if not is_fetched and join_receiving(
            connection, header, stored, association, now, self._window_s(header)
        ):
            failpoint("intake.commit")
            return Registration.NEW
        known = connection.execute(
            select(Instance.id, Instance.sha256, Instance.disposition, Instance.purged_at).where(
                Instance.sop_instance_uid == header.sop_instance_uid
            )
        ).all()
        same = next((row for row in known if row.sha256 == stored.sha256), None)
        if same is not None and same.purged_at is not None:
            restore_instance(connection, same.id, stored, now, self._completeness.quiet_window_s)
        if same is not None and (is_fetched or same.disposition != PRIOR):
            return Registration.DUPLICATE
        study_id = self._study(connection, header, now)
        if same is not None:
            self._promote(connection, same.id, study_id, header, now)
            return Registration.NEW
        if is_ours_at_a_glance(connection, header):
            registration = Registration.OWN_RESULT
        elif is_fetched:
            registration = Registration.PRIOR
        elif any(row.disposition != PRIOR for row in known):
            registration = Registration.CONFLICT
        else:
            registration = Registration.NEW
        self._insert(connection, header, stored, association, (registration, study_id, now))
        states.refresh_study(connection, study_id, now)
        failpoint("intake.commit")
        return registration

    def _promote(
        self,
        connection: Connection,
        instance_id: int,
        study_id: int,
        header: InstanceHeader,
        now: dt.datetime,
    ) -> None:
        """Let an image that was fetched before, and is now sent to us, be analysed."""
        connection.execute(
            update(Instance)
            .where(Instance.id == instance_id)
            .values(
                disposition="accepted",
                generation_id=self._open_generation(connection, study_id, header, now),
                received_at=now,
            )
        )
        states.refresh_study(connection, study_id, now)

    def _insert(
        self,
        connection: Connection,
        header: InstanceHeader,
        stored: StoredFile,
        association: AssociationInfo,
        decision: tuple[Registration, int, dt.datetime],
    ) -> None:
        registration, study_id, now = decision
        is_conflict = registration is Registration.CONFLICT
        reason = "the SOP Instance UID was received before with other bytes" if is_conflict else ""
        generation_id = None
        if registration is Registration.NEW:
            generation_id = self._open_generation(connection, study_id, header, now)
        connection.execute(
            insert(Instance).values(
                study_id=study_id,
                generation_id=generation_id,
                disposition=_DISPOSITIONS[registration],
                reason=reason,
                **instance_values(header, stored, association, now),
            )
        )
        if is_conflict:
            states.note(
                connection,
                now,
                "instance.conflict",
                study_id=study_id,
                level="alarm",
                reason=reason,
            )
        elif registration in (Registration.OWN_RESULT, Registration.PRIOR):
            states.note(connection, now, f"instance.{registration.value}", study_id=study_id)

    def _study(self, connection: Connection, header: InstanceHeader, now: dt.datetime) -> int:
        found = connection.execute(
            select(Study.id).where(Study.study_instance_uid == header.study_instance_uid)
        ).scalar()
        if found is not None:
            connection.execute(update(Study).where(Study.id == found).values(last_received_at=now))
            return int(found)
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        created = connection.execute(
            dialect.insert(Study)
            .values(
                study_instance_uid=header.study_instance_uid,
                state=states.RECEIVED,
                reason="",
                first_received_at=now,
                last_received_at=now,
                state_changed_at=now,
            )
            .on_conflict_do_update(
                index_elements=[Study.study_instance_uid], set_={"last_received_at": now}
            )
            .returning(Study.id)
        ).scalar_one()
        connection.execute(
            dialect.insert(Identity)
            .values(
                study_id=created,
                patient_key=patient_key(header.issuer_of_patient_id, header.patient_id),
                **{name: getattr(header, name) for name in _IDENTITY_FIELDS},
            )
            .on_conflict_do_nothing()
        )
        return int(created)

    def _window_s(self, header: InstanceHeader) -> float:
        if header.sop_class_uid == SLIDE_SOP_CLASS:
            return self._completeness.slide_quiet_window_s
        return self._completeness.quiet_window_s

    def _open_generation(
        self, connection: Connection, study_id: int, header: InstanceHeader, now: dt.datetime
    ) -> int:
        """Return the receiving generation of a study, opening the next one when none is."""
        found = receiving_generation(
            connection,
            study_id,
            now,
            window_s=self._window_s(header),
            most_per_hour=self._completeness.generations_per_hour,
        )
        if found.is_new and found.number == 1:
            attach_waiting(connection, study_id, now)
        return found.id

    def register_refusal(
        self,
        *,
        association: AssociationInfo,
        status: int,
        reason: str,
        stored: StoredFile | None,
        header: InstanceHeader | None,
    ) -> None:
        """Note an instance that was not accepted, with the DIMSE status answered."""
        now = self._clock()
        with writing(self._engine) as connection:
            study_id = None
            if header is not None and 0 < len(header.study_instance_uid) <= 64:
                study_id = self._study(connection, header, now)
            connection.execute(
                insert(Refusal).values(
                    at=now,
                    study_id=study_id,
                    association_id=association.association_id,
                    calling_ae_title=association.calling_ae_title,
                    status=status,
                    reason=reason,
                    sop_class_uid=header.sop_class_uid[:64] if header else "",
                    sop_instance_uid=header.sop_instance_uid[:64] if header else "",
                    path=str(stored.relative_path) if stored else "",
                )
            )
            states.note(
                connection,
                now,
                "instance.refused",
                study_id=study_id,
                level="warning",
                status=f"{status:04X}",
                reason=reason,
            )
            if study_id is not None:
                states.refresh_study(connection, study_id, now)

    def register_association(self, association: AssociationInfo, *, outcome: str) -> None:
        """Note how an association began or ended."""
        now = self._clock()
        with writing(self._engine) as connection:
            states.note(
                connection,
                now,
                f"association.{outcome}",
                level="info" if outcome in {"accepted", "released"} else "warning",
                calling_ae_title=association.calling_ae_title,
                peer_address=association.peer_address,
                association_id=association.association_id,
            )
            if outcome in ("released", "aborted"):
                end_association(connection, association.association_id, outcome, now)

    def close_due_generations(self) -> int:
        """Close every generation whose quiet window has passed, by the built-in rules."""
        return ClosingDesk(self._engine, clock=self._clock).close_due(RuleSet())
