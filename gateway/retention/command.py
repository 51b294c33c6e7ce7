"""``lentigo retention``: what would go, what is held, how long the disk lasts."""

from __future__ import annotations

import argparse
import getpass
import json
from collections import Counter

from sqlalchemy import Engine

from gateway.home import resolve_home
from gateway.retention.purge import Purge
from gateway.retention.watermarks import forecast
from gateway.settings import ListenerSettings, RetentionSettings, StoreSettings
from gateway.store.opening import opened_record
from gateway.store.retention.legal_holds import LegalHolds
from gateway.wording import size_words

_EPILOG = """\
Nothing is removed but what the LENTIGO_RETENTION_*_DAYS of its kind allow; all are 0 at first,
which keeps everything. A study under way, on hold, or whose patient has a study under way is
left alone. docs/retention.md has the rules.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("plan", "say what a purge would remove now; changes nothing"),
        ("run", "purge now"),
        ("disk", "say how full the disk is and how long it lasts"),
        ("holds", "list the legal holds"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="print JSON")
    hold = verbs.add_parser("hold", help="let nothing of a study be removed")
    hold.add_argument("study_uid", metavar="STUDY_UID")
    hold.add_argument("--reason", required=True, help="why, e.g. a file number; no patient data")
    release = verbs.add_parser("release", help="end a legal hold")
    release.add_argument("study_uid", metavar="STUDY_UID")
    for verb in verbs.choices.values():  # the home may stand in front of the verb or behind it
        verb.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help="as above")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    store = StoreSettings(home=resolve_home(args.home))
    with opened_record(store) as engine:
        match args.verb:
            case "plan":
                _plan(Purge(engine, store, RetentionSettings()), as_json=args.json)
            case "run":
                _run(Purge(engine, store, RetentionSettings()), as_json=args.json)
            case "disk":
                _disk(engine, store, as_json=args.json)
            case "holds":
                _holds(engine, as_json=args.json)
            case "hold":
                actor = f"command line: {getpass.getuser()}"
                LegalHolds(engine).place(args.study_uid, reason=args.reason, actor=actor)
                print("held")
            case _:
                actor = f"command line: {getpass.getuser()}"
                LegalHolds(engine).release(args.study_uid, actor=actor)
                print("released")
    return 0


def _plan(purge: Purge, *, as_json: bool) -> None:
    candidates = purge.plan()
    if as_json:
        print(json.dumps([vars(each) for each in candidates], indent=2))
        return
    for each in candidates:
        uid = each.study_instance_uid or "(of no known study)"
        print(f"{each.kind:<10} {each.files:>6} files {size_words(each.size_bytes):>9}  {uid}")
    files: Counter[str] = Counter()
    for each in candidates:
        files[each.kind] += each.files
    total = size_words(sum(each.size_bytes for each in candidates))
    said = ", ".join(f"{count} {kind}" for kind, count in files.items()) or "nothing"
    print(f"a purge would remove {said}; {total}")


def _run(purge: Purge, *, as_json: bool) -> None:
    report = purge.run()
    if as_json:
        print(json.dumps(vars(report), indent=2))
        return
    said = [f"{count} {kind}" for kind, count in report.files.items()]
    said += [f"{report.events} events"] if report.events else []
    said += [f"{report.features} embeddings"] if report.features else []
    print(f"removed {', '.join(said) or 'nothing'}; {size_words(report.freed_bytes)} freed")
    for fault, count in report.faults.items():
        print(f"left alone: {fault} ({count})")


def _disk(engine: Engine, store: StoreSettings, *, as_json: bool) -> None:
    found = forecast(engine, store.home, ListenerSettings(), RetentionSettings())
    if as_json:
        print(
            json.dumps(
                {
                    "used_percent": round(found.disk.used_percent, 2),
                    "free_bytes": found.disk.free_bytes,
                    "bytes_per_day": round(found.bytes_per_day),
                    "days_until_refusal": found.days_until_refusal,
                    "is_above_low_watermark": found.is_above_low,
                    "is_refusing": found.is_refusing,
                },
                indent=2,
            )
        )
        return
    days = found.days_until_refusal
    lasts = "nothing comes in" if days is None else f"lasts {days:.0f} days at the present pace"
    print(
        f"{found.disk.used_percent:.1f} % in use, {size_words(found.disk.free_bytes)} free, "
        f"{size_words(int(found.bytes_per_day))} a day: {lasts}"
    )
    if found.is_refusing:
        print("NEW INSTANCES ARE REFUSED (A700): free some space")


def _holds(engine: Engine, *, as_json: bool) -> None:
    holds = LegalHolds(engine).active()
    if as_json:
        print(json.dumps([vars(each) for each in holds], indent=2, default=str))
        return
    for each in holds:
        print(
            f"{each.study_instance_uid}  since {each.placed_at:%Y-%m-%d %H:%M} UTC by "
            f"{each.placed_by}: {each.reason}"
        )
    if not holds:
        print("no study is held")
