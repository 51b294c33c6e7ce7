"""Keeps the trail: sums up the timeline and hands the trail on, beside the sweeper's own work."""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from gateway.audit.forwarding import Forwarder, Renderer
from gateway.audit.message import Source
from gateway.audit.settings import AuditSettings
from gateway.audit.summary import summarise
from gateway.audit.syslog import SyslogSender, SyslogServer, tls_context
from gateway.audit.trail_file import TrailFile
from gateway.errors import RecordUnavailable, SinkUnavailable
from gateway.settings import ListenerSettings, StoreSettings
from gateway.store.engine import Clock, utc_now

log = logging.getLogger(__name__)

_MAX_PAUSE_S = 60.0


def log_file(store: StoreSettings, settings: AuditSettings) -> Path:
    """Return where the audit file lies."""
    return settings.log or store.home / "audit" / "audit.log"


def source_of(settings: AuditSettings) -> Source:
    """Return who reports."""
    return Source(
        source_id=settings.source_id or socket.gethostname(),
        enterprise_site=settings.enterprise_site,
        ae_title=ListenerSettings().ae_title,
    )


def renderer(engine: Engine, settings: AuditSettings) -> Renderer:
    """Return what makes the lines of entries."""
    return Renderer(engine, source_of(settings), shows_patient_id=settings.patient_id)


def forwarders(
    engine: Engine, store: StoreSettings, settings: AuditSettings, clock: Clock = utc_now
) -> tuple[Forwarder, ...]:
    """Return what hands the trail on: to the file, and to a syslog server where one is named.

    Raises
    ------
    SettingsError
        The server or its certificates cannot be used.
    """
    lines = renderer(engine, settings)
    found = [Forwarder(engine, "file", TrailFile(log_file(store, settings)), lines, clock)]
    if settings.syslog.strip():
        server = SyslogServer.parse(settings.syslog)
        tls = (
            tls_context(settings.syslog_ca, settings.syslog_certificate, settings.syslog_key)
            if server.transport == "tls"
            else None
        )
        found.append(Forwarder(engine, "syslog", SyslogSender(server, tls), lines, clock))
    return tuple(found)


@dataclass(kw_only=True)
class _Pause:
    """When a sink that failed is tried again."""

    failures: int = 0
    until: float = 0.0


class AuditRecorder:
    """Looks for something to report again and again, in a thread of its own."""

    def __init__(
        self, engine: Engine, sinks: tuple[Forwarder, ...], settings: AuditSettings
    ) -> None:
        self._engine = engine
        self._sinks = sinks
        self._interval_s = settings.interval_s
        self._pauses = {sink.name: _Pause() for sink in sinks}
        self._outage = ""

    def look(self) -> None:
        """Sum up and hand on once; outages are logged once and waited out."""
        try:
            while summarise(self._engine):
                pass
            for sink in self._sinks:
                self._forward(sink)
        except RecordUnavailable as exc:
            if self._outage != str(exc):
                log.warning("waiting: %s", exc, extra={"action": "audit.waiting"})
            self._outage = str(exc)
        else:
            self._outage = ""

    def _forward(self, sink: Forwarder) -> None:
        pause = self._pauses[sink.name]
        if time.monotonic() < pause.until:
            return
        try:
            sink.forward()
        except SinkUnavailable as exc:
            if not pause.failures:
                log.error("%s", exc, extra={"action": "audit.sink_failed", "sink": sink.name})
            pause.failures += 1
            pause_s = min(self._interval_s * 2 ** min(pause.failures, 10), _MAX_PAUSE_S)
            pause.until = time.monotonic() + pause_s
        else:
            if pause.failures:
                log.info("going on", extra={"action": "audit.sink_resumed", "sink": sink.name})
            self._pauses[sink.name] = _Pause()

    def run(self, stop: threading.Event) -> None:
        """Look until ``stop`` is set, and once more then."""
        while not stop.wait(self._interval_s):
            self.look()
        self.look()
        for sink in self._sinks:
            sink.close()
