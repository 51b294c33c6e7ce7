"""Checks on what is kept: once, no longer and no shorter than promised, and who answers for it."""

from __future__ import annotations

from sqlalchemy import and_, exists, func, select

from gateway.store import states
from gateway.store.audit import Trail
from gateway.store.engine import reading
from gateway.store.intake.received_commitments import WAITING
from gateway.store.tables import (
    Delivery,
    Instance,
    ReceivedCommitment,
    ResultObject,
    RetentionHold,
    Study,
    WorkItem,
)
from gateway.store.verification.findings import Finding, Subject, Tally, rows_of
from gateway.store.verification.work import due_problem


def check_once(subject: Subject) -> Finding:
    """No instance is there twice; that no result object is, the database sees to."""
    tally = Tally(
        "every instance is accepted once, other bytes under its UID are kept apart",
        "a defect, or a record that was put together by hand: report it with the line",
    )
    accepted = (
        select(func.count(), func.min(Instance.id), func.max(Instance.id))
        .where(Instance.disposition == "accepted", Instance.purged_at.is_(None))
        .group_by(Instance.sop_instance_uid)
    )
    with reading(subject.engine) as connection:
        for count, first, last in connection.execute(accepted):
            tally.see(f"{count} instances of one UID: {first} and {last}" if count > 1 else "")
    return tally.finding()


def check_commitments(subject: Subject) -> Finding:
    """Every sender that asked for storage commitment was answered, or will be."""
    tally = Tally(
        "every request for storage commitment was reported on or has a time of its next attempt",
        "is the sweeper running? it makes the reports; `lentigo doctor` says",
    )
    now = subject.clock()
    statement = select(
        ReceivedCommitment.id,
        ReceivedCommitment.calling_ae_title,
        ReceivedCommitment.state,
        ReceivedCommitment.next_attempt_at,
    )
    for row in rows_of(subject, statement):
        problem = ""
        if row.state == WAITING:
            problem = due_problem(row.next_attempt_at, now, "due", late_s=subject.grace_s)
        tally.see(problem and f"request {row.id} of {row.calling_ae_title}: {problem}")
    return tally.finding()


def check_purged(subject: Subject) -> Finding:
    """Retention gave nothing up that it had to keep."""
    tally = Tally(
        "nothing was purged that is on legal hold, or that no destination had confirmed",
        "restore the files from backup; then see the audit trail for who purged them",
    )
    held = exists().where(
        RetentionHold.study_instance_uid == Study.study_instance_uid,
        RetentionHold.released_at.is_(None),
        RetentionHold.placed_at < Instance.purged_at,
    )
    instances = (
        select(Instance.id, held.label("is_broken"))
        .join(Study, Study.id == Instance.study_id)
        .where(Instance.purged_at.is_not(None))
    )
    for row in rows_of(subject, instances):
        tally.see(f"instances {row.id}: its study is on legal hold" if row.is_broken else "")
    confirmed = exists().where(
        Delivery.result_object_id == ResultObject.id, Delivery.state == "CONFIRMED"
    )
    results = (
        select(
            ResultObject.id,
            and_(WorkItem.state == states.UPS_COMPLETED, ~confirmed).label("is_broken"),
        )
        .join(WorkItem, WorkItem.id == ResultObject.work_item_id)
        .where(ResultObject.purged_at.is_not(None))
    )
    for row in rows_of(subject, results):
        tally.see(f"result object {row.id}: nobody has confirmed it" if row.is_broken else "")
    return tally.finding()


def check_audit(subject: Subject) -> Finding:
    """The audit trail is what was written, from its first entry to its last."""
    tally = Tally(
        "the audit trail is one unbroken chain",
        "somebody changed it: `lentigo audit verify` compares it with the audit file",
    )
    found = Trail(subject.engine).verify()
    for _ in range(found.entries):
        tally.see()
    for fault in found.faults:
        tally.see(fault)
    return tally.finding()
