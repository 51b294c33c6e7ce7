"""``lentigo audit``: says whether the trail is whole, and gives parts of it out."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import json
import sys
from pathlib import Path

from sqlalchemy import Engine, select

from gateway.audit.recorder import log_file, renderer
from gateway.audit.settings import AuditSettings
from gateway.audit.trail_file import anchors_in
from gateway.errors import GatewayError
from gateway.home import resolve_home
from gateway.settings import StoreSettings
from gateway.store import audit
from gateway.store.audit import Anchor, Trail
from gateway.store.engine import reading, utc_now, writing
from gateway.store.opening import opened_record
from gateway.store.tables import AuditSink

WHOLE, BROKEN = 0, 1
_EPILOG = """\
verify follows the chain from its first entry to its last and compares it with the audit file; it
finds entries that were changed, removed, put in another place or cut off at the end. With --head
it also compares with a number and a digest that were kept elsewhere, e.g. by the syslog server.

exit codes:
  0  done; verify: the trail is whole
  1  verify: it is not; or there is no record
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verify = verbs.add_parser("verify", help="look whether the trail is whole")
    verify.add_argument("--json", action="store_true", help="print the finding as JSON")
    verify.add_argument(
        "--head",
        metavar="ID:SHA256",
        action="append",
        default=[],
        help="an entry that is known from elsewhere; may be repeated",
    )
    verify.add_argument(
        "--file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="another audit file to compare with, e.g. a rotated one; may be repeated",
    )
    export = verbs.add_parser("export", help="print audit messages, one a line")
    for name, text in (("from", "the first moment"), ("to", "the moment behind the last")):
        export.add_argument(
            f"--{name}",
            dest=f"{name}_",
            metavar="TIME",
            type=_moment,
            help=f"{text}, e.g. 2026-03-01 or 2026-03-01T08:00:00+01:00 (default: all; UTC)",
        )
    status = verbs.add_parser("status", help="say how far the trail was handed on")
    for verb in (verify, export, status):  # the home may stand in front of the verb or behind it
        verb.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help="as above")


def _moment(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


def run(args: argparse.Namespace) -> int:
    """Do what the verb says; return the exit code."""
    store = StoreSettings(home=resolve_home(args.home))
    settings = AuditSettings()
    with opened_record(store) as engine:
        if args.verb == "verify":
            return _verify(engine, log_file(store, settings), args)
        if args.verb == "export":
            return _export(engine, settings, args)
        return _status(engine)


def _verify(engine: Engine, path: Path, args: argparse.Namespace) -> int:
    anchors = [_anchor(text) for text in args.head]
    for each in (path, *args.file):
        anchors += anchors_in(each)
    found = Trail(engine).verify(anchors)
    faults = list(found.faults)
    handed_on = _positions(engine).get("file", 0)
    if handed_on and not path.exists():
        faults.append(f"the audit file is gone; it should hold {handed_on} entries")
    with writing(engine) as connection:
        action = "audit.verified" if not faults else "audit.tampered"
        audit.append(
            connection, utc_now(), getpass.getuser(), action, faults=len(faults), reason=faults[:1]
        )
    if args.json:
        answer = {
            "entries": found.entries,
            "head_sha256": found.head_sha256,
            "anchors": len(anchors),
            "faults": faults,
        }
        print(json.dumps(answer, indent=2))
    else:
        for fault in faults:
            print(f"BROKEN  {fault}")
        print(
            f"{'broken' if faults else 'whole'}: {found.entries} entries, {len(anchors)} of them "
            f"known from outside the record; head {found.entries}:{found.head_sha256}"
        )
    return BROKEN if faults else WHOLE


def _anchor(text: str) -> Anchor:
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != 64:
        raise GatewayError("--head is written ID:SHA256, as `lentigo audit verify` prints it")
    return Anchor(id=int(number), sha256=digest.lower())


def _export(engine: Engine, settings: AuditSettings, args: argparse.Namespace) -> int:
    lines = renderer(engine, settings)
    count, page = 0, []
    for entry in Trail(engine).entries(since=args.from_, until=args.to_):
        page.append(entry)
        if len(page) == 500:
            count += _print(lines.lines(page))
            page = []
    count += _print(lines.lines(page))
    with writing(engine) as connection:
        audit.append(connection, utc_now(), getpass.getuser(), "audit.exported", entries=count)
    return 0


def _print(lines: list[str]) -> int:
    for line in lines:
        print(line)
    return len(lines)


def _positions(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        rows = connection.execute(select(AuditSink.name, AuditSink.position))
        return {row[0]: row[1] for row in rows}


def _status(engine: Engine) -> int:
    head = Trail(engine).head()
    print(f"trail   {head.entries} entries, head {head.entries}:{head.sha256}")
    with reading(engine) as connection:
        sinks = connection.execute(select(AuditSink).order_by(AuditSink.name)).all()
    for sink in sinks:
        behind = head.entries - sink.position
        print(f"{sink.name:<7} {behind} behind" + (f": {sink.error}" if sink.error else ""))
    if not sinks:
        print("nothing was handed on yet", file=sys.stderr)
    return 0
