"""``python -m tests.faults.soak --minutes 60``: a clinic's load while processes are killed.

400 dermoscopic studies an hour go through the whole installation with its default settings (Redis,
Triton and its real model included, Orthanc as the PACS), and every 30 seconds a random process is
killed with SIGKILL, now and then all of them. A table line a minute; at the end ``lentigo verify``
judges. Exit code 0: nothing lost, nothing doubled, every recovery below a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from tests.faults.site import RECOVERY_LIMIT_S, Site, results_in, site
from tests.servers import wait_until

_EVERYTHING = "everything"
_LAST_STUDIES_S = 180.0
_LOOK_EVERY_S = 0.5


@dataclass(kw_only=True)
class Kill:
    """One kill and what it interrupted."""

    victim: str
    at: float
    waiting: set[str]
    """Studies that were acknowledged and not completed at that moment."""
    recovered_s: float | None = None
    """Until the last of them was completed."""


@dataclass(kw_only=True)
class Run:
    """What a soak has seen."""

    site: Site
    generator: random.Random
    sent: dict[str, float] = field(default_factory=dict)
    """Study Instance UID -> when its last instance was acknowledged."""
    done: dict[str, float] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    retries: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    fault: BaseException | None = None

    load_generator: random.Random = field(default_factory=random.Random)

    def send_load(self, per_hour: float) -> None:
        """Send studies at random moments, each until it is acknowledged."""
        try:
            due = time.monotonic()
            while True:
                due += self.load_generator.expovariate(per_hour / 3600.0)
                if self.stop.wait(max(0.0, due - time.monotonic())):
                    return
                (path,) = self.site.make()
                uid = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
                while not self.site.send_once([path]):
                    self.retries += 1
                    time.sleep(1.0)
                self.sent[uid] = time.monotonic()
        except BaseException as exc:  # shown at the end: a thread must not fail in silence
            self.fault = exc

    def look(self) -> None:
        """Note which studies are completed now, and which kills are overcome."""
        now = time.monotonic()
        for uid, study in self.site.studies().items():
            if study["state"] == "completed" and uid not in self.done:
                self.done[uid] = now
        for kill in self.kills:
            if kill.recovered_s is None and kill.waiting <= set(self.done):
                last = max((self.done[uid] for uid in kill.waiting), default=kill.at)
                kill.recovered_s = max(0.0, last - kill.at)

    def kill_one(self) -> None:
        """Kill one process at random; one time in ten all of them."""
        children = self.site.lentigo.children()
        names = sorted(children)
        victim = self.generator.choice([*names * 3, _EVERYTHING, _EVERYTHING])
        waiting = set(self.sent) - set(self.done)
        self.kills.append(Kill(victim=victim, at=time.monotonic(), waiting=waiting))
        if victim == _EVERYTHING:
            self.site.lentigo.kill_all()
            self.site.lentigo.start(180.0)  # as systemd does
        else:
            os.kill(_process_of(children[victim], self.generator), signal.SIGKILL)

    def line(self, minute: int) -> str:
        """Return one line of the table."""
        found = sorted(kill.recovered_s for kill in self.kills if kill.recovered_s is not None)
        worst = f"{found[-1]:.1f}" if found else "-"
        waiting = len(self.sent) - len(self.done)
        return (
            f"{minute:6d} {len(self.sent):6d} {len(self.done):10d} {waiting:8d} "
            f"{self.retries:8d} {len(self.kills):6d} {worst:>8}"
        )


def _process_of(pid: int, generator: random.Random) -> int:
    """Return the process or one of its children: a worker's pool dies as readily as its parent."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return pid
    return int(generator.choice([str(pid), *children]))


def soak(run: Run, minutes: float, kill_every_s: float, per_hour: float) -> None:
    """Load and kill for that long, then let the last studies finish."""
    sender = threading.Thread(target=run.send_load, args=(per_hour,), daemon=True)
    sender.start()
    print("minute   sent  completed  waiting  retries  kills  worst s", flush=True)
    began = time.monotonic()
    next_kill, next_line = began + kill_every_s, began + 60.0
    while (now := time.monotonic()) < began + 60.0 * minutes and run.fault is None:
        if now >= next_kill:
            next_kill += kill_every_s
            run.kill_one()
        if now >= next_line:
            next_line += 60.0
            print(run.line(round((now - began) / 60.0)), flush=True)
        run.look()
        time.sleep(_LOOK_EVERY_S)
    run.stop.set()
    sender.join(120)
    if run.fault is not None:
        raise run.fault

    def is_over() -> bool:
        run.look()
        return set(run.sent) <= set(run.done)

    wait_until(is_over, _LAST_STUDIES_S, "the last studies", interval_s=_LOOK_EVERY_S)


def judge(run: Run) -> bool:
    """Print what was promised and what was seen; return whether they agree."""
    run.site.verify()  # raises where a promise is broken
    lost = len(set(run.sent) - set(run.done))
    doubled = 0
    for uid, study in run.site.studies().items():
        made = [
            each["sop_instance_uid"] for item in study["work_items"] for each in item["objects"]
        ]
        held = Counter(str(ds.SOPInstanceUID) for ds in results_in(run.site.pacs, uid))
        doubled += sum((held - Counter(made)).values()) + (len(study["work_items"]) != 1)
        lost += sum((Counter(made) - held).values())
    found = sorted(kill.recovered_s for kill in run.kills if kill.recovered_s is not None)
    p95 = found[int(0.95 * (len(found) - 1))] if found else 0.0
    worst = found[-1] if found else 0.0
    victims = Counter(kill.victim for kill in run.kills)
    print(f"killed: {', '.join(f'{name} {count}' for name, count in victims.most_common())}")
    for kill in sorted(run.kills, key=lambda each: -(each.recovered_s or 0.0))[:5]:
        print(
            f"  {kill.recovered_s or 0.0:6.1f} s after {kill.victim}, {len(kill.waiting)} waiting"
        )
    print(
        f"{len(run.sent)} studies acknowledged, {len(run.kills)} kills, {run.retries} sends again: "
        f"lost {lost}, doubled {doubled}, recovery p95 {p95:.1f} s, longest {worst:.1f} s "
        f"(limit {RECOVERY_LIMIT_S:.0f} s)"
    )
    return not lost and not doubled and worst < RECOVERY_LIMIT_S


def main() -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--studies-per-hour", type=float, default=400.0)
    parser.add_argument("--kill-every", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", metavar="DIR", help="keep everything in this new folder")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        folder = Path(args.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with site(folder / "s", embedded=True) as found:
            run = Run(
                site=found,
                generator=random.Random(seed),
                load_generator=random.Random(seed + 1),
            )
            try:
                soak(run, args.minutes, args.kill_every, args.studies_per_hour)
                is_kept = judge(run)
            except AssertionError as exc:
                print(exc)
                is_kept = False
    print("PASS" if is_kept else "FAIL")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
