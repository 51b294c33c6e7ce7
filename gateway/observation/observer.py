"""The sweeper's thread that reads the timeline once, and makes counts, events and drift of it."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select

from gateway.errors import RecordUnavailable
from gateway.observation import counting
from gateway.observation.drift_watch import DriftWatch
from gateway.observation.follower import BATCH, Follower
from gateway.observation.notices import Receivers, file_notices
from gateway.observation.settings import (
    DriftSettings,
    EventSettings,
    FhirSettings,
    MailSettings,
)
from gateway.observation.silence import SilenceWatch
from gateway.observation.tallies import Tallies
from gateway.observation.tracing import trace_ids, tracer
from gateway.store.engine import Clock, utc_now
from gateway.store.installation import installation_serial
from gateway.store.tables import Generation

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_SILENCE_EVERY_S = 30.0


class Observer:
    """Follows the timeline and what comes in."""

    def __init__(
        self,
        engine: Engine,
        receivers: Receivers | None = None,
        drift: DriftSettings | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._receivers = receivers or Receivers(
            events=EventSettings(), mail=MailSettings(), fhir=FhirSettings()
        )
        self._silence = SilenceWatch(engine, self._receivers.events, clock)
        self._drift = DriftWatch(drift or DriftSettings())
        self._followers = (
            Follower(engine, "events", counting.event_rows(), self._events, clock),
            Follower(engine, "instances", counting.instance_rows(), _instances, clock),
        )
        self._silence_at = 0.0

    def _events(self, connection: Connection, rows: Sequence[Any], now: dt.datetime) -> None:
        tallies = Tallies()
        counting.count_events(connection, tallies, rows)
        tallies.write(connection)
        file_notices(connection, rows, self._receivers, now)
        self._silence.add(connection, rows, now)
        self._drift.add(connection, rows, now)
        trace_received(connection, rows, now)

    def look(self, stop: threading.Event | None = None) -> int:
        """Read what is new, at most one batch once ``stop`` is set; return how many rows.

        Raises
        ------
        RecordUnavailable
            The next look finds the same.
        """
        read = sum(_all(follower, stop) for follower in self._followers)
        if time.monotonic() >= self._silence_at:
            self._silence.look()
            self._silence_at = time.monotonic() + _SILENCE_EVERY_S
        return read

    def run(self, stop: threading.Event) -> None:
        """Look until ``stop`` is set, and at one batch more then; outages are logged once."""
        outage = ""
        while True:
            is_last = stop.wait(_LOOK_S)
            try:
                self.look(stop)
            except RecordUnavailable as exc:
                if outage != str(exc):
                    log.warning("waiting: %s", exc, extra={"action": "observer.waiting"})
                outage = str(exc)
            else:
                outage = ""
            if is_last:
                return


def _all(follower: Follower, stop: threading.Event | None) -> int:
    total = 0
    while True:
        read = follower.step()
        total += read
        if read < BATCH or (stop is not None and stop.is_set()):
            return total
        time.sleep(0)  # whoever waits for the record goes first


def _instances(connection: Connection, rows: Sequence[Any], now: dt.datetime) -> None:
    del now
    tallies = Tallies()
    counting.count_instances(tallies, rows)
    tallies.write(connection)


def trace_received(connection: Connection, rows: Sequence[Any], now: dt.datetime) -> None:
    """Add what the listener and the quiet window took to the traces of studies that closed."""
    found = tracer("listener")
    closed = [row for row in rows if row.action == "generation.closed"]
    if found is None or not closed:
        return
    serial = installation_serial(connection, now)
    for row in closed:
        generation = connection.execute(
            select(Generation.id, Generation.opened_at, Generation.last_instance_at).where(
                Generation.study_id == row.study_id,
                Generation.number == row.detail.get("generation"),
            )
        ).first()
        if generation is None:
            continue
        ids = trace_ids(serial, generation.id)
        attributes = {"lentigo.study": row.study_id}
        found.past("receive", ids, generation.opened_at, generation.last_instance_at, attributes)
        found.past("quiet window", ids, generation.last_instance_at, row.at, attributes)
