"""Traces reach a collector by OTLP/HTTP, name no patient, and are nothing while they are off."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.errors import LeaseLost
from gateway.observation import tracing
from gateway.observation.observer import Observer
from tests.records import Record


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP/HTTP receiver on loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    def spans(self) -> list[Any]:
        found = []
        for body in self.bodies:
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    found += list(scope.spans)
        return found


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    monkeypatch.setenv("LENTIGO_TRACING_ENDPOINT", address)
    tracing._tracer_of.cache_clear()
    yield server
    tracing._tracer_of.cache_clear()
    server.shutdown()
    thread.join(20.0)
    server.server_close()


def test_a_study_has_one_trace_across_listener_worker_and_model_server(
    record: Record, collector: Collector
) -> None:
    serial = record.ledger.installation_serial()
    (item,) = record.schedule()
    generation = record.claim(item).generation
    Observer(record.engine, clock=record.clock).look()
    attributes = {"lentigo.work_item": item}
    with (
        tracing.traced("workers", "analyse", attributes, (serial, generation.id)),
        tracing.traced("workers", "infer", {"lentigo.model": "diagnosis"}),
    ):
        headers = tracing.outgoing_headers("workers")
    with (
        pytest.raises(LeaseLost),
        tracing.traced("workers", "deliver", attributes, (serial, generation.id)),
    ):
        raise LeaseLost("Canary^Patient")
    for service in ("listener", "workers"):
        found = tracing.tracer(service)
        assert found is not None
        found.close()

    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"receive", "quiet window", "analyse", "infer", "deliver"}
    trace_id, root = tracing.trace_ids(serial, generation.id)
    assert {int.from_bytes(span.trace_id) for span in spans.values()} == {trace_id}
    assert int.from_bytes(spans["analyse"].parent_span_id) == root
    assert spans["infer"].parent_span_id == spans["analyse"].span_id
    assert headers["traceparent"].split("-")[1:3] == [
        f"{trace_id:032x}",
        spans["infer"].span_id.hex(),
    ]
    assert spans["deliver"].status.message == "LeaseLost"
    window = spans["quiet window"]
    assert window.end_time_unix_nano - window.start_time_unix_nano == 2_000_000_000
    assert b"anary" not in b"".join(collector.bodies)


def test_nothing_is_loaded_and_nothing_done_while_traces_are_off() -> None:
    script = (
        "import sys\n"
        "from gateway.observation import tracing\n"
        "with tracing.traced('workers', 'analyse', {}, ('serial', 1)):\n"
        "    assert tracing.outgoing_headers('workers') == {}\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
