"""dcmtk's storescp: a plain receiver to send to, and to be compared with."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.host.embedded import free_port
from tests.servers.process import ServerProcess, accepts, loopback_only, program


@dataclass(frozen=True, kw_only=True)
class StoreScp:
    """A running storescp of dcmtk: accepts every Storage SOP Class and writes what it gets."""

    ae_title: str
    """Its AE title (it answers to any)."""
    host: str
    """Loopback."""
    port: int
    """Its port."""
    folder: Path
    """Where the received files lie."""
    process: ServerProcess
    """The process."""

    def files(self) -> list[Path]:
        """Return the files received so far, sorted."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())


@contextmanager
def storescp(
    folder: Path, *, aet: str = "STORESCP", options: Sequence[str] = ()
) -> Iterator[StoreScp]:
    """Run dcmtk's storescp in its fastest mode: one process an association, bytes as received.

    Parameters
    ----------
    folder
        Made when it does not exist; holds the log and a folder ``received``.
    aet
        Its AE title.
    options
        More words of its command line, for TLS.
    """
    command = program("storescp")
    received = folder / "received"
    received.mkdir(parents=True)
    port = free_port()
    process = ServerProcess("storescp", folder / "storescp.log")
    words = ["--fork", "+B", "+xa", "-pm", "-pdu", "131072", "-aet", aet]
    words += ["-od", str(received), *options]
    process.start([command, *words, str(port)], lambda: accepts(port), environment=loopback_only())
    try:
        yield StoreScp(ae_title=aet, host="127.0.0.1", port=port, folder=received, process=process)
    finally:
        process.end(signal.SIGTERM)
