"""``lentigo reviews``: gives signed reviews out, and says whether their chain is whole."""

from __future__ import annotations

import argparse
import getpass
import sys

from gateway.dashboard import review_export
from gateway.home import resolve_home
from gateway.settings import StoreSettings
from gateway.store import audit
from gateway.store.engine import utc_now, writing
from gateway.store.opening import opened_record
from gateway.store.people.reviews import ReviewDesk

WHOLE, BROKEN = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    export = verbs.add_parser("export", help="print all reviews, for training")
    export.add_argument("--format", choices=("csv", "json"), default="csv")
    verify = verbs.add_parser("verify", help="look whether the chain of signatures is whole")
    for verb in (export, verify):  # the home may stand in front of the verb or behind it
        verb.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help="as above")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    with opened_record(StoreSettings(home=resolve_home(args.home))) as engine:
        desk = ReviewDesk(engine)
        if args.verb == "verify":
            faults = desk.faults()
            for fault in faults:
                print(f"BROKEN  {fault}")
            print(f"{'broken' if faults else 'whole'}: {sum(desk.counts().values())} reviews")
            return BROKEN if faults else WHOLE
        write = review_export.as_csv if args.format == "csv" else review_export.as_json
        for piece in write(engine, desk):
            sys.stdout.write(piece)
        with writing(engine) as connection:
            audit.append(
                connection,
                utc_now(),
                f"command line: {getpass.getuser()}",
                "reviews.exported",
                format=args.format,
                reviews=sum(desk.counts().values()),
            )
    return 0
