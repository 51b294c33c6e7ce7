"""Who is told things at a site: a webhook, a FHIR server, a trace collector, a mailbox."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span that a collector got."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]


@dataclass(kw_only=True)
class Post:
    """One request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class Receivers:
    """One HTTP server for webhook, FHIR and traces, and one SMTP server."""

    port: int = 0
    mail_port: int = 0
    refusals: int = 0
    """How many posts to the webhook are still answered 503."""
    posts: list[Post] = field(default_factory=list)
    mails: list[Any] = field(default_factory=list)

    def to(self, path: str) -> list[Post]:
        """Return what was posted there."""
        return [post for post in list(self.posts) if post.path == path]

    def spans(self) -> list[Span]:
        """Return every span, from our exporter (protobuf) and from Triton's (JSON)."""
        found: list[Span] = []
        for post in self.to("/v1/traces"):
            if post.headers.get("content-type", "").startswith("application/json"):
                found += _json_spans(json.loads(post.body))
            else:
                found += _protobuf_spans(ExportTraceServiceRequest.FromString(post.body))
        return found


def _protobuf_spans(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        names = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=names.get("service.name", ""),
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes={each.key: str(each.value) for each in span.attributes},
                )


def _json_spans(request: Any) -> Iterator[Span]:
    for resource in request["resourceSpans"]:
        names = {
            each["key"]: each["value"].get("stringValue", "")
            for each in resource["resource"]["attributes"]
        }
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Span(
                    service=names.get("service.name", ""),
                    name=span["name"],
                    trace_id=span["traceId"].lower(),
                    span_id=span["spanId"].lower(),
                    parent_id=span.get("parentSpanId", "").lower(),
                    attributes={
                        each["key"]: str(*each["value"].values())
                        for each in span.get("attributes", ())
                    },
                )


class _Handler(http.server.BaseHTTPRequestHandler):
    told: Receivers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.told.posts.append(Post(path=self.path, headers=headers, body=body))
        status = 201 if self.path.startswith("/fhir") else 200
        if self.path == "/hook" and self.told.refusals:
            self.told.refusals -= 1
            status = 503
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class _Mailbox:
    def __init__(self, told: Receivers) -> None:
        self._told = told

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self._told.mails.append(envelope)
        return "250 OK"


class _AnyPort(Controller):
    """Takes any free port and then knows which."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()


@contextmanager
def receivers() -> Iterator[Receivers]:
    """Run all of them."""
    told = Receivers()
    handler = type("Handler", (_Handler,), {"told": told})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    mail = _AnyPort(_Mailbox(told), hostname="127.0.0.1", port=0, ready_timeout=60.0)
    mail.start()
    told.mail_port = mail.port
    try:
        yield told
    finally:
        mail.stop()
        server.shutdown()
        thread.join(20.0)
        server.server_close()
