"""Fills a record with many studies and measures how long each page takes.

``python -m tests.bench.web`` prints a table for SQLite and PostgreSQL; it exits with 1 when the
95th percentile of a page is above the limit. Each request is a whole one: session, record,
template, over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlencode

import httpx
from sqlalchemy import Engine, text

from gateway.dashboard.app import create_app, warm_up
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import migrate, open_engine, utc_now
from gateway.store.people.accounts import Accounts
from tests.bench.web_record import fill
from tests.bench.web_rows import ANALYSES, DIGEST, RARE_SENDER, VIEWS
from tests.pages import ONE_TIME, change_password, log_in, token_in
from tests.records import postgresql_database
from tests.servers import postgres
from tests.web import served

LIMIT_S = 0.3
_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a page."""

    name: str
    path: str
    form: Mapping[str, str] = field(default_factory=dict)
    """Sent by POST, with the session's token; GET where there is none."""
    until: str = ""
    """Read a stream up to this text; a whole answer where it is empty."""


def looks(studies: int) -> list[Look]:
    """Return every page, and the filters that look at most."""
    middle = studies // 2
    paths = ["/", "/?window=1h", "/?window=7d", "/studies", "/failures", "/queues", "/models"]
    paths += ["/rules", "/nodes", "/storage", "/reviews", "/audit", "/settings", "/accounts"]
    paths += [f"/studies/{middle}", f"/studies/{studies // 3}", "/api"]
    filters = [
        *(f"state={state}" for state in ("completed", "failed", "received")),
        "sender=CAMERA_1",
        f"sender={RARE_SENDER}",
        "sender=NOBODY",
        "sender=NOBODY&state=completed",
        f"analysis={ANALYSES[1]}",
        "analysis=prognosis",
        *(f"delivered={answer}" for answer in ("confirmed", "refused", "pending")),
        f"delivered=confirmed&sender={RARE_SENDER}",
        "reason=decoded",
        "reason=nothing+of+the+kind",
        "uid=77777",
        "uid=1234567890",
        "until=2020-01-01T00:00",
        f"since={time.strftime('%Y-%m-%dT00:00')}",
    ]
    paths += [f"/studies?{each}" for each in filters]
    paths += [f"/studies?before={before}" for before in (middle, 100)]
    # How many an order about all that match would be about.
    orders = ("", "state=failed", "sender=CAMERA_1", "delivered=confirmed", "reason=decoded")
    paths += [
        f"/studies/orders?{urlencode({'order': 'retry', 'scope': 'all', 'query': query})}"
        for query in orders
    ]
    paths += ["/audit?before=1000", "/audit?actor=ada", "/audit?actor=nobody"]
    paths += ["/audit?action=login.failed", "/audit?action=review", "/audit?until=2020-01-01"]
    paths += ["/reviews?before=100", "/api/studies?limit=100", "/api/overview?window=7d"]
    paths += ["/api/failures", "/api/queues", "/api/storage", "/api/reviews", "/api/nodes"]
    paths += ["/api/studies/count", "/api/studies/count?delivered=pending", "/api/mark"]
    paths += ["/metrics"]
    found = [Look(name=path, path=path) for path in paths]
    found += [
        Look(name=f"saved view: {name}", path=f"/studies?{query}") for name, query in VIEWS.items()
    ]
    wanted = (f"2.25.{10**30 + middle}", f"A{middle:07d}", "77777", f"#{middle}", "999.999")
    found += [Look(name=f"search: {word}", path="/find", form={"wanted": word}) for word in wanted]
    found.append(Look(name="/live up to its first mark", path="/live", until="event: mark"))
    return found


def measure(client: httpx.Client, wanted: list[Look], times: int) -> dict[str, dict[str, float]]:
    """Return p50, p95, longest and processor time of each look in seconds.

    Requests come one after the other. The processor time is that of this process (page, record if
    it is SQLite, client): on a machine that does other things it says more than the clock.
    """
    took: dict[str, list[float]] = {look.name: [] for look in wanted}
    cost: dict[str, list[float]] = {look.name: [] for look in wanted}
    token = token_in(client.get("/settings").text)
    for _ in range(times):
        for look in wanted:
            began, burnt = time.perf_counter(), time.process_time()
            _ask(client, look, token)
            took[look.name].append(time.perf_counter() - began)
            cost[look.name].append(time.process_time() - burnt)
    return {
        name: {
            "p50_s": median(found),
            "p95_s": quantiles(found, n=20)[-1],
            "max_s": max(found),
            "cpu_p50_s": median(cost[name]),
            "cpu_p95_s": quantiles(cost[name], n=20)[-1],
            "cpu_max_s": max(cost[name]),
        }
        for name, found in took.items()
    }


def _ask(client: httpx.Client, look: Look, token: str) -> None:
    if look.until:
        with client.stream("GET", look.path) as answer:
            answer.raise_for_status()
            if not any(look.until in line for line in answer.iter_lines()):
                raise RuntimeError(f"{look.path} ended before {look.until!r}")
        return
    if look.form:
        answer = client.post(look.path, data={**look.form, "csrf_token": token})
        if answer.is_redirect or answer.status_code == 404:  # one study was found, or none
            return
    else:
        answer = client.get(look.path)
    answer.raise_for_status()


def _models(folder: Path) -> Path:
    """Write a repository of as many models as are shipped, two of them in use."""
    names = (*ANALYSES, "change_detection", "slide_mil", "prognosis")
    for name in names:
        digest = DIGEST if name in ANALYSES else f"{name:e<64}"[:64]
        manifest = {"name": name, "version": "1", "digest": digest, "evidence_level": "synthetic"}
        version = folder / name / "1"
        version.mkdir(parents=True)
        for place in (version, version.parent):
            (place / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _records(names: list[str], folder: Path) -> Iterator[tuple[str, StoreSettings]]:
    if "sqlite" in names:
        yield "sqlite", StoreSettings(home=folder / "sqlite")
    if "postgresql" in names:
        with postgres(folder / "server") as server, postgresql_database(server) as url:
            yield "postgresql", StoreSettings(home=folder / "postgresql", database_url=url)


def _loaded(engine: Engine, studies: int) -> None:
    began, burnt = time.perf_counter(), time.process_time()
    fill(engine, studies, now=utc_now())
    if engine.dialect.name == "postgresql":
        # What its autovacuum does within minutes; SQLite is left as Lentigo leaves it.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
    print(
        f"{engine.dialect.name}: {studies} studies written in {time.perf_counter() - began:.0f} s "
        f"({time.process_time() - burnt:.0f} s cpu)",
        flush=True,
    )


def _one(
    store: StoreSettings,
    args: argparse.Namespace,
    prepare: Callable[[Engine, int], None] = _loaded,
) -> dict[str, Any]:
    """Return the figures of one record, made first."""
    store.home.mkdir(parents=True, exist_ok=True)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    try:
        prepare(engine, args.studies)
        Accounts(engine).create_first("admin", ONE_TIME)
        app = create_app(store, DashboardSettings(), engine)
        warm_up(app)
        with served(app) as url, httpx.Client(base_url=url, timeout=_TIMEOUT_S) as client:
            log_in(client)
            change_password(client)
            before = os.getloadavg()[0]
            found = measure(client, looks(args.studies), args.times)
            return {"load": [before, os.getloadavg()[0]], "looks": found}
    finally:
        engine.dispose()


def _report(figures: dict[str, Any]) -> int:
    """Print the figures of one record; return how many looks are too slow."""
    before, after = figures["load"]
    print(f"load average {before:.1f} at the beginning, {after:.1f} at the end")
    print(f"{'':<5}{'wall ms':^24}{'cpu ms':^24}\n{'':<5}" + f"{'p50':>8}{'p95':>8}{'max':>8}" * 2)
    slow = 0
    for name, found in figures["looks"].items():
        is_slow = found["p95_s"] > LIMIT_S
        slow += is_slow
        numbers = "".join(f"{value * 1000:8.0f}" for value in found.values())
        print(f"{'SLOW' if is_slow else 'ok':<5}{numbers}  {name}", flush=True)
    return slow


def main() -> int:
    """Run the measurement; 1 when a page is too slow."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=40, help="requests of each page")
    parser.add_argument("--record", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    figures, slow = {}, 0
    with tempfile.TemporaryDirectory(prefix="lentigo-web-") as folder:
        # A purge of the older half, as a site that has just set its days finds it announced.
        os.environ["LENTIGO_RETENTION_INSTANCES_DAYS"] = "15"
        os.environ["LENTIGO_RETENTION_UNCONFIRMED_DAYS"] = "25"
        os.environ["LENTIGO_MODELS_REPOSITORY"] = str(_models(Path(folder) / "models"))
        for name, store in _records(args.record or ["sqlite", "postgresql"], Path(folder)):
            figures[name] = _one(store, args)
            slow += _report(figures[name])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
