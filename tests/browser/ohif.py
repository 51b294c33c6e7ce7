"""OHIF served from loopback, with a PACS's DICOMweb behind the same origin.

The viewer is the published build of ``@ohif/app``, fetched once through npm into the user's cache
and shown with the configuration that we ship (``docker/ohif/app-config.js``). Requests pass to
the PACS unchanged, the Host header included: Orthanc builds its URLs from it.
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
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.servers import Orthanc, require

VERSION = "3.13.2"
_TARBALL_SHA256 = "b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1"
APP_CONFIG = Path(__file__).resolve().parents[2] / "docker" / "ohif" / "app-config.js"

_PROXIED = ("/dicom-web/", "/wado")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


def viewer_folder() -> Path:
    """Return the folder of the viewer's files, fetched on the first call.

    Without npm or a registry the test is skipped, or fails under ``REQUIRE_SERVICES=1``.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lentigo"
    target = cache / f"ohif-{VERSION}"
    if not target.exists():
        require("npm")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            unpacked = _fetch(Path(work))
            with contextlib.suppress(FileExistsError):  # another test run was faster
                unpacked.rename(target)
    return target


def _fetch(work: Path) -> Path:
    """Download the package, check it and unpack its files."""
    command = ["npm", "pack", "--silent", f"@ohif/app@{VERSION}"]
    done = subprocess.run(
        command, cwd=work, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode != 0:
        reason = f"npm cannot fetch @ohif/app {VERSION}: {done.stderr.strip()[-300:]}"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    (tarball,) = work.glob("*.tgz")
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    assert digest == _TARBALL_SHA256, f"@ohif/app {VERSION} is not the build that was reviewed"
    with tarfile.open(tarball) as archive:
        archive.extractall(work, filter="data")
    return work / "package" / "dist"


class _Handler(BaseHTTPRequestHandler):
    """Files of the viewer; what is DICOMweb goes to the PACS."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(_PROXIED):
            self._forward()
        elif path == "/app-config.js":
            self._send_file(APP_CONFIG)
        else:
            self._send_file(self._viewer_file(path))

    def do_POST(self) -> None:
        if self.path.startswith(_PROXIED):
            self._forward()
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold UIDs."""

    def _viewer_file(self, path: str) -> Path | None:
        root = self.server.root
        found = (root / path.lstrip("/")).resolve()
        if found.is_file() and found.is_relative_to(root):
            return found
        # A route of the single-page application, not a file.
        return None if Path(path).suffix else root / "index.html"

    def _send_file(self, path: Path | None) -> None:
        if path is None:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        self._send(HTTPStatus.OK, path.read_bytes(), kind or "application/octet-stream")

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

    def __init__(self, root: Path, pacs_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root.resolve()
        self.pacs_port = pacs_port

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over connections that the browser dropped; they are no fault of the page."""


@contextlib.contextmanager
def ohif(pacs: Orthanc) -> Iterator[str]:
    """Serve OHIF for the studies of `pacs`, and yield the URL of its work list."""
    require("Orthanc", "chromium", "chromedriver")
    server = _Server(viewer_folder(), pacs.http_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
