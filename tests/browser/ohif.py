"""OHIF served from loopback, with a PACS's DICOMweb behind the same origin.

The viewer is the published build of ``@ohif/app`` with the configuration that we ship
(``docker/ohif/app-config.js``).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.browser.viewer_server import Package, viewer_server
from tests.servers import Orthanc, require

APP = Package(
    name="@ohif/app",
    version="3.13.2",
    tarball_sha256="b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1",
    part="dist",
)
APP_CONFIG = Path(__file__).resolve().parents[2] / "docker" / "ohif" / "app-config.js"


@contextlib.contextmanager
def ohif(pacs: Orthanc) -> Iterator[str]:
    """Serve OHIF for the studies of `pacs`, and yield the URL of its work list."""
    require("Orthanc", "chromium", "chromedriver")
    root = APP.folder().resolve()

    def file(path: str) -> Path | None:
        if path == "/app-config.js":
            return APP_CONFIG
        found = (root / path.lstrip("/")).resolve()
        if found.is_file() and found.is_relative_to(root):
            return found
        # A route of the single-page application, not a file.
        return None if Path(path).suffix else root / "index.html"

    with viewer_server(pacs, file) as url:
        yield url
