"""Fills a record with many studies and measures how long each page takes.

``python -m tests.bench.web`` prints a table for SQLite and PostgreSQL; it exits with 1 when the
95th percentile of a page is above the limit. Each request is a whole one: session, record,
template, over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from sqlalchemy import Connection, Engine, insert, text

from gateway.dashboard.app import create_app
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.accounts import Accounts
from gateway.store.engine import migrate, open_engine, utc_now
from gateway.store.tables import (
    Delivery,
    Event,
    Generation,
    Identity,
    Instance,
    Refusal,
    ResultObject,
    Study,
    WorkItem,
)
from tests.pages import ONE_TIME, change_password, log_in
from tests.records import DERMOSCOPIC, JPEG_BASELINE, PACS, STRUCTURED_REPORT, postgresql_database
from tests.servers import postgres
from tests.web import served

LIMIT_S = 0.3
SENDERS = ("CAMERA_1", "CAMERA_2", "SCANNER", "PACS")
ANALYSES = ("diagnosis", "tbp_screening")
REASONS = (
    ("REJECTED", "the frame {} cannot be decoded"),
    ("REJECTED", "no image of the study has 256 pixels a side"),
    ("DEFECT", "3 workers died at this step (analyse)"),
)
_CHUNK = 2000
_SPAN = dt.timedelta(days=30)

Rows = dict[Any, list[dict[str, Any]]]


def fill(engine: Engine, studies: int, *, now: dt.datetime, seed: int = 1) -> None:
    """Write studies of 30 days as they end up: most completed, some failed, a few in flight.

    Parameters
    ----------
    studies
        How many; each has two instances, a work item, a result object and a dozen events.
    """
    random_ = random.Random(seed)
    for start in range(0, studies, _CHUNK):
        rows: Rows = {
            table: []
            for table in (
                Study,
                Identity,
                Generation,
                Instance,
                WorkItem,
                ResultObject,
                Delivery,
                Event,
                Refusal,
            )
        }
        for number in range(start + 1, min(start + _CHUNK, studies) + 1):
            at = now - _SPAN * (1 - number / studies) - dt.timedelta(minutes=3)
            _study(rows, number, at, random_, is_new=number > studies - 40)
        with engine.begin() as connection:
            for table, found in rows.items():
                if found:
                    connection.execute(insert(table), found)
    with engine.begin() as connection:
        _mend_sequences(connection)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _study(
    rows: Rows, number: int, at: dt.datetime, random_: random.Random, *, is_new: bool
) -> None:
    state = _state(random_, is_new)
    kind, reason = random_.choice(REASONS) if state == "failed" else ("", "")
    reason = reason.format(random_.randrange(90))
    if state == "refused":
        reason = "no analysis applies to this study"
    seconds = [random_.lognormvariate(mean, 0.5) for mean in (1.0, 0.3, 0.8, 0.2)]
    moments = [at + dt.timedelta(seconds=sum(seconds[: n + 1])) for n in range(4)]
    uid = f"2.25.{10**30 + number}"
    rows[Study].append(
        {
            "id": number,
            "study_instance_uid": uid,
            "state": state,
            "reason": reason,
            "first_received_at": at,
            "last_received_at": at,
            "state_changed_at": moments[3] if state != "received" else at,
        }
    )
    rows[Identity].append(
        {
            "study_id": number,
            "patient_id": f"P{number:07d}",
            "accession_number": f"A{number:07d}",
        }
    )
    is_open = state == "received"
    rows[Generation].append(
        {
            "id": number,
            "study_id": number,
            "number": 1,
            "state": "receiving" if is_open else "routed",
            "opened_at": at,
            "last_instance_at": at,
            "closes_at": at + dt.timedelta(seconds=2),
            "closed_at": None if is_open else moments[0],
            "routed_at": None if is_open else moments[0],
            "next_attempt_at": None,
            "reason": reason if state == "refused" else "",
        }
    )
    sender = random_.choice(SENDERS)
    for part in (1, 2):
        rows[Instance].append(_instance(number, part, at, sender))
    if random_.random() < 0.001:
        rows[Refusal].append(_refusal(number, at, sender))
    if state not in {"received", "refused"}:
        _work(rows, number, state, (kind, reason), moments, random_.choice(ANALYSES))
    actions = ("generation.opened", "generation.closed", "work_item.analysed", f"study.{state}")
    for step, action in enumerate(actions):
        rows[Event].append(
            {
                "at": moments[step] if step else at,
                "study_id": number,
                "work_item_id": None,
                "action": action,
                "level": "info",
                "detail": {},
            }
        )


def _state(random_: random.Random, is_new: bool) -> str:
    if is_new:
        return random_.choice(("received", "analysing", "delivering"))
    return random_.choices(("completed", "failed", "refused"), (96, 3, 1))[0]


def _instance(number: int, part: int, at: dt.datetime, sender: str) -> dict[str, Any]:
    return {
        "study_id": number,
        "generation_id": number,
        "sop_instance_uid": f"2.25.{10**32 + number * 10 + part}",
        "sop_class_uid": DERMOSCOPIC,
        "series_instance_uid": f"2.25.{10**31 + number}",
        "transfer_syntax_uid": JPEG_BASELINE,
        "modality": "XC",
        "sha256": f"{number * 10 + part:064x}",
        "size_bytes": 900_000,
        "path": f"{number}/{part}.dcm",
        "disposition": "accepted",
        "reason": "",
        "calling_ae_title": sender,
        "association_id": f"{number:032x}",
        "received_at": at,
    }


def _refusal(number: int, at: dt.datetime, sender: str) -> dict[str, Any]:
    return {
        "at": at,
        "study_id": number,
        "association_id": f"{number:032x}",
        "calling_ae_title": sender,
        "status": 0xC001,
        "reason": "the data set ends before its last element",
    }


def _work(
    rows: Rows,
    number: int,
    state: str,
    failure: tuple[str, str],
    moments: list[dt.datetime],
    analysis: str,
) -> None:
    has_failed, is_done = state == "failed", state == "completed"
    is_analysed = state in {"completed", "delivering"}
    rows[WorkItem].append(
        {
            "id": number,
            "study_id": number,
            "generation_id": number,
            "analysis": analysis,
            "model_digest": "d" * 64,
            "state": "CANCELED" if has_failed else "COMPLETED" if is_done else "SCHEDULED",
            "step": "deliver" if is_analysed else "analyse",
            "outcome": "assessed" if is_analysed else "",
            "reason": failure[1],
            "failure_kind": failure[0],
            "summary": {"headline": "NV 0.91", "reason": ""} if is_analysed else None,
            "attempts": 1,
            "created_at": moments[0],
            "rank_at": moments[0],
            "started_at": moments[1] if is_analysed else None,
            "analysed_at": moments[2] if is_analysed else None,
            "finished_at": moments[3] if has_failed or is_done else None,
            "next_attempt_at": None if has_failed or is_done else moments[2],
        }
    )
    if not is_analysed:
        return
    rows[ResultObject].append(
        {
            "id": number,
            "work_item_id": number,
            "role": "sr",
            "sop_class_uid": STRUCTURED_REPORT,
            "sop_instance_uid": f"2.25.{10**33 + number}",
            "series_instance_uid": f"2.25.{10**34 + number}",
            "path": f"{number}/sr.dcm",
            "sha256": "ab" * 32,
            "size_bytes": 4096,
            "created_at": moments[2],
        }
    )
    is_refused = is_done and number % 500 == 0
    rows[Delivery].append(
        {
            "result_object_id": number,
            "destination": PACS,
            "state": "REFUSED" if is_refused else "CONFIRMED" if is_done else "PENDING",
            "status": 0xA900 if is_refused else 0,
            "reason": "the SOP class is not taken" if is_refused else "",
            "confirmed_by": "" if is_refused or not is_done else "c-find",
        }
    )


def _mend_sequences(connection: Connection) -> None:
    """Let PostgreSQL go on after the ids that were given here."""
    if connection.dialect.name != "postgresql":
        return
    for table in (Study, Generation, WorkItem, ResultObject):
        name = table.__tablename__
        connection.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}")
        )


def addresses(studies: int) -> list[str]:
    """Return every page, and the filters that look at most."""
    middle = studies // 2
    pages = ["/", "/?window=1h", "/?window=7d", "/studies", "/failures", "/queues", "/api"]
    pages += [f"/studies/{middle}", f"/studies?before={middle}", "/studies?state=failed"]
    pages += [
        "/studies?sender=CAMERA_1",
        "/studies?sender=NOBODY",
        "/studies?analysis=tbp_screening",
        "/studies?delivered=refused",
        "/studies?delivered=pending",
        "/studies?reason=decoded",
        "/studies?uid=77777",
        "/studies?held=yes",
        "/studies/orders?order=retry&scope=all&query=state%3Dfailed",
        "/api/studies?limit=100",
        "/api/overview",
        "/api/failures",
        "/api/mark",
    ]
    return [*pages, "/models", "/rules", "/nodes", "/storage", "/reviews", "/audit", "/settings"]


def measure(client: httpx.Client, paths: list[str], times: int) -> dict[str, dict[str, float]]:
    """Return p50, p95, longest and processor time of each page in seconds.

    Requests come one after the other. The processor time is that of this process (page, record if
    it is SQLite, client): on a machine that does other things it says more than the clock.
    """
    took: dict[str, list[float]] = {path: [] for path in paths}
    cost: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(times):
        for path in paths:
            began, burnt = time.perf_counter(), time.process_time()
            answer = client.get(path)
            if answer.status_code == 404 and path in took and not took[path]:
                del took[path]  # a page that this version does not have
                continue
            answer.raise_for_status()
            took[path].append(time.perf_counter() - began)
            cost[path].append(time.process_time() - burnt)
        paths = list(took)
    return {
        path: {
            "p50_s": median(found),
            "p95_s": quantiles(found, n=20)[-1],
            "max_s": max(found),
            "cpu_s": median(cost[path]),
        }
        for path, found in took.items()
    }


def _records(names: list[str], folder: Path) -> Iterator[tuple[str, StoreSettings]]:
    if "sqlite" in names:
        yield "sqlite", StoreSettings(home=folder / "sqlite")
    if "postgresql" in names:
        with postgres(folder / "server") as server, postgresql_database(server) as url:
            yield "postgresql", StoreSettings(home=folder / "postgresql", database_url=url)


def _one(name: str, store: StoreSettings, args: argparse.Namespace) -> dict[str, Any]:
    store.home.mkdir(parents=True)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    try:
        began = time.perf_counter()
        fill(engine, args.studies, now=utc_now())
        print(f"{name}: {args.studies} studies in {time.perf_counter() - began:.0f} s", flush=True)
        Accounts(engine).create_first("admin", ONE_TIME)
        app = create_app(store, DashboardSettings(), engine)
        with served(app) as url, httpx.Client(base_url=url, timeout=120) as client:
            log_in(client)
            change_password(client)
            return measure(client, addresses(args.studies), args.times)
    finally:
        engine.dispose()


def main() -> int:
    """Run the measurement; 1 when a page is too slow."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20, help="requests of each page")
    parser.add_argument("--record", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    figures, slow = {}, 0
    with tempfile.TemporaryDirectory(prefix="lentigo-web-") as folder:
        for name, store in _records(args.record or ["sqlite", "postgresql"], Path(folder)):
            figures[name] = _one(name, store, args)
            for path, found in figures[name].items():
                is_slow = found["p95_s"] > LIMIT_S
                slow += is_slow
                print(
                    f"{'SLOW' if is_slow else 'ok':<5}{found['p50_s'] * 1000:8.0f}"
                    f"{found['p95_s'] * 1000:8.0f}{found['max_s'] * 1000:8.0f} ms"
                    f"{found['cpu_s'] * 1000:8.0f} ms cpu  {path}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
