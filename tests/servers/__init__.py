"""Real third-party servers for the tests: Orthanc, PostgreSQL and dcmtk's storescp.

Each runs on loopback on ports that were free, keeps its files and its log in a folder of the test,
and is ended by its process id. :func:`require` skips a test whose programs are not installed, or
fails it where ``REQUIRE_SERVICES=1`` says that they must be.
"""

from gateway.host.embedded import free_port
from tests.servers.orthanc import Orthanc, OrthancError, Peer, StoredInstance, orthanc
from tests.servers.postgres import PostgresServer, postgres, postgres_server
from tests.servers.process import ServerProcess, find_program, require, wait_until
from tests.servers.storescp import StoreScp, storescp

__all__ = [
    "Orthanc",
    "OrthancError",
    "Peer",
    "PostgresServer",
    "ServerProcess",
    "StoreScp",
    "StoredInstance",
    "find_program",
    "free_port",
    "orthanc",
    "postgres",
    "postgres_server",
    "require",
    "storescp",
    "wait_until",
]
