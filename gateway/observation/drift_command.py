"""``lentigo drift``: how far models' answers have moved, and from what."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.home import resolve_home
from gateway.observation.drift_reference import FEWEST, ReferenceDesk, Series
from gateway.settings import StoreSettings
from gateway.store.opening import opened_record

_EPILOG = f"""\
Without a named reference, the first LENTIGO_DRIFT_REFERENCE_COUNT answers of a model for a source
are it. A named one needs {FEWEST} answers of a source by the model that answers now, and holds
until another is named or another model answers. docs/observing.md says what drift means.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    status = verbs.add_parser("status", help="say how far each model's answers have moved")
    reference = verbs.add_parser(
        "reference", help="take the answers of a span of time as the reference from now on"
    )
    reference.add_argument("analysis", metavar="ANALYSIS", help="e.g. diagnosis")
    for name, text in (("from", "the first moment"), ("to", "the moment behind the last")):
        reference.add_argument(
            f"--{name}",
            dest=f"{name}_",
            metavar="TIME",
            type=_moment,
            required=True,
            help=f"{text}, e.g. 2026-03-01 or 2026-03-01T08:00:00+01:00 (UTC)",
        )
    reference.add_argument(
        "--source", metavar="AET", default="", help="for this source alone (default: for each)"
    )
    for verb in (status, reference):  # the home may stand in front of the verb or behind it
        verb.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help="as above")
        verb.add_argument("--json", action="store_true", help="print JSON")


def _moment(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    with opened_record(StoreSettings(home=resolve_home(args.home))) as engine:
        desk = ReferenceDesk(engine)
        if args.verb == "reference":
            actor = f"command line: {getpass.getuser()}"[:64]
            found = desk.take(args.analysis, args.from_, args.to_, actor=actor, source=args.source)
        else:
            found = desk.all()
    if args.json:
        print(json.dumps([vars(each) for each in found], indent=2))
    else:
        _print(found)
    return 0


def _print(found: Sequence[Series]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if not found:
        console.print("Nothing was analysed yet.")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("Source", "Analysis", "Model", "Measure", "Reference", "Newest", "PSI", "State"):
        table.add_column(title, overflow="fold")
    for each in found:
        reference = f"{each.reference} answers, {each.named or 'the first'}"
        psi = "" if each.psi is None else f"{each.psi:.3f}"
        cells = (each.source, each.analysis, each.model_digest[:12], each.measure, reference)
        table.add_row(*map(Text, (*cells, str(each.recent), psi, each.state)))
    console.print(table)
