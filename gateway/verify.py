"""``lentigo verify``: checks that nothing was lost or doubled, and says what to do where it was.

Exit code 0: every promise holds; 1: one is broken; 2: it cannot be told, because the record or the
PACS does not answer. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from gateway.errors import RecordUnavailable
from gateway.home import resolve_home, running_instance
from gateway.settings import DeliverySettings, StoreSettings
from gateway.store.engine import open_engine
from gateway.store.verification.promises import Finding, Subject, verify
from gateway.verify_pacs import PacsUnavailable, check_pacs

_STYLE = {"PASS": "green", "NOTE": "yellow", "FAIL": "bold red"}

BROKEN, UNKNOWN = 1, 2
"""Exit codes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--home", metavar="DIR", help="folder of the installation to check")
    parser.add_argument(
        "--deep", action="store_true", help="read every file and compare its SHA-256 (slow)"
    )
    parser.add_argument(
        "--pacs", action="store_true", help="ask every destination by C-FIND what it holds"
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="how late work may be that is in motion (default 60)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; return the exit code."""
    home = resolve_home(args.home)
    instance = running_instance(home)
    store = StoreSettings(home=home)
    if not store.database_url and instance is not None and instance.database_url:
        store = StoreSettings(home=home, database_url=instance.database_url)
    delivery = DeliverySettings()
    if instance is not None:
        delivery = DeliverySettings(calling_ae_title=instance.ae_title)
    if not store.database_url and not (store.home / "record.sqlite3").is_file():
        # Opening it would make an empty one.
        print(f"lentigo verify: there is no record in {store.home}", file=sys.stderr)
        return UNKNOWN
    engine = open_engine(store.record_url)
    subject = Subject(
        engine=engine,
        spool=store.spool_folder,
        results=store.results_folder,
        is_deep=args.deep,
        grace_s=args.grace,
    )
    unknown = ""
    findings: list[Finding] = []
    try:
        findings = verify(subject)
        if args.pacs:
            findings.append(check_pacs(engine, delivery))
    except (RecordUnavailable, PacsUnavailable) as exc:
        unknown = str(exc)
    finally:
        engine.dispose()
    if args.json:
        print(json.dumps([{"verdict": each.verdict, **vars(each)} for each in findings], indent=2))
    elif findings:
        _print(findings)
    if unknown:
        print(f"lentigo verify: cannot tell: {unknown}", file=sys.stderr)
    if any(each.verdict == "FAIL" for each in findings):
        return BROKEN
    return UNKNOWN if unknown else 0


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "promise", "looked at", "broken", "what to do"):
        table.add_column(title, overflow="fold")
    for each in findings:
        table.add_row(
            f"[{_STYLE[each.verdict]}]{each.verdict}[/]",
            each.invariant,
            f"{each.checked:,}",
            f"{each.broken:,}",
            each.remedy,
        )
    console = Console(soft_wrap=False)
    console.print(table)
    for each in findings:
        for example in each.examples:
            console.print(f"{each.verdict}  {example}", highlight=False, markup=False)
