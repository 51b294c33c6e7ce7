"""A purge: what the policy lets go is marked, moved away and removed, in this order.

It may be killed at any step and run twice at once. It removes nothing for want of room: a full
disk refuses new work (``gateway.retention.watermarks``), and only days let anything go.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sqlalchemy import Engine

from gateway.errors import RetentionError
from gateway.faults import failpoint
from gateway.retention.folders import PurgeFolder, UnsafePath
from gateway.settings import RetentionSettings, StoreSettings
from gateway.store.engine import Clock, utc_now
from gateway.store.retention.purging import (
    QUARANTINE,
    RESULTS,
    Candidate,
    PendingFile,
    Policy,
    PurgeRecord,
)

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PurgeReport:
    """What a purge did."""

    files: Counter[str] = field(default_factory=Counter)
    """Kind -> files given up."""
    freed_bytes: int = 0
    events: int = 0
    features: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """What was left alone -> how often."""

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.files or self.events or self.features or self.faults)


def policy_of(settings: RetentionSettings, now: dt.datetime) -> Policy:
    """Return until when what came in may go."""

    def before(days: float) -> dt.datetime | None:
        return now - dt.timedelta(days=days) if days else None

    return Policy(
        instances_before=before(settings.instances_days),
        unconfirmed_before=before(settings.unconfirmed_days),
        results_before=before(settings.results_days),
        quarantine_before=before(settings.quarantine_days),
        documents_before=before(settings.documents_days),
        events_before=before(settings.events_days),
    )


class Purge:
    """Plans and runs purges of one installation."""

    def __init__(
        self,
        engine: Engine,
        store: StoreSettings,
        settings: RetentionSettings,
        clock: Clock = utc_now,
    ) -> None:
        self._record = PurgeRecord(engine, clock)
        self._store = store
        self._settings = settings
        self._clock = clock
        self._spool = PurgeFolder(store.spool_folder)
        self._results = PurgeFolder(store.results_folder)

    def plan(self) -> list[Candidate]:
        """Return what a run would give up now; changes nothing."""
        return self._record.candidates(policy_of(self._settings, self._clock()))

    def run(self) -> PurgeReport:
        """Purge what is past policy, and finish what an interrupted purge has begun.

        Raises
        ------
        RecordUnavailable
            The database does not answer; the next run goes on.
        RetentionError
            The spool or the results folder is a symbolic link, or the disk fails.
        """
        report = PurgeReport()
        policy = policy_of(self._settings, self._clock())
        try:
            self._remove_marked(report)
            for candidate in self._record.candidates(policy):
                if self._record.mark(candidate, policy):
                    failpoint("retention.marked")
                    self._remove_marked(report)
            report.freed_bytes += self._spool.empty_trash() + self._results.empty_trash()
        except OSError as exc:
            raise RetentionError(f"the disk fails while purging ({exc.strerror})") from exc
        if policy.events_before is not None:
            report.events = self._record.purge_events(policy.events_before)
        if self._settings.features_days:
            before = self._clock() - dt.timedelta(days=self._settings.features_days)
            report.features = _purge_features(self._store.features_file, before)
        return report

    def _remove_marked(self, report: PurgeReport) -> None:
        while pending := self._record.pending():
            folders: set[str] = set()

            def move(each: PendingFile, folders: set[str] = folders) -> None:
                self._move_away(each, report, folders)

            if not self._record.give_up(pending, move):
                break  # another purge is at it
            failpoint("retention.given_up")
            for each in pending:
                report.files[each.kind] += 1
            for name in folders:
                self._results.remove_folder_if_empty(name)
            report.freed_bytes += self._spool.empty_trash() + self._results.empty_trash()

    def _move_away(self, each: PendingFile, report: PurgeReport, folders: set[str]) -> None:
        folder = self._results if each.kind == RESULTS else self._spool
        try:
            folder.move_away(each.path)
            if each.kind == QUARANTINE:
                folder.move_away(str(PurePosixPath(each.path).with_suffix(".txt")))
        except UnsafePath as exc:
            # Left where it is for a person to look at: it is no file that we have put there.
            report.faults[str(exc)] += 1
            log.error("left alone: %s", exc, extra={"action": "retention.unsafe"})
            return
        failpoint("retention.moved")
        if each.kind == RESULTS:
            folders.add(PurePosixPath(each.path).parts[0])


def _purge_features(path: Path, before: dt.datetime) -> int:
    """Remove embeddings that were computed before a moment; return how many."""
    if path.is_symlink() or not path.is_file():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10.0)) as connection, connection:
            deleted = connection.execute(
                "DELETE FROM embeddings WHERE at < ?", (before.timestamp(),)
            )
            return deleted.rowcount
    except sqlite3.Error as exc:  # a cache: whoever uses it throws a damaged file away
        log.warning(
            "embeddings could not be purged (%s)",
            type(exc).__name__,
            extra={"action": "retention.features_failed"},
        )
        return 0
