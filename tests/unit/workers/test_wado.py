"""An instance by WADO-RS, from services that answer in every way."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests

from gateway.errors import InstanceError, WebRequestRefused
from gateway.listener.acceptance import StoreStatus
from gateway.listener.filing import InstanceFiler
from gateway.settings import CompletenessSettings
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine
from gateway.store.intake.receiving import Intake
from tests.instances import encoded, instance
from workers.adapters.priors_filing import FetchedFiling
from workers.adapters.wado import instance_address, read_instance, request_instance

TIMEOUT_S = 20.0
RELATED = 'multipart/related; type="application/dicom"; boundary=b'


def part(file: bytes, head: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    return b"--b\r\n" + head + b"\r\n" + file + b"\r\n--b--\r\n"


class Service(BaseHTTPRequestHandler):
    """Answers everything with one body."""

    status: ClassVar[int] = 200
    headers_out: ClassVar[dict[str, str]] = {}
    body: ClassVar[bytes] = b""
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Accept", "")))
        self.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers_out}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[type[Service]]:
    kind = type("Of", (Service,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        kind.root = f"http://127.0.0.1:{server.server_port}/dicom-web"  # type: ignore[attr-defined]
        yield kind
        server.shutdown()
        thread.join()


@pytest.fixture
def filing(tmp_path: Path) -> Iterator[FetchedFiling]:
    url = f"sqlite:///{tmp_path / 'record.sqlite3'}"
    migrate(url)
    engine = open_engine(url)
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    yield FetchedFiling(InstanceFiler(Intake(engine, CompletenessSettings()), spool), spool, "W")
    engine.dispose()


def kept(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "spool").rglob("*") if path.is_file())


def fetch(service: type[Service], filing: FetchedFiling) -> StoreStatus:
    address = instance_address(service.root, "1.2", "1.3", "1.4")  # type: ignore[attr-defined]
    with (
        requests.Session() as session,
        request_instance(session, address, timeout_s=TIMEOUT_S) as response,
    ):
        meta, data_set = read_instance(response)
        return filing.file(
            data_set,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
        )


FILE = encoded(instance(side=300))  # more than one block


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": RELATED}, part(FILE)),
        ({"Content-Type": RELATED}, b"preamble\r\n" + part(FILE, b"")),
        ({"Content-Type": 'MULTIPART/RELATED;boundary="b"'}, part(FILE)),
        ({"Content-Type": "application/dicom"}, FILE),
        ({}, FILE),
        (
            {"Content-Type": RELATED, "Content-Encoding": "gzip"},
            gzip.compress(part(FILE)),
        ),
    ],
)
def test_the_instance_is_kept_as_it_was_sent(service, filing, tmp_path, headers, body):
    service.headers_out, service.body = headers, body
    assert fetch(service, filing) is StoreStatus.SUCCESS
    assert fetch(service, filing) is StoreStatus.SUCCESS
    (file,) = kept(tmp_path)
    start = FILE.index(b"\x08\x00\x16\x00UI")  # the data set begins with SOP Class UID
    assert file.read_bytes().endswith(FILE[start:])
    path, accept = service.asked[0]
    assert path == "/dicom-web/studies/1.2/series/1.3/instances/1.4"
    assert "transfer-syntax=*" in accept


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": RELATED}, part(FILE)[: len(FILE) // 2]),
        ({"Content-Type": RELATED}, part(FILE)[:60]),
        ({"Content-Type": RELATED}, b"--b--\r\n"),
        ({"Content-Type": RELATED}, b""),
        ({"Content-Type": "multipart/related"}, part(FILE)),
        ({"Content-Type": RELATED}, b"x" * 200_000),
        ({"Content-Type": "text/html"}, b"<html>" + b" " * 500),
        ({"Content-Type": "application/dicom"}, FILE[:200]),
    ],
)
def test_what_is_no_instance_is_an_error_and_leaves_nothing(
    service, filing, tmp_path, headers, body
):
    service.headers_out, service.body = headers, body
    with pytest.raises((InstanceError, WebRequestRefused)):
        fetch(service, filing)
    assert kept(tmp_path) == []


def test_a_connection_that_ends_leaves_nothing(service, filing, tmp_path):
    service.headers_out = {"Content-Type": RELATED, "Content-Length": str(len(FILE) + 10_000)}
    service.body = part(FILE)[: len(FILE) // 2]
    with pytest.raises(requests.RequestException):
        fetch(service, filing)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("status", [401, 404, 406, 500])
def test_an_error_status_is_an_error(service, filing, status):
    service.status = status
    with pytest.raises(requests.HTTPError, match=str(status)):
        fetch(service, filing)


def test_what_a_pacs_calls_a_uid_stays_in_its_place():
    address = instance_address("http://pacs/web/", "../x", "a?b", "1.2.3")
    assert address == "http://pacs/web/studies/..%2Fx/series/a%3Fb/instances/1.2.3"
