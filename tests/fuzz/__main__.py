"""``python -m tests.fuzz TARGET --minutes 10``: an open-ended search."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from random import Random

from tests.fuzz.door import open_door, run_campaign
from tests.fuzz.engine import has_atheris, run_atheris, run_random
from tests.fuzz.lying_peer import lying_peer, store_once
from tests.fuzz.targets import TARGETS

_OVER_SOCKETS = {
    "listener": "the listener as its own process, over sockets",
    "storescu": "our Storage SCU against a peer whose answers are mutated",
}
_NO_LIMIT = 10**9


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


def _run_listener(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder, open_door(Path(folder)) as door:
        # The pools of the process fill first: what it costs is counted from here.
        run_campaign(door, seed=arguments.seed + 1, conversations=100)
        before = door.settle(door.weigh())
        tally = run_campaign(
            door,
            seed=arguments.seed,
            conversations=_NO_LIMIT,
            threads=8,
            until=time.monotonic() + arguments.minutes * 60,
        )
        after = door.settle(before)
        faults = tally.faults + door.violations(tally.acknowledged)
    statuses = {f"{status:04X}": count for status, count in sorted(tally.statuses.items())}
    print(f"listener: {tally.conversations} conversations with {tally.messages} C-STOREs")
    print(f"  statuses {statuses}\n  endings {dict(sorted(tally.endings.items()))}")
    print(f"  before {before}\n  after  {after}\n  {len(faults)} findings")
    for fault in faults[:50]:
        print(f"  {fault}")
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
