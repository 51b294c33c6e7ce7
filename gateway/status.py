"""``lentigo status``: says where each study is, from the record alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url

from gateway.errors import RecordUnavailable
from gateway.home import resolve_home, running_instance
from gateway.settings import StoreSettings
from gateway.store import states
from gateway.store.engine import open_engine
from gateway.store.reading.status import StatusReader, StudyStatus
from gateway.store.reading.study_filter import StudyFilter
from gateway.wording import delivery_answer, duration_words, findings, item_words, local_time

DONE, NOT_DONE, STILL_UNDER_WAY = 0, 1, 3

_TABLE_ROWS = 50
_POLL_S = 0.2
_NARROWEST = 100
_COLOURS = {
    states.RECEIVED: "cyan",
    states.ANALYSING: "blue",
    states.DELIVERING: "magenta",
    states.COMPLETED: "green",
    states.FAILED: "bold red",
    states.REFUSED: "yellow",
}
_EPILOG = """\
A study is in one of the states received, analysing, delivering, completed, failed and refused; the
last three are final, until a late instance opens the next generation of the study.

exit codes:
  0  done; with --wait: the study, or every known study, is completed
  1  the study is not known, or there is no record yet; with --wait also: a study failed or was
     refused, or none was known when the time ran out
  2  wrong usage
  3  with --wait: the time ran out while a study was still under way
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "study_uid", nargs="?", default="", metavar="STUDY_UID", help="one Study Instance UID"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="wait at most so long until the study (without STUDY_UID: every known study, and at "
        "least one) is in a final state",
    )
    parser.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help=f"only the newest N studies (default: all with --json, else {_TABLE_ROWS})",
    )
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """Print where the studies are; return the exit code."""
    store = _store_settings(resolve_home(args.home))
    deadline = time.monotonic() + (args.wait or 0.0)
    if args.wait is not None:
        _wait_for_record(store, deadline)
    if not _record_exists(store):
        return _nothing(args, f"there is no record in {store.home}; `lentigo up` makes one")
    engine = open_engine(store.record_url)
    try:
        reader = StatusReader(engine, store.results_folder)
        if args.wait is not None:
            _wait(reader, args.study_uid, deadline)
        studies = _read(reader, args)
        code = _exit_code(reader, args, studies)
    finally:
        engine.dispose()
    if not studies and args.study_uid:
        return _nothing(args, "no study with this UID is known")
    _print(args, studies)
    return code


def _store_settings(home: Path) -> StoreSettings:
    store = StoreSettings(home=home)
    running = running_instance(store.home)
    if not store.database_url and running is not None and running.database_url:
        return StoreSettings(home=home, database_url=running.database_url)
    return store


def _record_exists(store: StoreSettings) -> bool:
    # SQLite would make an empty file at the first look.
    url = make_url(store.record_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


def _wait_for_record(store: StoreSettings, deadline: float) -> None:
    while not _record_exists(store) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _wait(reader: StatusReader, study_uid: str, deadline: float) -> None:
    """Return when everything asked for is settled or the time is over."""
    while True:
        try:
            known, under_way = reader.unsettled(study_uid)
            if known and not under_way:
                return
        except RecordUnavailable:
            # `lentigo up` may be making the schema at this moment.
            if time.monotonic() >= deadline:
                raise
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(_POLL_S, left_s))


def _read(reader: StatusReader, args: argparse.Namespace) -> list[StudyStatus]:
    if args.study_uid:
        study = reader.study(args.study_uid)
        return [study] if study is not None else []
    return reader.studies(StudyFilter(limit=args.limit or (None if args.json else _TABLE_ROWS)))


def _exit_code(reader: StatusReader, args: argparse.Namespace, studies: list[StudyStatus]) -> int:
    if args.wait is None:
        return DONE if studies or not args.study_uid else NOT_DONE
    if args.study_uid:
        found = {study.state for study in studies}
    else:
        # The list may be cut; the answer is about every study.
        found = {count.state for count in reader.counts() if count.count}
    if not found:
        return NOT_DONE
    if found - states.FINAL_STATES:
        return STILL_UNDER_WAY
    return DONE if found == {states.COMPLETED} else NOT_DONE


def _nothing(args: argparse.Namespace, reason: str) -> int:
    if args.json:
        print("[]")
    print(f"lentigo status: {reason}", file=sys.stderr)
    return NOT_DONE


def _print(args: argparse.Namespace, studies: Sequence[StudyStatus]) -> None:
    if args.json:
        print(json.dumps([study.as_json() for study in studies], indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    elif console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    if not studies:
        console.print("No study has been received yet.")
    elif args.study_uid:
        _print_study(console, studies[0])
    else:
        console.print(_study_table(studies))
        if len(studies) == (args.limit or _TABLE_ROWS):
            console.print("These are the newest; --limit shows more.", style="dim")


def _state(study: StudyStatus) -> Text:
    return Text(study.state, style=_COLOURS.get(study.state, ""))


def _study_table(studies: Sequence[StudyStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Study Instance UID", overflow="fold", max_width=64)
    for name in ("State", "Age"):
        table.add_column(name, no_wrap=True)
    table.add_column("Instances", justify="right")
    table.add_column("Findings", overflow="fold")
    table.add_column("Reason", overflow="fold")
    for study in studies:
        table.add_row(
            Text(study.study_instance_uid),
            _state(study),
            duration_words(study.age_s),
            str(study.instances),
            Text(findings(study)),
            Text(study.reason),
        )
    return table


def _print_study(console: Console, study: StudyStatus) -> None:
    console.print(Text.assemble(study.study_instance_uid, "  ", _state(study)))
    console.print(
        f"received {local_time(study.received_at)} ({duration_words(study.age_s)} ago), "
        f"{study.instances} instances, generation {study.generation}"
    )
    if study.reason:
        console.print(Text(f"reason: {study.reason}"))
    console.print(Text(delivery_answer(study).text), style="bold")
    if not study.work_items:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Generation", "Analysis", "State", "Outcome", "Object", "Deliveries", "Reason"):
        table.add_column(name, overflow="fold")
    for item in study.work_items:
        table.add_row(
            str(item.generation),
            item.analysis,
            f"{item.state} ({item.step})" if item.state == states.UPS_IN_PROGRESS else item.state,
            Text(item_words(item)),
            "",
            "",
            Text(item.reason),
        )
        for made in item.objects:
            answers = "; ".join(
                " ".join(filter(None, (each.destination, each.state, each.confirmed_by)))
                for each in made.deliveries
            )
            answers = answers or "not sent: no destination takes this kind"
            reasons = "; ".join(each.reason for each in made.deliveries if each.reason)
            table.add_row("", "", "", "", made.role, Text(answers), Text(reasons))
    console.print(table)
