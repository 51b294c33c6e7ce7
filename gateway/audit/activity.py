"""Starts and stops of services in the audit trail (PS3.15 A.5.3.1, A.5.3.9)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from gateway.errors import RecordUnavailable
from gateway.store import audit
from gateway.store.engine import open_engine, utc_now, writing

log = logging.getLogger(__name__)


@contextmanager
def activity(record_url: str, service: str, *, is_node: bool = False) -> Iterator[None]:
    """Note that a service starts, and at the end of the block that it stops.

    A record that does not answer holds up no service: the line in the log has to do.

    Parameters
    ----------
    is_node
        Whether the service is our node on the DICOM network.
    """
    started = ("service.started", *(("network.attached",) if is_node else ()))
    stopped = (*(("network.detached",) if is_node else ()), "service.stopped")
    _note(record_url, service, started)
    try:
        yield
    finally:
        _note(record_url, service, stopped)


def _note(record_url: str, service: str, actions: tuple[str, ...]) -> None:
    engine: Engine = open_engine(record_url)
    try:
        with writing(engine) as connection:
            for action in actions:
                audit.append(connection, utc_now(), service, action)
    except RecordUnavailable as exc:
        log.warning("not in the audit trail: %s", exc, extra={"action": "audit.unrecorded"})
    finally:
        engine.dispose()
