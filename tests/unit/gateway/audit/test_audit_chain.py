"""The chain of the audit trail: one, whole, and every change to it is found."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from gateway.audit.summary import summarise
from gateway.store import audit
from gateway.store.audit import Anchor, Trail, entry_digest
from gateway.store.engine import reading, writing
from gateway.store.tables import AuditEntry, AuditState, Event
from tests.records import START, Record, association, header, stored


def add(record: Record, count: int = 1, actor: str = "admin") -> None:
    for number in range(count):
        with writing(record.engine) as connection:
            audit.append(connection, record.clock(), actor, "login", number=number)


def tamper(record: Record, *statements) -> None:
    """Change the trail as somebody with the database's own rights can."""
    with record.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_trail DISABLE TRIGGER USER"))
        else:
            for verb in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER audit_trail_no_{verb}"))
        for statement in statements:
            connection.execute(statement)
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_trail ENABLE TRIGGER USER"))


def faults(record: Record, anchors=()) -> tuple[str, ...]:
    return Trail(record.engine).verify(anchors).faults


def test_untouched_trail_is_whole(record):
    add(record, 5)
    found = Trail(record.engine).verify()
    assert found.faults == ()
    assert found.entries == 5
    assert Trail(record.engine).head().sha256 == found.head_sha256


def test_empty_trail_is_whole(record):
    assert Trail(record.engine).verify().entries == 0
    assert faults(record) == ()


def test_digest_covers_every_field():
    values = {"id": 3, "at": START, "actor": "a", "action": "b", "detail": {"c": 1}}
    before = entry_digest(**values, previous_sha256="d")
    for change in ({"id": 4}, {"actor": "A"}, {"action": "x"}, {"detail": {"c": 2}}):
        assert entry_digest(**(values | change), previous_sha256="d") != before
    assert entry_digest(**values, previous_sha256="e") != before


def test_entries_cannot_be_changed_or_removed(record):
    add(record, 2)
    for statement in (
        update(AuditEntry).where(AuditEntry.id == 1).values(actor="nobody"),
        delete(AuditEntry).where(AuditEntry.id == 2),
    ):
        with pytest.raises(DBAPIError, match="append-only"), record.engine.begin() as connection:
            connection.execute(statement)
    assert faults(record) == ()


def test_trail_of_postgresql_cannot_be_truncated(record):
    if record.engine.dialect.name != "postgresql":
        return  # SQLite has no TRUNCATE
    add(record)
    with pytest.raises(DBAPIError, match="append-only"), record.engine.begin() as connection:
        connection.execute(text("TRUNCATE audit_trail"))


def test_changed_entry_is_found(record):
    add(record, 4)
    tamper(record, update(AuditEntry).where(AuditEntry.id == 2).values(actor="nobody"))
    assert faults(record) == ("entry 2 was changed",)


def test_entry_that_was_changed_with_its_digest_is_found(record):
    add(record, 4)
    with reading(record.engine) as connection:
        row = connection.execute(select(AuditEntry).where(AuditEntry.id == 2)).one()
    forged = entry_digest(2, row.at, "nobody", row.action, row.detail, row.previous_sha256)
    tamper(
        record,
        update(AuditEntry).where(AuditEntry.id == 2).values(actor="nobody", sha256=forged),
    )
    assert faults(record) == ("entry 3 does not follow the entry before it",)


def test_removed_entry_is_found(record):
    add(record, 4)
    tamper(record, delete(AuditEntry).where(AuditEntry.id == 2))
    assert "entries 2 to 2 are missing" in faults(record)


def test_trail_that_was_cut_off_is_found(record):
    add(record, 4)
    tamper(record, delete(AuditEntry).where(AuditEntry.id > 2))
    assert faults(record) == ("the trail ends at entry 2; its head speaks of 4 entries",)


def test_entries_that_changed_places_are_found(record):
    add(record, 3)
    tamper(
        record,
        update(AuditEntry).where(AuditEntry.id == 1).values(id=9),
        update(AuditEntry).where(AuditEntry.id == 2).values(id=1),
        update(AuditEntry).where(AuditEntry.id == 9).values(id=2),
    )
    assert len(faults(record)) >= 2


def rewritten(record: Record, entries: int) -> list:
    """Statements that make a trail of the same length that is whole, but another one."""
    made, previous = [delete(AuditEntry)], ""
    for number in range(1, entries + 1):
        digest = entry_digest(number, START, "nobody", "login", {}, previous)
        values = {"id": number, "at": START, "actor": "nobody", "action": "login", "detail": {}}
        made.append(insert(AuditEntry).values(**values, previous_sha256=previous, sha256=digest))
        previous = digest
    return [*made, update(AuditState).values(entries=entries, sha256=previous)]


def test_trail_that_was_written_anew_is_found_by_an_anchor(record):
    add(record, 3)
    head = Trail(record.engine).head()
    tamper(record, *rewritten(record, 3))
    assert faults(record) == ()  # the record alone cannot know
    anchor = Anchor(id=head.entries, sha256=head.sha256)
    assert faults(record, [anchor]) == ("entry 3 is not the one that was handed on",)


def test_trail_that_was_cut_off_with_its_head_is_found_by_an_anchor(record):
    add(record, 3)
    head = Trail(record.engine).head()
    tamper(record, *rewritten(record, 2))
    (fault,) = faults(record, [Anchor(id=3, sha256=head.sha256)])
    assert "missing" in fault


def test_faults_are_counted_when_there_are_many(record):
    add(record, 40)
    tamper(record, update(AuditEntry).values(actor="nobody"))
    found = faults(record)
    assert len(found) == audit.MAX_FAULTS + 1
    assert found[-1] == "and 20 more"


def test_writers_at_once_make_one_chain(record):
    errors = []

    def work(name: str) -> None:
        try:
            add(record, 15, name)
        except Exception as exc:  # shown by the assertion below
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    found = Trail(record.engine).verify()
    assert (found.entries, found.faults) == (60, ())


def test_entry_goes_with_the_transaction_that_it_belongs_to(record):
    def fail() -> None:
        with writing(record.engine) as connection:
            audit.append(connection, START, "admin", "login")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Trail(record.engine).verify().entries == 0


def test_actor_may_be_anything(record):
    with writing(record.engine) as connection:
        audit.append(connection, START, "a\0b" + "\ud7ff" * 100, "login", text='"\\\n\x01é')
    assert faults(record) == ()


# -- the timeline, summed up --------------------------------------------------------------------


def actions(record: Record) -> list[str]:
    return [entry.action for entry in Trail(record.engine).entries()]


def test_a_study_is_told_in_few_entries(record):
    record.completed()
    assert summarise(record.engine, record.clock)
    assert actions(record) == [
        "instances.begun",
        "instances.transferred",
        "procedure.scheduled",
        "instances.accessed",
        "results.begun",
        "results.transferred",
    ]
    assert summarise(record.engine, record.clock) == 0
    assert faults(record) == ()


def test_many_instances_are_one_transfer(record):
    first = header()
    for _ in range(30):
        new = header(study_instance_uid=first.study_instance_uid)
        record.intake.register_instance(
            header=new, stored=stored(), association=association(peer_address="192.0.2.9")
        )
    record.close()
    summarise(record.engine, record.clock)
    (transfer,) = [e for e in Trail(record.engine).entries() if e.action.endswith("transferred")]
    assert transfer.actor == "CAMERA"
    assert transfer.detail["peer"] == "192.0.2.9"
    assert list(transfer.detail["classes"].values()) == [30]


def test_rejected_callers_are_counted_not_listed(record):
    for _ in range(25):
        record.intake.register_association(
            association(calling_ae_title="SCAN", peer_address="203.0.113.5"), outcome="rejected"
        )
    summarise(record.engine, record.clock)
    (alert,) = Trail(record.engine).entries()
    assert (alert.action, alert.actor) == ("association.rejected", "SCAN")
    assert (alert.detail["count"], alert.detail["peer"]) == (25, "203.0.113.5")


def test_refusals_name_their_sender_once(record):
    for _ in range(7):
        record.intake.register_refusal(
            association=association(calling_ae_title="BROKEN"),
            status=0xC001,
            reason="the data set ends early",
            stored=None,
            header=header(study_instance_uid="1.2.3"),
        )
        record.clock.advance(1)
    summarise(record.engine, record.clock)
    (alert,) = Trail(record.engine).entries()
    assert (alert.actor, alert.detail["count"], alert.detail["status"]) == ("BROKEN", 7, "C001")


def test_a_line_that_appears_late_is_not_left_out(record):
    """PostgreSQL hands out ids before the commit: a lower one may appear after a higher one."""

    def reject(number: int) -> None:
        with writing(record.engine) as connection:
            connection.execute(
                insert(Event).values(
                    id=number,
                    at=START,
                    action="association.rejected",
                    level="warning",
                    detail={"calling_ae_title": "LATE", "peer_address": "203.0.113.6"},
                )
            )
        summarise(record.engine, record.clock)

    reject(13)
    reject(11)
    assert actions(record) == ["association.rejected"] * 2
    record.clock.advance(3600)  # what is missing still was rolled back
    reject(14)
    with reading(record.engine) as connection:
        assert audit.cursor(connection) == (14, {})


def test_two_sweepers_tell_everything_once(record):
    for _ in range(3):
        record.completed()
    threads = [
        threading.Thread(target=lambda: [summarise(record.engine, record.clock) for _ in range(2)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert actions(record).count("instances.accessed") == 3
    assert faults(record) == ()


def test_no_patient_attribute_is_in_the_trail(record):
    record.completed()
    summarise(record.engine, record.clock)
    said = json.dumps(
        [dict(entry.detail) | {"a": entry.actor} for entry in Trail(record.engine).entries()]
    )
    assert "CANARY" not in said
    assert hashlib.sha256(b"CANARY-ID").hexdigest() not in said
