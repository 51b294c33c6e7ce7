"""Failpoints: named steps at which a test can kill a process or make a disk fail.

A failpoint costs one comparison while ``LENTIGO_TEST_FAILPOINTS`` is not set. The variable holds a
plan, or ``@FOLDER``: the plan then lies in ``FOLDER/plan`` and may change while services run, and
every pass of every process leaves a byte in ``FOLDER/<name>``, so that "at the third pass" counts
over restarts and a test sees which steps were reached.

A plan is a list of ``NAME=ACTION[:SECONDS][@PASS[+]][/PROCESS]`` separated by semicolons::

    spool.rename=kill                 SIGKILL to the process at the first pass
    spool.write=enospc@3+             OSError(ENOSPC) at the third pass and at all that follow
    worker.inferred=sleep:5/workers   only in `python -m workers`

This is for tests and drills. Every process that is armed says so in its log.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import SettingsError

log = logging.getLogger(__name__)

VARIABLE = "LENTIGO_TEST_FAILPOINTS"

FAILPOINTS: Mapping[str, str] = {
    # From the first byte to the answer.
    "listener.associated": "an association was let in",
    "spool.begin": "a file for an instance is about to be made",
    "spool.write": "a fragment is about to be written",
    "spool.sync": "a file is about to be synced",
    "spool.rename": "all bytes are written, none is synced, the file has no name",
    "spool.folder_sync": "the file is synced and has its name, the folder is not synced",
    "spool.kept": "the file is durable, the record does not know it",
    "spool.quarantine_note": "a refused file is kept, its reason is not",
    # The journal of the spool.
    "journal.make": "space for a part of the journal is about to be written",
    "journal.append": "the file has its name and is not synced, nor in the journal",
    "journal.sync": "bytes are in the journal, not synced",
    "journal.settle": "files are about to be synced whose bytes are in the journal",
    "journal.settled": "the files are synced, their part of the journal is not emptied",
    "journal.restore": "a listener is about to restore what is in the journal",
    "intake.commit": "the instance's row is inserted, not committed",
    "listener.registered": "the row is committed, C-STORE is not answered",
    # The sweeper.
    "sweeper.close": "a generation is closed, not committed",
    "sweeper.closed": "due generations are closed, nothing is announced",
    "sweeper.announced": "the broker was told, the record was not",
    # Routing.
    "routing.decided": "the analyses are chosen, nothing is recorded",
    "routing.commit": "the work items are inserted, not committed",
    "routing.recorded": "the work items are committed, nothing is announced",
    # An analysis.
    "worker.claimed": "the work item is held",
    "worker.input_read": "an image was read, not decoded",
    "worker.model_answered": "the model server answered",
    "worker.inferred": "the analysis has its conclusion",
    "worker.encoded": "the result objects are in memory",
    "embeddings.write": "embeddings are about to be kept",
    "scratch.make": "a folder for temporary files is about to be made",
    "results.write": "a result file is about to be written",
    "results.sync": "a result file is written, not synced",
    "results.rename": "a result file is synced, without its name",
    "results.folder_sync": "a result file has its name, its folder is not synced",
    "worker.written": "all result files are durable, the record does not know them",
    "worker.saving": "the results are inserted, not committed",
    "worker.saved": "the results are committed, nothing is announced",
    # A delivery.
    "delivery.loaded": "what is to be sent is known",
    "delivery.sent": "one object was sent and answered",
    "delivery.answered": "one destination has answered for all objects",
    "delivery.marked": "one object's state is committed",
    "delivery.completing": "everything is confirmed, the work item is not ended",
    "delivery.completed": "the work item is ended",
    # Storage commitment that senders ask of us.
    "commitment.registered": "a sender's request is committed, not answered",
    "commitment.claimed": "a report is this process's, nothing is checked",
    "commitment.checked": "the instances are compared, the sender is not told",
    "commitment.told": "the sender took the report, the record does not know it",
    # A purge.
    "retention.marked": "rows are marked as purged, their files lie there",
    "retention.moved": "files are moved away, their rows are not committed",
    "retention.given_up": "rows are done with, the files moved away are not removed",
    # The supervisor.
    "supervisor.migrated": "the record has its schema, nothing runs",
    "supervisor.started": "every service was started, none is awaited",
    "supervisor.restart": "a service that ended is about to be started again",
}
"""Every failpoint and what is true when a process stands there."""

_ENTRY = re.compile(
    r"(?P<name>[a-z_.]+)=(?P<action>[a-z]+)(?::(?P<seconds>[0-9.]+))?"
    r"(?:@(?P<first>[0-9]+)(?P<on>\+)?)?(?:/(?P<process>[a-z]+))?"
)
_ERRORS = {
    name: getattr(errno, name.upper()) for name in ("enospc", "eio", "erofs", "edquot", "emfile")
}
_ACTIONS = frozenset({"kill", "stop", "sleep", "pass", *_ERRORS})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One entry of a plan."""

    name: str
    action: str
    """``kill``, ``stop`` (SIGSTOP), ``sleep``, ``pass``, or the name of an ``errno``."""
    seconds: float = 0.0
    first: int = 1
    """The pass at which it happens, 1-based."""
    and_after: bool = False
    process: str = ""
    """Name of the only process it happens in; empty: any."""

    def is_due(self, name: str, count: int, process: str) -> bool:
        """Return whether it happens now.

        Examples
        --------
        >>> Fault(name="spool.sync", action="eio", first=2).is_due("spool.sync", 2, "listen")
        True
        """
        return (
            self.name == name
            and self.process in ("", process)
            and (count == self.first or (self.and_after and count > self.first))
        )


def parse_plan(text: str) -> tuple[Fault, ...]:
    """Read a plan.

    Raises
    ------
    SettingsError
        An entry cannot be read, or names no failpoint; the message names it.
    """
    faults = []
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        found = _ENTRY.fullmatch(entry)
        if found is None or found["action"] not in _ACTIONS:
            raise SettingsError(f"{VARIABLE}: cannot read {entry!r}")
        if found["name"] not in FAILPOINTS:
            raise SettingsError(f"{VARIABLE}: there is no failpoint {found['name']!r}")
        faults.append(
            Fault(
                name=found["name"],
                action=found["action"],
                seconds=float(found["seconds"] or 0),
                first=int(found["first"] or 1),
                and_after=bool(found["on"]),
                process=found["process"] or "",
            )
        )
    return tuple(faults)


class Plan:
    """The faults of this process, and how often each failpoint was passed."""

    def __init__(self, text: str) -> None:
        self._folder = Path(text[1:]) if text.startswith("@") else None
        self._faults = parse_plan("" if self._folder else text)
        self._counts: dict[str, int] = {}
        self._process = process_name(sys.argv)

    def pass_through(self, name: str) -> None:
        """Count one pass, and do what is due."""
        faults, count = self._current(), self._count(name)
        for fault in faults:
            if fault.is_due(name, count, self._process):
                log.warning(
                    "failpoint %s: %s", name, fault.action, extra={"action": "failpoint.reached"}
                )
                _act(fault)

    def _current(self) -> tuple[Fault, ...]:
        if self._folder is None:
            return self._faults
        try:
            return parse_plan((self._folder / "plan").read_text(encoding="ascii"))
        except FileNotFoundError:
            return ()

    def _count(self, name: str) -> int:
        if self._folder is None:
            self._counts[name] = self._counts.get(name, 0) + 1
            return self._counts[name]
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # The offset after an appended byte is its number, also among several processes.
            os.write(descriptor, b".")
            return os.lseek(descriptor, 0, os.SEEK_CUR)
        finally:
            os.close(descriptor)


def process_name(argv: list[str]) -> str:
    """Return what a process is called in a plan.

    Examples
    --------
    >>> process_name(["/x/gateway/__main__.py", "listen"]), process_name(["/x/workers/__main__.py"])
    ('listen', 'workers')
    """
    program = Path(argv[0] if argv else "")
    if program.name != "__main__.py":
        return argv[1] if len(argv) > 1 else program.stem
    return argv[1] if program.parent.name == "gateway" and len(argv) > 1 else program.parent.name


def _act(fault: Fault) -> None:
    if fault.action in _ERRORS:
        number = _ERRORS[fault.action]
        raise OSError(number, os.strerror(number))
    if fault.action in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)
    elif fault.action == "sleep":
        time.sleep(fault.seconds)


_UNREAD = Plan("")
_plan: Plan | None = _UNREAD


def failpoint(name: str) -> None:
    """Pass a named step; nothing happens unless a test has armed it.

    Raises
    ------
    OSError
        The plan says that the disk fails here.
    """
    if _plan is not None:
        _armed(name)


def _armed(name: str) -> None:
    global _plan
    if _plan is _UNREAD:
        text = os.environ.get(VARIABLE, "")
        _plan = Plan(text) if text else None
        if _plan is not None:
            log.warning("failpoints are armed: this is a test", extra={"action": "failpoint.armed"})
    if _plan is not None:
        assert name in FAILPOINTS, name
        _plan.pass_through(name)
