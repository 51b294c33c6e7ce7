"""``python -m tests.fuzz TARGET --minutes 10``: an open-ended search."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from random import Random

from tests.fuzz.campaign import MAX_GROWTH_BYTES, Campaign, Limits
from tests.fuzz.door import open_door, run_campaign
from tests.fuzz.engine import has_atheris, run_atheris, run_random
from tests.fuzz.flood import DATA_SETS
from tests.fuzz.lying_peer import lying_peer, store_once
from tests.fuzz.targets import TARGETS

_OVER_SOCKETS = {
    "listener": "the listener as its own process, over sockets",
    "storescu": "our Storage SCU against a peer whose answers are mutated",
}


def _parse(arguments: list[str]) -> argparse.Namespace:
    about = [f"  {target.name:12} {target.about}" for target in TARGETS.values()]
    about += [f"  {name:12} {text}" for name, text in _OVER_SOCKETS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Feed mutated input to what reads a stranger's bytes.",
        epilog="targets:\n" + "\n".join(about),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", default="all", metavar="TARGET",
                        choices=["all", *TARGETS, *_OVER_SOCKETS])  # fmt: skip
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target; default 1")
    about_messages = "the listener alone: so many mutated messages, however long they take"
    parser.add_argument("--messages", type=int, default=0, help=about_messages)
    about_data_sets = f"the listener alone: share that carries a data set; default {DATA_SETS}"
    parser.add_argument("--data-sets", type=float, default=DATA_SETS, help=about_data_sets)
    about_folder = "the listener's home; one in memory spares the disk (/dev/shm)"
    parser.add_argument("--folder", type=Path, help=about_folder)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    about_engines = "atheris adds coverage, where it is installed; default random"
    engines = ("random", "atheris")
    parser.add_argument("--engine", choices=engines, default="random", help=about_engines)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder of findings")
    return parser.parse_args(arguments)


def _run_in_process(name: str, arguments: argparse.Namespace) -> int:
    tried = run_random(TARGETS[name], seed=arguments.seed, seconds=arguments.minutes * 60)
    print(
        f"{name}: {tried.runs} inputs in {tried.seconds:.0f} s, the slowest took "
        f"{tried.slowest_s:.3f} s, {len(tried.findings)} findings",
        flush=True,
    )
    for number, (what, data) in enumerate(tried.findings.items(), 1):
        path = arguments.out / f"{name}-{arguments.seed}-{number}.bin"
        path.write_bytes(data)
        print(f"  {what}, {tried.counts[what]} times: {path}")
    return len(tried.findings)


def _say(text: str) -> None:
    print(text, flush=True)


def _run_listener(arguments: argparse.Namespace) -> int:
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        open_door(Path(folder)) as door,
    ):
        limits = Limits(
            messages=arguments.messages,
            data_sets=arguments.data_sets,
            seconds=0.0 if arguments.messages else arguments.minutes * 60,
        )
        # The pools of the process fill first: what it costs is counted from here.
        run_campaign(door, seed=arguments.seed + 1, conversations=40)
        before = door.weigh()
        seen = Campaign(door, Path(folder), seed=arguments.seed, say=_say).run(limits)
        after = door.settle(before)
        faults = seen.faults + door.violations(seen.acknowledged)
        if seen.growth_bytes > MAX_GROWTH_BYTES:
            faults.append(f"the memory grew by {seen.growth_bytes >> 20} MB")
    statuses = {f"{status:04X}": count for status, count in sorted(seen.statuses.items())}
    _say(
        f"listener: {seen.messages} mutated messages on {seen.associations} associations in "
        f"{seen.seconds:.0f} s, {len(seen.acknowledged)} instances acknowledged\n"
        f"  by kind {dict(seen.by_kind.most_common())}\n  statuses {statuses}\n"
        f"  camera served {seen.served} times, slowest {seen.slowest_s:.2f} s\n"
        f"  before {before}\n  after  {after}\n"
        f"  memory grew by {seen.growth_bytes / 2**20:.1f} MB after the first tenth\n"
        f"  {len(faults)} findings"
    )
    for fault in faults[:50]:
        _say(f"  {fault}")
    return len(faults)


def _run_storescu(arguments: argparse.Namespace) -> int:
    until, count = time.monotonic() + arguments.minutes * 60, 0
    with tempfile.NamedTemporaryFile() as file, lying_peer() as peer:
        file.write(bytes(40_000))
        file.flush()
        while time.monotonic() < until:
            # An exception that nobody promised ends the search, with the seed in its notes.
            try:
                store_once(peer, Path(file.name), Random(f"{arguments.seed}:{count}"))
            except Exception as exc:
                exc.add_note(f"seed {arguments.seed}:{count}")
                raise
            count += 1
    print(f"storescu: {count} associations, no finding")
    return 0


def main() -> int:
    """Search; 1 when something was found."""
    arguments = _parse(sys.argv[1:])
    arguments.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # pydicom's and Pillow's, about the values they meet
    chosen = [*TARGETS, *_OVER_SOCKETS] if arguments.target == "all" else [arguments.target]
    if arguments.engine == "atheris":
        if not has_atheris() or len(chosen) != 1 or chosen[0] not in TARGETS:
            print("atheris takes one in-process target, and must be installed", file=sys.stderr)
            return 2
        corpus = arguments.out / chosen[0] / "corpus"
        run_atheris(TARGETS[chosen[0]], seconds=arguments.minutes * 60, corpus=corpus)
    special = {"listener": _run_listener, "storescu": _run_storescu}
    found = 0
    for name in chosen:
        run = special.get(name)
        found += run(arguments) if run else _run_in_process(name, arguments)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
