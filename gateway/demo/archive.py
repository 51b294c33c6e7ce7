"""The demonstration's PACS: pynetdicom's own query/retrieve server, as a process on loopback.

It stands in for a hospital's archive: results reach it by C-STORE and are confirmed by C-FIND, by
code that is not ours.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import GatewayError
from gateway.host.embedded import free_port

AE_TITLE = "DEMOPACS"
_START_S = 30.0

_CONFIGURATION = """
[DEFAULT]
ae_title: {ae_title}
port: {port}
max_pdu: 131072
acse_timeout: 30
dimse_timeout: 30
network_timeout: 30
bind_address: 127.0.0.1
instance_location: {folder}/instances
database_location: {folder}/index.sqlite
log_identifier: False
"""


class ArchiveError(GatewayError):
    """The demonstration's archive did not start."""


@contextlib.contextmanager
def archive(folder: Path) -> Iterator[str]:
    """Run the archive; yield its address as ``AET@HOST:PORT``."""
    (folder / "instances").mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = folder / "archive.ini"
    configuration.write_text(
        _CONFIGURATION.format(ae_title=AE_TITLE, port=port, folder=folder), encoding="utf-8"
    )
    with (folder / "archive.log").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "pynetdicom", "qrscp", "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        _wait_until_it_listens(process, port)
        yield f"{AE_TITLE}@127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise ArchiveError("the demonstration's archive did not start")
