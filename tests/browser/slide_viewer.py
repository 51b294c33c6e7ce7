"""dicom-microscopy-viewer, the library that draws in Slim, on a page of our own.

Slim itself is not published as a package. The page does what Slim does: it reads a series over
DICOMweb, lays a Parametric Map or a Segmentation over the slide, and takes the groups of a
Comprehensive 3D SR with a specimen as subject for regions with a list of their findings.
"""

import contextlib
import hashlib
import http.client
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.driver import Browser
from tests.servers import Orthanc, require

PACKAGES = {
    "dicom-microscopy-viewer-0.48.24": (
        "db1b675f5e3bc4aa4682b97d1a0e2020fff558b9efe6e16b9ec055604e17fa2b"
    ),
    "dicomweb-client-0.11.3": "cda90aae5843f974beaeaf9c191f238209e18b28a932b10af575df6d7320d891",
}
"""Package and version -> SHA-256 of the tarball that was reviewed."""

_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_PAGE = r"""<!doctype html><meta charset="utf-8"><title>Slide</title>
<style>html, body { margin: 0; height: 100%; background: #202020; color: #eee;
  font: 13px sans-serif }
#slide { position: absolute; inset: 0 380px 0 0; background: #202020 }
#list { position: absolute; inset: 0 0 0 auto; width: 360px; overflow: auto; padding: 10px }
#list h2 { font-size: 14px; margin: 12px 0 4px; color: #ffd65a }
#list p { margin: 2px 0 }</style>
<div id="slide"></div><div id="list"></div>
<script src="/packages/dicom-microscopy-viewer-0.48.24/dist/dicomMicroscopyViewer.bundle.min.js">
</script><script src="/packages/dicomweb-client-0.11.3/build/dicomweb-client.js"></script><script>
const dmv = window.dicomMicroscopyViewer
const client = new window.DICOMwebClient.api.DICOMwebClient({ url: location.origin + '/dicom-web' })
const list = document.getElementById('list')
let viewer, frame
window.problems = []
const read = (study, series) => client.retrieveSeriesMetadata(
  { studyInstanceUID: study, seriesInstanceUID: series })
const wrap = (kind, sets) => sets.map(metadata => new dmv.metadata[kind]({ metadata }))
window.openSlide = async (study, series) => {
  const metadata = wrap('VLWholeSlideMicroscopyImage', await read(study, series))
  frame = metadata[0].FrameOfReferenceUID
  viewer = new dmv.viewer.VolumeImageViewer({ client, metadata, controls: [], preload: 1,
    errorInterceptor: error => { window.problems.push(String(error)); return error } })
  viewer.render({ container: document.getElementById('slide') })
}
window.showMap = async (study, series) => {
  viewer.addParameterMappings(wrap('ParametricMap', await read(study, series)))
  const found = viewer.getAllParameterMappings()
  found.forEach(each => viewer.showParameterMapping(each.uid))
  return found.map(each => [each.label, each.description])
}
window.showMask = async (study, series) => {
  viewer.addSegments(wrap('Segmentation', await read(study, series)))
  const found = viewer.getAllSegments()
  found.forEach(each => viewer.showSegment(each.uid))
  return found.map(each => [each.label, each.propertyType.CodeMeaning])
}
window.hideOverlays = () => {
  viewer.getAllParameterMappings().forEach(each => viewer.hideParameterMapping(each.uid))
  viewer.getAllSegments().forEach(each => viewer.hideSegment(each.uid))
}
const name = item => item.ConceptNameCodeSequence?.[0].CodeValue
const meaning = item => item.ConceptNameCodeSequence?.[0].CodeMeaning
const children = (item, code) => item.ContentSequence.filter(child => name(child) === code)
window.showReport = async (study, series) => {
  const [sr] = wrap('Comprehensive3DSR', await read(study, series))
  const subject = children(sr, '121024')[0]?.ConceptCodeSequence[0].CodeValue
  if (subject !== '121027') throw new Error('the subject is no specimen: Slim passes over it')
  const measurements = children(sr, '126010')[0]
  for (const group of children(measurements, '125007')) {
    const scoord = group.ContentSequence.find(child => child.ValueType === 'SCOORD3D')
    if (!scoord || scoord.ReferencedFrameOfReferenceUID !== frame) continue
    const flat = [...scoord.GraphicData], points = []
    for (let i = 0; i < flat.length; i += 3) points.push(flat.slice(i, i + 3))
    const region = new dmv.scoord3d.Polygon(
      { coordinates: points, frameOfReferenceUID: scoord.ReferencedFrameOfReferenceUID })
    const uid = children(group, '112040')[0].UID
    viewer.addROI(new dmv.roi.ROI({ uid, scoord3d: region, properties: {} }),
      { stroke: { color: [255, 0, 0, 1], width: 2 }, fill: { color: [255, 0, 0, 0] } })
    const value = item => item.ValueType === 'CODE' ? item.ConceptCodeSequence[0].CodeMeaning
      : [item.MeasuredValueSequence[0].NumericValue,
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue].join(' ')
    const lines = group.ContentSequence.filter(item => ['CODE', 'NUM'].includes(item.ValueType))
      .map(item => `${meaning(item)}: ${value(item)}`)
    const title = document.createElement('h2')
    title.textContent = children(group, '112039')[0].TextValue
    list.append(title, ...lines.map(line => {
      const p = document.createElement('p'); p.textContent = line; return p }))
  }
  return list.querySelectorAll('h2').length
}
window.ready = true
</script>"""


def packages_folder() -> Path:
    """Return the folder of the two packages, fetched on the first call.

    Without npm or a registry the test is skipped, or fails under ``REQUIRE_SERVICES=1``.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lentigo"
    for package, digest in PACKAGES.items():
        target = cache / package
        if target.exists():
            continue
        require("npm")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            unpacked = _fetch(Path(work), package, digest)
            with contextlib.suppress(FileExistsError):  # another test run was faster
                unpacked.rename(target)
    return cache


def _fetch(work: Path, package: str, digest: str) -> Path:
    """Download a package, check it and unpack its files."""
    named = "@".join(package.rsplit("-", 1))
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
    assert found == digest, f"{named} is not the build that was reviewed"
    with tarfile.open(tarball) as archive:
        archive.extractall(work, filter="data")
    return work / "package"


class _Handler(BaseHTTPRequestHandler):
    """The page and the packages; what is DICOMweb goes to the PACS."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/dicom-web/"):
            self._forward()
        elif path == "/":
            self._send(HTTPStatus.OK, _PAGE.encode(), "text/html; charset=utf-8")
        elif path == "/favicon.ico":
            self._send(HTTPStatus.OK, b"", "image/x-icon")
        elif path.startswith("/static/js/"):  # where the library looks for its worker
            name = path.removeprefix("/static/js/")
            self._send_file(f"dicom-microscopy-viewer-0.48.24/dist/dynamic-import/{name}")
        else:
            self._send_file(path.removeprefix("/packages/"))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold UIDs."""

    def _send_file(self, path: str) -> None:
        root = self.server.root
        found = (root / path).resolve()
        is_ours = any(found.is_relative_to(root / package) for package in PACKAGES)
        if not is_ours or not found.is_file():
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        kind = _TYPES.get(found.suffix, "application/octet-stream")
        self._send(HTTPStatus.OK, found.read_bytes(), kind)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _forward(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.pacs_port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request("GET", self.path, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except OSError:
            self._send(HTTPStatus.BAD_GATEWAY, b"the PACS does not answer", "text/plain")
            return
        finally:
            connection.close()
        self.send_response(response.status)
        for key, value in response.getheaders():
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
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


def ask(window: Browser, function: str, *arguments: str, timeout_s: float = 120.0) -> Any:
    """Call one of the page's functions, wait for it and return what it gives back.

    Raises
    ------
    AssertionError
        If it fails: the library then refused the object.
    """
    window.driver.set_script_timeout(timeout_s)
    answer = window.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "Promise.resolve(window[arguments[0]](...arguments[1]))"
        ".then(value => done({value: value ?? null}), error => done({error: String(error)}))",
        function,
        list(arguments),
    )
    assert "error" not in answer, f"{function}: {answer['error']}"
    return answer["value"]


@contextlib.contextmanager
def slide_viewer(pacs: Orthanc) -> Iterator[str]:
    """Serve the page for the studies of `pacs`, and yield its URL."""
    require("Orthanc", "chromium", "chromedriver")
    server = _Server(packages_folder(), pacs.http_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
