"""A viewer's files from loopback, with a PACS's DICOMweb behind the same origin.

The files are those of published packages, fetched once through npm into the user's cache. Requests
pass to the PACS unchanged, the Host header included: Orthanc builds its URLs from it.
"""

import contextlib
import hashlib
import http.client
import mimetypes
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.servers import Orthanc, require

_PROXIED = ("/dicom-web/", "/wado")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


@dataclass(frozen=True, kw_only=True)
class Package:
    """A published package at the version that was reviewed."""

    name: str
    version: str
    tarball_sha256: str
    part: str = ""
    """Folder of the package that is served; empty for all of it."""

    @property
    def cached_as(self) -> str:
        """Name of its folder in the cache."""
        return f"{self.name.strip('@').replace('/', '-')}-{self.version}"

    def folder(self) -> Path:
        """Return the folder of its files, fetched on the first call.

        Without npm or a registry the test is skipped, or fails under ``REQUIRE_SERVICES=1``.
        """
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lentigo"
        target = cache / self.cached_as
        if not target.exists():
            require("npm")
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as work:
                unpacked = self._fetch(Path(work))
                with contextlib.suppress(FileExistsError):  # another test run was faster
                    unpacked.rename(target)
        return target

    def _fetch(self, work: Path) -> Path:
        """Download the package, check it and unpack its files."""
        named = f"{self.name}@{self.version}"
        command = ["npm", "pack", "--silent", named]
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode != 0:
            reason = f"npm cannot fetch {named}: {done.stderr.strip()[-300:]}"
            if os.environ.get("REQUIRE_SERVICES") == "1":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        (tarball,) = work.glob("*.tgz")
        found = hashlib.sha256(tarball.read_bytes()).hexdigest()
        assert found == self.tarball_sha256, f"{named} is not the build that was reviewed"
        with tarfile.open(tarball) as archive:
            archive.extractall(work, filter="data")
        return work / "package" / self.part


File = Callable[[str], Path | bytes | None]
"""A URL's path -> the file that it names, a page, or None where there is none."""


class _Handler(BaseHTTPRequestHandler):
    """Files of the viewer; what is DICOMweb goes to the PACS."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_PROXIED):
            self._forward()
        else:
            self._send_found(self.server.file(path))

    def do_POST(self) -> None:
        if self.path.startswith(_PROXIED):
            self._forward()
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold UIDs."""

    def _send_found(self, found: Path | bytes | None) -> None:
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
        elif isinstance(found, bytes):
            self._send(HTTPStatus.OK, found, "text/html; charset=utf-8")
        else:
            kind = _TYPES.get(found.suffix) or mimetypes.guess_type(found.name)[0]
            self._send(HTTPStatus.OK, found.read_bytes(), kind or "application/octet-stream")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else None
        connection = http.client.HTTPConnection("127.0.0.1", self.server.pacs_port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except OSError:
            self._send(HTTPStatus.BAD_GATEWAY, b"the PACS does not answer", "text/plain")
            return
        finally:
            connection.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, file: File, pacs_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.file = file
        self.pacs_port = pacs_port

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over connections that the browser dropped; they are no fault of the page."""


@contextlib.contextmanager
def viewer_server(pacs: Orthanc, file: File) -> Iterator[str]:
    """Serve a viewer for the studies of `pacs`, and yield its URL."""
    server = _Server(file, pacs.http_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
