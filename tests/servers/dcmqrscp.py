"""dcmtk's dcmqrscp: a small archive that is queried, moves and gets."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.host.embedded import free_port
from tests.servers.orthanc import Peer
from tests.servers.process import ServerProcess, accepts, loopback_only, program


@dataclass(frozen=True, kw_only=True)
class QueryRetrieveScp:
    """A running dcmqrscp; a `Peer`."""

    ae_title: str
    """Its AE title."""
    host: str
    """Loopback."""
    port: int
    """Its port."""
    folder: Path
    """Where it keeps what it was sent."""

    def files(self) -> list[Path]:
        """Return the files that it keeps, sorted."""
        return sorted(self.folder.glob("*.dcm"))


@contextmanager
def dcmqrscp(
    folder: Path, *, aet: str = "PACS", peers: Sequence[Peer] = ()
) -> Iterator[QueryRetrieveScp]:
    """Run dcmtk's dcmqrscp.

    Parameters
    ----------
    folder
        Made when it does not exist; holds its configuration, its log and its archive.
    aet
        Its AE title.
    peers
        To whom it moves.
    """
    command = program("dcmqrscp")
    archive = folder / "archive"
    archive.mkdir(parents=True)
    hosts = [
        f"peer{number} = ({peer.ae_title}, {peer.host}, {peer.port})"
        for number, peer in enumerate(peers)
    ]
    configuration = folder / "dcmqrscp.cfg"
    lines = ["MaxPDUSize = 16384", "MaxAssociations = 16"]
    lines += ["HostTable BEGIN", *hosts, "HostTable END", "VendorTable BEGIN", "VendorTable END"]
    lines += ["AETable BEGIN", f"{aet} {archive} RW (100, 256mb) ANY", "AETable END"]
    configuration.write_text("\n".join(lines) + "\n")
    port = free_port()
    process = ServerProcess("dcmqrscp", folder / "dcmqrscp.log")
    process.start(
        [command, "-v", "-c", str(configuration), str(port)],
        lambda: accepts(port),
        environment=loopback_only(),
    )
    try:
        yield QueryRetrieveScp(ae_title=aet, host="127.0.0.1", port=port, folder=archive)
    finally:
        process.end(signal.SIGTERM)
