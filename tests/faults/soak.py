"""``python -m tests.faults.soak --minutes 60``: a clinic's load while processes are killed.

400 dermoscopic studies an hour go through the whole installation with its default settings (Redis,
Triton and its real model included, Orthanc as the PACS), and every 30 seconds a random process is
killed with SIGKILL, now and then all of them. A table line a minute; at the end ``lentigo verify``
judges. Exit code 0: nothing lost, nothing doubled, every recovery below a minute.
"""

from __future__ import annotations

import argparse
import math
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

    def send_load(self, moments: list[float]) -> None:
        """Send one study at each moment, each until it is acknowledged.

        A sender that waits for a dead listener is late afterwards, and catches up.

        Parameters
        ----------
        moments
            Seconds from now, in order.
        """
        try:
            began = time.monotonic()
            for moment in moments:
                if self.stop.wait(max(0.0, began + moment - time.monotonic())):
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
            self.site.lentigo.start(200.0)  # as systemd does
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


def moments_of(generator: random.Random, minutes: float, per_hour: float) -> list[float]:
    """Return the seconds at which a study is sent: at random, and as many as were asked for."""
    count = round(per_hour * minutes / 60.0)
    return sorted(generator.uniform(0.0, 60.0 * minutes) for _ in range(count))


def soak(run: Run, minutes: float, kill_every_s: float, per_hour: float) -> None:
    """Load and kill for that long, then let the last studies finish."""
    moments = moments_of(run.load_generator, minutes, per_hour)
    sender = threading.Thread(target=run.send_load, args=(moments,), daemon=True)
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
    sender.join(120)
    run.stop.set()
    if run.fault is not None:
        raise run.fault
    assert len(run.sent) == len(moments), f"{len(run.sent)} of {len(moments)} studies were taken"

    def is_over() -> bool:
        run.look()
        return set(run.sent) <= set(run.done)

    wait_until(is_over, _LAST_STUDIES_S, "the last studies", interval_s=_LOOK_EVERY_S)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was promised and what was seen."""

    promise: str
    seen: str
    is_kept: bool


def percentile(values: list[float], share: float) -> float:
    """Return the value that a share of all does not exceed; 0 of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def judge(run: Run) -> bool:
    """Print what was promised and what was seen; return whether they agree."""
    run.look()
    verdicts = [*_counted(run), _recovered(run), _verified(run)]
    victims = Counter(kill.victim for kill in run.kills)
    taken = [run.done[uid] - at for uid, at in run.sent.items() if uid in run.done]
    print(
        f"\n{len(run.sent)} studies were sent and acknowledged; {run.retries} sends had to be "
        f"repeated while nobody listened.\n{len(run.kills)} kills (SIGKILL): "
        + ", ".join(f"{name} {count}" for name, count in victims.most_common())
        + "\nfrom a study's acknowledgement to its confirmed results: "
        f"median {percentile(taken, 0.5):.1f} s, p95 {percentile(taken, 0.95):.1f} s, "
        f"longest {max(taken, default=0.0):.1f} s"
    )
    print("longest recoveries (from the kill to the last study that it found unfinished):")
    for kill in sorted(run.kills, key=lambda each: -(each.recovered_s or 0.0))[:5]:
        print(
            f"  {kill.recovered_s or 0.0:6.1f} s after {kill.victim}, {len(kill.waiting)} waiting"
        )
    print(f"\n{'':5} {'promise':<54} seen")
    for each in verdicts:
        print(f"{'PASS' if each.is_kept else 'FAIL':<5} {each.promise:<54} {each.seen}")
    return all(each.is_kept for each in verdicts)


def _counted(run: Run) -> list[Verdict]:
    """Compare what was sent with what the PACS holds, object by object."""
    lost = len(set(run.sent) - set(run.done))
    doubled = objects = 0
    for uid, study in run.site.studies().items():
        made = [
            each["sop_instance_uid"] for item in study["work_items"] for each in item["objects"]
        ]
        held = Counter(str(ds.SOPInstanceUID) for ds in results_in(run.site.pacs, uid))
        objects += held.total()
        doubled += sum((held - Counter(made)).values()) + (len(study["work_items"]) != 1)
        lost += sum((Counter(made) - held).values())
    return [
        Verdict(
            promise="no acknowledged study and no result is lost",
            seen=f"{lost} lost; {objects} result objects in the PACS",
            is_kept=not lost,
        ),
        Verdict(
            promise="one result set for each study",
            seen=f"{doubled} doubled",
            is_kept=not doubled,
        ),
    ]


def _recovered(run: Run) -> Verdict:
    found = [kill.recovered_s for kill in run.kills if kill.recovered_s is not None]
    worst = max(found, default=0.0)
    open_ones = len(run.kills) - len(found)
    return Verdict(
        promise=f"an interrupted study is completed within {RECOVERY_LIMIT_S:.0f} s",
        seen=f"p95 {percentile(found, 0.95):.1f} s, longest {worst:.1f} s"
        + (f", {open_ones} never" if open_ones else ""),
        is_kept=worst < RECOVERY_LIMIT_S and not open_ones,
    )


def _verified(run: Run) -> Verdict:
    promise = "lentigo verify --deep --pacs finds every promise kept"
    try:
        run.site.verify()
    except AssertionError as exc:
        print(exc)
        return Verdict(promise=promise, seen="broken, see above", is_kept=False)
    return Verdict(promise=promise, seen="kept", is_kept=True)


def main() -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument(
        "--studies-per-hour", type=float, default=400.0, help="the load (default 400)"
    )
    parser.add_argument(
        "--kill-every", type=float, default=30.0, metavar="SECONDS", help="default 30"
    )
    parser.add_argument("--seed", type=int, default=None, help="who is killed, and when is sent")
    parser.add_argument("--keep", metavar="DIR", help="keep everything in this new folder")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    print(
        f"soak: {args.minutes:g} minutes, {args.studies_per_hour:g} studies an hour, a process "
        f"killed every {args.kill_every:g} s; seed {seed}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        folder = Path(args.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with site(folder / "s", embedded=True) as found:
            run = Run(
                site=found,
                generator=random.Random(seed),
                load_generator=random.Random(seed + 1),
            )
            is_over = False
            try:
                soak(run, args.minutes, args.kill_every, args.studies_per_hour)
                is_over = True
            except AssertionError as exc:
                print(exc)
            is_kept = judge(run) and is_over
    print("PASS" if is_kept else "FAIL")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
