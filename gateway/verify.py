"""``lentigo verify``: checks that nothing was lost or doubled, and says what to do where it was.

Exit code 0: every promise holds; 1: one is broken; 2: it cannot be told, because the record or the
PACS does not answer. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, select

from gateway.delivery.routes import FOLDER, Destination
from gateway.errors import GatewayError, RecordUnavailable
from gateway.home import resolve_home, running_instance
from gateway.settings import DeliverySettings, StoreSettings
from gateway.store.engine import open_engine, reading
from gateway.store.tables import Delivery, ResultObject, Study, WorkItem
from gateway.store.verify import Finding, Subject, verify

_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3
_STYLE = {"PASS": "green", "NOTE": "yellow", "FAIL": "bold red"}
_EXAMPLES = 10

BROKEN, UNKNOWN = 1, 2
"""Exit codes."""


class PacsUnavailable(GatewayError):
    """The PACS cannot be asked what it holds; the message says why."""


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


def check_pacs(engine: Engine, settings: DeliverySettings) -> Finding:
    """Every confirmed object is at its destination, once, and nothing else is in our series.

    Raises
    ------
    PacsUnavailable
        A destination cannot be asked.
    """
    examples: list[str] = []
    checked = broken = 0
    for destination, series in _confirmed(engine).items():
        listed = _listed(Destination.parse(destination), settings, list(series))
        for (study_uid, series_uid), expected in series.items():
            found = listed[study_uid, series_uid]
            for uid, label in expected.items():
                checked += 1
                count = found.pop(uid, 0)
                if count != 1:
                    broken += 1
                    what = f"is listed {count} times" if count else "is not there"
                    examples.append(f"{label} at {destination}: {what}")
            if found:
                broken += len(found)
                label = next(iter(expected.values()))
                examples.append(f"{len(found)} unknown objects at {destination} beside {label}")
    return Finding(
        invariant="every confirmed object is at the PACS, once",
        checked=checked,
        broken=broken,
        remedy="deliver again from the admin page, or ask the PACS who deleted it"
        if broken
        else "",
        examples=tuple(examples[:_EXAMPLES]),
    )


def _confirmed(engine: Engine) -> dict[str, dict[tuple[str, str], dict[str, str]]]:
    """Return destination -> (study, series) -> SOP Instance UID -> what we call it."""
    found: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    with reading(engine) as connection:
        rows = connection.execute(
            select(
                Delivery.destination,
                Delivery.state,
                Study.study_instance_uid,
                ResultObject.id,
                ResultObject.work_item_id,
                ResultObject.role,
                ResultObject.series_instance_uid,
                ResultObject.sop_instance_uid,
            )
            .join(ResultObject, Delivery.result_object_id == ResultObject.id)
            .join(WorkItem, ResultObject.work_item_id == WorkItem.id)
            .join(Study, WorkItem.study_id == Study.id)
            .where(Delivery.state == "CONFIRMED", Delivery.destination != FOLDER)
            .order_by(Delivery.id)
        ).all()
    for row in rows:
        series = found.setdefault(row.destination, {})
        objects = series.setdefault((row.study_instance_uid, row.series_instance_uid), {})
        objects[row.sop_instance_uid] = f"work item {row.work_item_id}, {row.role}"
    return found


def _listed(
    destination: Destination, settings: DeliverySettings, series: list[tuple[str, str]]
) -> dict[tuple[str, str], Counter[str]]:
    """Ask for the instances of every series, on one association (PS3.4 C.4.1)."""
    ae = AE(ae_title=settings.calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = settings.timeout_s
    ae.network_timeout = ae.connection_timeout = settings.timeout_s
    ae.add_requested_context(_STUDY_ROOT_FIND)
    assoc = ae.associate(destination.host, destination.port, ae_title=destination.ae_title)
    if not assoc.is_established:
        raise PacsUnavailable(f"{destination.ae_title} does not let us ask (C-FIND)")
    try:
        return {
            pair: Counter(uid for uid in _instances(assoc, destination, *pair)) for pair in series
        }
    finally:
        if assoc.is_established:
            assoc.release()


def _instances(
    assoc: Association, destination: Destination, study_uid: str, series_uid: str
) -> Iterator[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_uid, series_uid
    query.SOPInstanceUID = ""
    status = None
    try:
        for response, identifier in assoc.send_c_find(query, _STUDY_ROOT_FIND):
            status = response.get("Status")
            # Some acceptors answer with more than was asked for.
            if identifier is not None and identifier.get("SeriesInstanceUID") in (series_uid, None):
                yield str(identifier.get("SOPInstanceUID", ""))
    except (RuntimeError, ValueError) as exc:
        raise PacsUnavailable(f"{destination.ae_title} ended the association") from exc
    if status != 0x0000:
        raise PacsUnavailable(f"{destination.ae_title} did not answer a C-FIND with success")


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
    try:
        findings = verify(
            Subject(
                engine=engine,
                spool=store.spool_folder,
                results=store.results_folder,
                is_deep=args.deep,
                grace_s=args.grace,
            )
        )
        if args.pacs:
            findings.append(check_pacs(engine, delivery))
    except (RecordUnavailable, PacsUnavailable) as exc:
        print(f"lentigo verify: cannot tell: {exc}", file=sys.stderr)
        return UNKNOWN
    finally:
        engine.dispose()
    if args.json:
        print(json.dumps([{"verdict": each.verdict, **vars(each)} for each in findings], indent=2))
    else:
        _print(findings)
    return BROKEN if any(each.verdict == "FAIL" for each in findings) else 0


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
