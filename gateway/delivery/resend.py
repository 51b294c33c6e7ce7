"""``lentigo resend``: sends the results of a study once more, to the destinations in force."""

from __future__ import annotations

import argparse
import getpass

from gateway.delivery.routes import parse_routes
from gateway.home import resolve_home
from gateway.settings import DeliverySettings, StoreSettings
from gateway.store.engine import open_engine
from gateway.store.work.resend import ResendDesk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("study_uid", metavar="STUDY_UID", help="a Study Instance UID")
    parser.add_argument(
        "--to",
        metavar="DESTINATION",
        default="",
        help="destinations, written as in LENTIGO_DELIVERY_DESTINATION, in the place of those set "
        "there",
    )
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code.

    Raises
    ------
    ResendRefused
        The study is not known, or has no results.
    DestinationError
        ``--to`` or the setting names no destination.
    """
    routes = parse_routes(args.to or DeliverySettings().destination)
    engine = open_engine(StoreSettings(home=resolve_home(args.home)).record_url)
    try:
        resent = ResendDesk(engine).resend(args.study_uid, routes, by=getpass.getuser())
    finally:
        engine.dispose()
    print(f"{resent.deliveries} objects are on their way to {', '.join(r.name for r in routes)}")
    return 0
