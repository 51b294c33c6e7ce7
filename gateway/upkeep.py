"""What goes on beside the sweeper's own work, each in a thread: audit, purge, what is told.

Neither may hold up a study: a syslog server that hangs or a purge of a thousand slides is no
concern of whoever waits for a result.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from gateway.audit.recorder import AuditRecorder, forwarders
from gateway.audit.settings import AuditSettings
from gateway.errors import GatewayError
from gateway.observation.observer import Observer
from gateway.observation.senders import open_outbox
from gateway.retention.purge import Purge
from gateway.retention.watermarks import Forecast, forecast
from gateway.settings import ListenerSettings, RetentionSettings, StoreSettings
from gateway.store import states
from gateway.store.engine import Clock, utc_now, writing

log = logging.getLogger(__name__)

_LOOK_S = 30.0
_RESTART_S = 5.0
_JOIN_S = 3.0
"""What all of them together may take to end: a receiver that hangs, or a purge, is left where it
is, as by ``kill -9``; the supervisor waits ten seconds for the whole sweeper."""


class Retention:
    """Purges at its interval, and at once when the disk passes its low watermark."""

    def __init__(
        self,
        engine: Engine,
        store: StoreSettings,
        settings: RetentionSettings,
        clock: Clock = utc_now,
    ) -> None:
        self._engine = engine
        self._store = store
        self._settings = settings
        self._clock = clock
        self._purge = Purge(engine, store, settings, clock)
        self._was_above = False

    def look(self) -> bool:
        """Look at the disk; return whether it passed the low watermark since the last look."""
        found = forecast(
            self._engine, self._store.home, ListenerSettings(), self._settings, self._clock
        )
        has_passed = found.is_above_low and not self._was_above
        if has_passed:
            self._warn(found)
        self._was_above = found.is_above_low
        return has_passed

    def _warn(self, found: Forecast) -> None:
        used = round(found.disk.used_percent, 1)
        log.warning(
            "the disk is above its low watermark",
            extra={"action": "retention.low_watermark", "used_percent": used},
        )
        with writing(self._engine) as connection:
            states.note(
                connection,
                self._clock(),
                "retention.low_watermark",
                level="warning",
                used_percent=used,
            )

    def purge(self) -> None:
        """Run a purge and log what it did."""
        report = self._purge.run()
        if report.is_empty:
            return
        log.info(
            "purged",
            extra={
                "action": "retention.purged",
                "files": dict(report.files),
                "freed_bytes": report.freed_bytes,
                "events": report.events,
                "features": report.features,
                "left_alone": dict(report.faults),
            },
        )

    def run(self, stop: threading.Event) -> None:
        """Purge until ``stop`` is set; outages are logged and waited out."""
        left_s = 0.0
        step_s = min(_LOOK_S, self._settings.interval_s)
        while not stop.is_set():
            try:
                if self.look() or left_s <= 0:
                    self.purge()
                    left_s = self._settings.interval_s
            except GatewayError as exc:
                log.warning("no purge: %s", exc, extra={"action": "retention.waiting"})
            stop.wait(step_s)
            left_s -= step_s


@contextmanager
def upkeep(engine: Engine, store: StoreSettings) -> Iterator[None]:
    """Keep the audit trail and purge until the end of the block.

    Raises
    ------
    SettingsError
        A setting of the audit trail cannot be used.
    """
    stop, audit = threading.Event(), AuditSettings()
    recorder = AuditRecorder(engine, forwarders(engine, store, audit), audit)
    retention = Retention(engine, store, RetentionSettings())
    threads = [
        threading.Thread(target=_keep_going, args=(work, stop), name=name, daemon=True)
        for name, work in (
            ("audit", recorder.run),
            ("retention", retention.run),
            ("observer", Observer(engine).run),
            ("outbox", open_outbox(engine).run),
        )
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        deadline = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _keep_going(work: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """Begin again what ended by a defect: a thread that is gone is missed by nobody."""
    while not stop.is_set():
        try:
            work(stop)
        except Exception as exc:  # the edge of a thread; its text may quote values
            log.error(
                "%s ended by a defect; it begins again",
                threading.current_thread().name,
                exc_info=exc,
                extra={"action": "upkeep.failed"},
            )
            stop.wait(_RESTART_S)
