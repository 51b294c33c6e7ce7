"""OpenTelemetry traces of a study's way, one trace a generation; nothing is loaded while off.

The trace id and the id of its root span are derived from the installation's serial number and the
generation: every process, also one that takes over after a crash, adds to the same trace, and
nothing has to be kept or handed on. Attributes are numbers of the record, analyses and attempts.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gateway.observation.settings import TracingSettings

_SAMPLED = 1


def trace_ids(serial: str, generation_id: int) -> tuple[int, int]:
    """Return (trace id, root span id) of a generation (W3C Trace Context: 16 and 8 bytes).

    Examples
    --------
    >>> trace_ids("a", 1) == trace_ids("a", 1) != trace_ids("a", 2)
    True
    """
    digest = hashlib.sha256(f"lentigo:{serial}:{generation_id}".encode()).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


class Tracer:
    """Makes spans and hands them to the exporter in the background.

    A collector that is away loses spans; whoever makes them never waits.
    """

    def __init__(self, settings: TracingSettings, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        headers = (
            {"authorization": f"Bearer {settings.token.get_secret_value()}"}
            if settings.token is not None
            else None
        )
        exporter = OTLPSpanExporter(
            endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_s
        )
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lentigo")

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Any], parent: tuple[int, int] | None = None
    ) -> Iterator[None]:
        """Trace what is done inside; below ``parent``, else below the span that is open."""
        with self._tracer.start_as_current_span(
            name,
            context=_context(parent),
            attributes=dict(attributes),
            # The text of an exception can quote a study.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as exc:
                from opentelemetry.trace import Status, StatusCode

                span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
                raise

    def past(
        self,
        name: str,
        parent: tuple[int, int],
        began: dt.datetime,
        ended: dt.datetime,
        attributes: Mapping[str, Any],
    ) -> None:
        """Add a span of what the record says has happened."""
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            attributes=dict(attributes),
            start_time=_nanoseconds(began),
        )
        span.end(_nanoseconds(max(began, ended)))

    def close(self) -> None:
        """Hand on what is left and end the thread."""
        self._provider.shutdown()


def _nanoseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def _context(parent: tuple[int, int] | None) -> Any:
    if parent is None:
        return None
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                trace_id=parent[0],
                span_id=parent[1],
                is_remote=True,
                trace_flags=TraceFlags(_SAMPLED),
            )
        )
    )


@functools.cache
def _tracer_of(process_id: int, service: str) -> Tracer | None:
    # By process: the exporter's thread does not survive the fork of a worker pool.
    del process_id
    settings = TracingSettings()
    return Tracer(settings, service) if settings.endpoint else None


def tracer(service: str) -> Tracer | None:
    """Return the tracer of this process; None while traces are off."""
    return _tracer_of(os.getpid(), service)


@contextmanager
def traced(
    service: str,
    name: str,
    attributes: Mapping[str, Any],
    parent: tuple[str, int] | None = None,
) -> Iterator[None]:
    """Trace what is done inside where traces are on; cost nothing where they are off.

    Parameters
    ----------
    parent
        Serial number of the installation and generation whose trace it belongs to; None for the
        span that is open.
    """
    found = tracer(service)
    if found is None:
        yield
        return
    with found.span(name, attributes, trace_ids(*parent) if parent is not None else None):
        yield


def outgoing_headers(service: str) -> dict[str, str]:
    """Return ``traceparent`` for a request to the model server; empty while traces are off."""
    if tracer(service) is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier
