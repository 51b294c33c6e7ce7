"""``python -m gateway listen | sweep | dashboard | migrate``: one service a process."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from gateway.audit.activity import activity
from gateway.errors import GatewayError
from gateway.hardening.findings import Setup
from gateway.hardening.rules import keep_private, refuse_weak
from gateway.host.first_account import create_first_account
from gateway.host.health import MarkedStop, alive_mark
from gateway.host.pauses import keep_pauses_short
from gateway.host.restore import refuse_half_restored
from gateway.host.stopping import stop_on_signals
from gateway.logs import configure_logging
from gateway.queue import CeleryQueue
from gateway.retention.door import open_spool, quota_desk
from gateway.settings import (
    BrokerSettings,
    CompletenessSettings,
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    RuleSettings,
    StoreSettings,
    reject_unknown_environment,
)
from gateway.store.engine import migrate, open_engine
from gateway.store.intake.receiving import Intake
from gateway.store.schema import refuse_newer_schema
from gateway.store.work.hints import HintBoard
from gateway.sweeper import Sweeper
from gateway.upkeep import upkeep


def _stop_event(event: threading.Event | None = None) -> threading.Event:
    stop = event or threading.Event()
    stop_on_signals(stop)
    return stop


def _listen() -> None:
    from gateway.delivery.reporter import commitment_service
    from gateway.listener.server import Listener

    stop = _stop_event()
    store, listener = StoreSettings(), ListenerSettings()
    engine = open_engine(store.record_url)
    intake = Intake(engine, CompletenessSettings())
    spool = open_spool(store, listener)
    service = Listener(
        listener,
        intake,
        spool,
        services=(commitment_service(engine, store),),
        admit=quota_desk(engine).admit,
    )
    keep_pauses_short()
    service.start()
    stop.wait()
    service.stop()


def _sweep() -> None:
    from gateway.delivery.reporter import reporting
    from gateway.delivery.routes import parse_routes
    from gateway.rule_watch import RuledClosing, RuleWatch
    from gateway.rules.headers import HeaderReader
    from gateway.rules.reading import Site
    from gateway.store.intake.closing import ClosingDesk
    from gateway.store.intake.rulebook import Rulebook
    from gateway.store.work.upkeep import Upkeep

    store = StoreSettings()
    stop = _stop_event(MarkedStop(alive_mark(store.mark_folder, "sweeper")))
    engine = open_engine(store.record_url)
    completeness = CompletenessSettings()
    routes = parse_routes(DeliverySettings().destination)
    sweeper = Sweeper(
        RuledClosing(
            ClosingDesk(engine, reader=HeaderReader(store.spool_folder)),
            RuleWatch(
                RuleSettings().file, Site.of(route.name for route in routes), Rulebook(engine)
            ),
        ),
        HintBoard(engine),
        CeleryQueue(BrokerSettings().url),
        completeness,
        Upkeep(engine),
    )
    with upkeep(engine, store), reporting(engine, store):
        sweeper.run(stop)


def _dashboard() -> None:
    from gateway.dashboard.app import serve

    serve(StoreSettings(), DashboardSettings())


def _migrate() -> None:
    store = StoreSettings()
    store.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_half_restored(store.home)
    refuse_newer_schema(store.record_url)
    migrate(store.record_url)
    create_first_account(store, DashboardSettings())


SERVICES = {"listen": _listen, "sweep": _sweep, "dashboard": _dashboard, "migrate": _migrate}


def main() -> int:
    """Run one service until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("service", choices=SERVICES)
    service = parser.parse_args().service
    configure_logging(service)
    try:
        reject_unknown_environment(os.environ)
        keep_private()
        refuse_weak(Setup(services=frozenset({service})))
        if service == "migrate":  # before it there is no trail to write to
            SERVICES[service]()
            return 0
        refuse_newer_schema(StoreSettings().record_url)
        with activity(StoreSettings().record_url, service, is_node=service == "listen"):
            SERVICES[service]()
    except GatewayError as exc:
        print(f"{service}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
