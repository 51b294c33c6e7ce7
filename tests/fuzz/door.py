"""The shipped listener as a process of its own, and what must hold of it whatever it was sent."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gateway.dicom.part10 import inspect
from gateway.errors import InstanceError
from tests.fuzz.messages import Conversation, draw_conversation
from tests.fuzz.player import Played, play
from tests.servers import ServerProcess, free_port
from tests.servers.process import accepts

_SETTLE_S = 60.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What a process costs."""

    resident_bytes: int
    threads: int
    descriptors: int


@dataclass(kw_only=True)
class Tally:
    """What a campaign over sockets saw."""

    conversations: int = 0
    messages: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    """What must not happen, each with the seed that shows it again."""

    def add(self, conversation: Conversation, played: Played, seed: str) -> None:
        """Note one conversation."""
        self.conversations += 1
        self.messages += played.sent
        self.endings[f"{conversation.layer}: {played.ended_by}"] += 1
        for answer in played.answers:
            self.statuses[answer.status] += 1
            if answer.status == 0x0000:
                self.acknowledged.add(answer.sop_instance_uid)
            elif answer.status == 0xC0FF:
                self.faults.append(f"a fault of the receiver (C0FF), seed {seed}")
        if played.ended_by == "silence":
            self.faults.append(f"the connection was left hanging, seed {seed}")
        if played.unanswered:
            self.faults.append(f"{played.unanswered} C-STOREs without an answer, seed {seed}")
        is_proper = conversation.layer != "association" and not conversation.is_pipelined
        if is_proper and not played.is_accepted:
            self.faults.append(f"a proper association was not accepted, seed {seed}")


class Door:
    """A listener on its own home folder, as ``lentigo up`` starts it."""

    def __init__(self, folder: Path, port: int, process: ServerProcess) -> None:
        self.home = folder / "home"
        self.port = port
        self.process = process

    def weigh(self) -> Weight:
        """Return what the process costs now (proc(5))."""
        place = Path(f"/proc/{self.process.pid}")
        status = dict(
            line.split(":", 1) for line in (place / "status").read_text("ascii").splitlines()
        )
        return Weight(
            resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
            threads=int(status["Threads"]),
            descriptors=len(list((place / "fd").iterdir())),
        )

    def settle(self, before: Weight) -> Weight:
        """Wait until the threads are back to what they were; return the weight."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            now = self.weigh()
            if now.threads <= before.threads or time.monotonic() > deadline:
                return now
            time.sleep(0.1)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return SOP Instance UID, path, digest and disposition of every instance on record."""
        with closing(sqlite3.connect(self.home / "record.sqlite3")) as record:
            query = "SELECT sop_instance_uid, path, sha256, disposition FROM instances"
            return list(record.execute(query))

    def violations(self, acknowledged: set[str]) -> list[str]:
        """Return every broken promise about what was acknowledged and what was not."""
        found = []
        rows = self.rows()
        kept = [row for row in rows if row[3] not in ("refused", "rejected")]
        missing = acknowledged - {uid for uid, *_ in kept}
        found += [f"acknowledged and not on record: {len(missing)}"] if missing else []
        for _, path, _, _ in kept:
            found += _unreadable(self.home / "spool" / path)
        found += self._strays({path for _, path, _, _ in rows})
        return found

    def _strays(self, known: set[str]) -> Iterator[str]:
        spool = self.home / "spool"
        for path in (spool / "instances").rglob("*"):
            if path.is_file() and str(path.relative_to(spool)) not in known:
                yield f"a file that no row names: {path.name}"
        for path in (spool / "quarantine").rglob("*.dcm"):
            if not path.with_suffix(".txt").read_text("utf-8").strip():
                yield f"quarantined without a reason: {path.name}"
        yield from (f"left in incoming: {path.name}" for path in (spool / "incoming").iterdir())


def _unreadable(path: Path) -> Iterator[str]:
    try:
        inspect(path)
    except (InstanceError, OSError) as exc:
        if "quarantine" not in path.parts:
            yield f"on record and not readable: {path.name} ({exc})"


@contextmanager
def open_door(folder: Path, **settings: str) -> Iterator[Door]:
    """Run ``python -m gateway listen`` on a fresh record; ``settings`` are LENTIGO_* variables."""
    port = free_port()
    environment = {
        "LENTIGO_HOME": str(folder / "home"),
        "LENTIGO_LISTENER_PORT": str(port),
        "LENTIGO_LISTENER_NETWORK_TIMEOUT_S": "10",
        "PYTHONPATH": str(_ROOT),
        **settings,
    }
    command = [sys.executable, "-m", "gateway"]
    subprocess.run(
        [*command, "migrate"],
        check=True,
        timeout=120,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    listener = ServerProcess("listener", folder / "listener.log")
    listener.start([*command, "listen"], lambda: accepts(port), environment=environment)
    try:
        yield Door(folder, port, listener)
    finally:
        listener.end(signal.SIGTERM)


def run_campaign(
    door: Door, *, seed: int, conversations: int, threads: int = 4, until: float = 0.0
) -> Tally:
    """Play drawn conversations from several threads.

    Parameters
    ----------
    conversations
        How many; with ``until`` at most so many.
    until
        ``time.monotonic()`` at which to stop; 0 for no limit.
    """
    tally = Tally()
    lock = threading.Lock()
    numbers = iter(range(conversations))

    def work() -> None:
        while not until or time.monotonic() < until:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            name = f"{seed}:{number}"
            conversation = draw_conversation(Random(name))
            try:
                played = play(conversation, door.port)
            except OSError as exc:
                with lock:
                    tally.faults.append(f"no connection ({exc.strerror}), seed {name}")
                continue
            with lock:
                tally.add(conversation, played, name)

    workers = [threading.Thread(target=work, name=f"fuzz-{n}") for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return tally
