"""``lentigo up``: the command line of the supervisor."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gateway.dashboard.model_settings import ModelSettings
from gateway.hardening.findings import Setup
from gateway.hardening.rules import keep_private, refuse_weak
from gateway.home import resolve_home
from gateway.host.installation import check_installation
from gateway.host.supervisor import Supervisor, UpOptions
from gateway.observation.senders import check_receivers
from gateway.observation.settings import TracingSettings
from gateway.settings import (
    BrokerSettings,
    DashboardSettings,
    DeliverySettings,
    ListenerSettings,
    StoreSettings,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what is left out comes from ``LENTIGO_*`` variables or defaults."""
    parser.add_argument("--home", metavar="DIR", help="folder of everything Lentigo keeps")
    parser.add_argument("--ae-title", metavar="AET", help="our AE title (default LENTIGO)")
    parser.add_argument(
        "--dicom-port", metavar="N", type=int, help="DICOM port (default 11112; 0: any free one)"
    )
    parser.add_argument(
        "--http-port", metavar="N", type=int, help="admin page's port (default 8042; 0: any)"
    )
    parser.add_argument(
        "--send-to",
        metavar="AET@HOST:PORT",
        help="where results go, several separated by commas; /sr+seg behind one sends it these "
        "kinds alone, /-pdf all but these (default: the results folder in the home)",
    )
    parser.add_argument(
        "--models",
        metavar="NAME",
        nargs="+",
        help="models that the embedded Triton loads (default: all of the model repository)",
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", help="address the listener binds to (default 127.0.0.1)"
    )
    parser.add_argument(
        "--allow",
        metavar="AET@HOST",
        action="append",
        help="let this AE title in from this host or network (AET may be *); may be repeated",
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def run(args: argparse.Namespace) -> int:
    """Start everything and stay until SIGTERM.

    Raises
    ------
    HostIncomplete
        What the workers or Triton need is not installed.
    """
    check_installation()
    home = (
        resolve_home(args.home)
        if args.home or os.environ.get("LENTIGO_HOME")
        else StoreSettings().home
    )
    listener = ListenerSettings(
        **_given(
            ae_title=args.ae_title,
            port=args.dicom_port,
            bind=args.bind,
            allow=",".join(args.allow) if args.allow else None,
        )
    )
    delivery = DeliverySettings(
        **_given(destination=args.send_to), calling_ae_title=listener.ae_title
    )
    if delivery.destination:
        from gateway.delivery.routes import parse_routes

        parse_routes(delivery.destination)  # a misspelt one is refused now, not at midnight
    store = StoreSettings(home=home)
    dashboard = DashboardSettings(**_given(port=args.http_port))
    check_receivers()
    keep_private()
    refuse_weak(Setup(store=store, listener=listener, dashboard=dashboard, delivery=delivery))
    # Without either variable a Redis of our own is started.
    tracing = TracingSettings()
    names = ("LENTIGO_BROKER_URL", "LENTIGO_BROKER_URL_FILE")
    is_named = any(os.environ.get(name) for name in names)
    return Supervisor(
        UpOptions(
            store=store,
            listener=listener,
            dashboard=dashboard,
            delivery=delivery,
            broker_url=BrokerSettings().url if is_named else "",
            triton_url=os.environ.get("LENTIGO_TRITON_URL", ""),
            repository=ModelSettings().repository,
            models=tuple(args.models or ("*",)),
            # It cannot be told the token: a program of others learns none of our secrets.
            triton_traces="" if tracing.token else tracing.endpoint,
        )
    ).run()
