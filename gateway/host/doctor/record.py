"""The record: its schema, its clock, what waits in it, and its audit trail."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, select, text

from gateway.audit.recorder import log_file
from gateway.audit.settings import AuditSettings
from gateway.audit.trail_file import anchors_in
from gateway.errors import RecordUnavailable
from gateway.host.doctor.finding import (
    FAIL,
    OK,
    WARN,
    Finding,
    Subject,
    judged,
    newest_revision,
)
from gateway.observation import gauges
from gateway.observation.gauge_table import OLDEST
from gateway.store import states
from gateway.store.audit import Trail
from gateway.store.engine import MIGRATIONS, reading
from gateway.store.schema import is_known, revision_of
from gateway.store.tables import AuditSink, ClockMark, Notice, Study, WorkItem
from gateway.store.work.clock_watch import TOLERANCE_S
from gateway.wording import duration_words

_CLOCK_WARN_S, _CLOCK_FAIL_S = 2.0, TOLERANCE_S
_OVERDUE_S = 120.0
_FOLLOWED_ENTRIES = 100_000
"""Entries of the audit trail up to which its chain is followed here: a second or two."""

_LATE: dict[str, tuple[float, str, str]] = {
    # stage: seconds, verdict, what to do; as the alerts have it
    "receiving": (3600.0, WARN, "a sender that never ends, or no sweeper: `lentigo complete`"),
    "routing": (600.0, FAIL, "are the sweeper, Redis and the workers up? see their lines here"),
    "analysing": (1800.0, FAIL, "are the workers and Triton up? page Queues shows which analysis"),
    "delivering": (3600.0, WARN, "does the PACS answer? see its line here; nothing is lost"),
    "confirming": (3600.0, WARN, "the PACS has not said that it keeps them: page Nodes"),
}


def check_record(subject: Subject) -> Iterator[Finding]:
    """The database answers and has the schema of this version."""
    if not subject.has_record:
        yield Finding(
            part="record", verdict=WARN, said="no record yet", remedy="`lentigo up` makes it"
        )
        return
    with subject.opened() as engine:
        try:
            with reading(engine) as connection:
                current = revision_of(connection)
        except RecordUnavailable as exc:
            yield Finding(
                part="record",
                verdict=FAIL,
                said=str(exc),
                remedy="start the database, check LENTIGO_DATABASE_URL; senders keep what is "
                "refused meanwhile (A700)",
            )
            return
        kind = engine.dialect.name
    newest = newest_revision()
    if current is not None and not is_known(current):
        yield Finding(
            part="record",
            verdict=FAIL,
            said=f"{kind}, schema {current}, which a later version made",
            remedy="start that version again, or restore the backup of before the upgrade",
        )
        return
    pending = 0 if current == newest else _pending(current)
    yield judged(
        "record",
        f"{kind}, schema {current or 'none'}: {pending} migrations pending" if pending else "",
        f"{kind}, schema {current}, no migration pending",
        f"`lentigo backup`, then `python -m gateway migrate` (newest is {newest})",
    )


def _pending(current: str | None) -> int:
    steps = ScriptDirectory(str(MIGRATIONS)).iterate_revisions("heads", current or "base")
    return sum(1 for _ in steps)


def check_clock(subject: Subject) -> Iterator[Finding]:
    """The clock of this host is that of the database, and did not go back."""
    with subject.current_record() as engine:
        if engine is None:
            return
        with reading(engine) as connection:
            before = subject.clock()
            theirs = (
                connection.execute(text("SELECT clock_timestamp()")).scalar_one()
                if engine.dialect.name == "postgresql"
                else None
            )
            mark = connection.execute(select(ClockMark.seen_at)).scalar()
    if theirs is not None:
        off_s = (before - theirs).total_seconds()
        yield _clock("the database's", off_s)
    ahead_s = (mark - before).total_seconds() if mark is not None else 0.0
    if ahead_s > _CLOCK_WARN_S:
        yield Finding(
            part="clock",
            verdict=FAIL if ahead_s > _CLOCK_FAIL_S else WARN,
            said=f"{duration_words(ahead_s)} behind the sweeper's last look",
            remedy="set the clock of this host, and of the sweeper's (chrony, timesyncd)",
        )
    elif theirs is None:
        yield Finding(part="clock", verdict=OK, said=f"{before:%Y-%m-%d %H:%M:%S} UTC")


def _clock(whose: str, off_s: float) -> Finding:
    off = abs(off_s)
    verdict = FAIL if off > _CLOCK_FAIL_S else WARN if off > _CLOCK_WARN_S else OK
    word = "ahead of" if off_s > 0 else "behind"
    said = f"{off:.1f} s {word} {whose}" if verdict != OK else f"within {off:.1f} s of {whose}"
    return Finding(
        part="clock",
        verdict=verdict,
        said=said,
        remedy="let both hosts follow one time server (chrony, timesyncd)" if verdict != OK else "",
    )


def check_work(subject: Subject) -> Iterator[Finding]:
    """Nothing waits for too long, and nothing is held by a worker that is gone."""
    with subject.current_record() as engine:
        if engine is None:
            return
        place = gauges.Place(engine=engine, store=subject.store, clock=subject.clock)
        ages = {
            sample.labels["stage"]: sample.value
            for sample in gauges.work(place)
            if sample.gauge is OLDEST
        }
        yield from _leases(engine, subject.clock())
        yield from _held(engine)
    for stage, (late_s, bad, remedy) in _LATE.items():
        age_s = ages.get(stage, 0.0)
        said = f"oldest item: {duration_words(age_s)}" if age_s else "nothing waits"
        yield judged(f"stage {stage}", said if age_s > late_s else "", said, remedy, bad=bad)


def _leases(engine: Engine, now: dt.datetime) -> Iterator[Finding]:
    late = now - dt.timedelta(seconds=_OVERDUE_S)
    open_work = WorkItem.state.not_in(states.UPS_FINAL)
    with reading(engine) as connection:
        overdue = _count(connection, open_work, WorkItem.lease_expires_at < late)
        untaken = _count(
            connection,
            open_work,
            WorkItem.lease_token.is_(None),
            WorkItem.next_attempt_at < late,
        )
        running = _count(connection, open_work, WorkItem.lease_token.is_not(None))
    yield judged(
        "leases",
        f"{overdue} work items are held by workers that are gone for more than {_OVERDUE_S:.0f} s"
        if overdue
        else "",
        f"{running} work items in progress, none overdue",
        "is the sweeper up? it gives them to the next worker by itself",
    )
    yield judged(
        "queue",
        f"{untaken} work items are due for more than {_OVERDUE_S:.0f} s and nobody has them"
        if untaken
        else "",
        "nothing is due that nobody takes",
        "all workers busy, or none up? see the lines of the workers, Redis and the breakers",
        bad=WARN,
    )


def _count(connection: Any, *conditions: Any) -> int:
    return int(
        connection.execute(
            select(func.count()).select_from(WorkItem).where(*conditions)
        ).scalar_one()
    )


def _held(engine: Engine) -> Iterator[Finding]:
    with reading(engine) as connection:
        held = connection.execute(
            select(func.count()).select_from(Study).where(Study.held_at.is_not(None))
        ).scalar_one()
    if held:
        yield Finding(
            part="held studies",
            verdict=WARN,
            said=f"{held} wait for a person",
            remedy="page Studies, filter held; `lentigo release STUDY`",
        )


def check_audit(subject: Subject) -> Iterator[Finding]:
    """The audit trail is whole, and reaches its file and the syslog server."""
    with subject.current_record() as engine:
        if engine is None:
            return
        trail = Trail(engine)
        entries = trail.head().entries
        if entries <= _FOLLOWED_ENTRIES:
            faults = trail.verify(anchors_in(log_file(subject.store, AuditSettings()))).faults
            yield judged(
                "audit trail",
                "; ".join(faults),
                f"{entries} entries, the chain is whole",
                "somebody changed it: keep the record and the audit file as they are, and see "
                "`lentigo audit verify` and docs/security.md",
            )
        else:
            said = f"{entries} entries; too many to follow here: `lentigo audit verify`"
            yield Finding(part="audit trail", verdict=OK, said=said)
        with reading(engine) as connection:
            sinks = connection.execute(
                select(AuditSink.name, AuditSink.position, AuditSink.error).order_by(AuditSink.name)
            ).all()
    for name, position, error in sinks:
        yield judged(
            f"audit {name}",
            f"{position} of {entries} entries: {error}" if error else "",
            f"{position} of {entries} entries",
            "mend it: the entries wait in the record and are sent then",
            bad=WARN,
        )


def check_events(subject: Subject) -> Iterator[Finding]:
    """Webhooks, mail and the FHIR server take what they are sent."""
    with subject.current_record() as engine:
        if engine is None:
            return
        with reading(engine) as connection:
            rows = connection.execute(
                select(
                    Notice.target,
                    func.count().label("number"),
                    func.min(Notice.created_at).label("since"),
                    func.max(Notice.reason).label("reason"),
                )
                .where(Notice.state == "waiting", Notice.attempts > 0)
                .group_by(Notice.target)
            ).all()
    now = subject.clock()
    for row in rows:
        age = duration_words((now - row.since).total_seconds())
        yield Finding(
            part="events",
            verdict=WARN,
            said=f"{row.number} for {row.target.rpartition(':')[0] or row.target} wait, the "
            f"oldest for {age}: {row.reason}",
            remedy="look at the receiver; they are sent again by themselves (docs/observing.md)",
        )
