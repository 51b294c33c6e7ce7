"""``lentigo attach``: gives a document of the site to a study, on the host of the record."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from gateway.documents import MAX_BYTES, document_desk
from gateway.errors import DocumentRefused, GatewayError
from gateway.home import resolve_home, running_instance
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine
from gateway.store.intake.documents import Registered

_EPILOG = """\
The document is kept until the study arrives. One that comes when the study was analysed already
opens its next generation: the analyses run again, and their results supersede those before.

types: JSON (.json), FHIR as JSON, CSV (.csv); at most 32 MiB
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="the document")
    parser.add_argument(
        "--study",
        required=True,
        metavar="UID",
        help="Study Instance UID, or SOP Instance UID of a received instance",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="name under which analyses find it (default: that of the file); the newest of a name "
        "counts",
    )
    parser.add_argument("--type", default="", metavar="TYPE", help="media type, e.g. text/csv")
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")


def run(args: argparse.Namespace) -> int:
    """Keep the document; return the exit code."""
    content = _read(args.file)
    store = StoreSettings(home=resolve_home(args.home))
    running = running_instance(store.home)
    if not store.database_url and running is not None and running.database_url:
        store = StoreSettings(home=store.home, database_url=running.database_url)
    if not store.database_url and not (store.home / "record.sqlite3").is_file():
        raise GatewayError(f"there is no record in {store.home}; `lentigo up` makes one")
    engine = open_engine(store.record_url)
    try:
        registered = document_desk(store, engine).receive(
            uid=args.study,
            name=args.name or args.file.name,
            stated_type=args.type,
            content=content,
            actor=f"command line: {getpass.getuser()}"[:64],
        )
    finally:
        engine.dispose()
    print(_said(registered))
    return 0


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as exc:
        raise DocumentRefused(f"{path} cannot be read: {exc.strerror}", 422) from exc


def _said(registered: Registered) -> str:
    if not registered.is_new:
        return "The newest document of this name is the same; nothing was changed."
    if registered.generation is None:
        return "Kept. The study has not arrived; the document waits for it."
    return f"Kept. It belongs to generation {registered.generation} of the study."
