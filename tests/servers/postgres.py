"""A private PostgreSQL cluster."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from gateway.host.embedded import free_port
from tests.servers.process import ServerProcess, program, require


class PostgresServer:
    """A private PostgreSQL cluster with one database, ``lentigo``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._password = secrets.token_urlsafe(12)
        self._process = ServerProcess("PostgreSQL", folder / "postgres.log")
        # PostgreSQL refuses to run as root, and its user cannot enter the folders of our tests.
        account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self._user = None if account is None else account.pw_uid
        self._home = Path(tempfile.mkdtemp(prefix="lentigo-postgres-"))
        if account is not None:
            os.chown(self._home, account.pw_uid, account.pw_gid)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database."""
        return f"postgresql+psycopg://lentigo:{self._password}@127.0.0.1:{self.port}/lentigo"

    def create(self) -> None:
        """Make the cluster, start it and make the database."""
        self.folder.mkdir(parents=True, exist_ok=True)
        password_file = self._home / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)  # its folder is closed to others
        account = {} if self._user is None else {"user": self._user, "extra_groups": []}
        subprocess.run(
            [
                str(Path(program("postgres")).with_name("initdb")),
                *("-D", str(self._home / "data"), "--username", "lentigo"),
                *("--auth", "scram-sha-256", "--pwfile", str(password_file)),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            cwd="/",
            capture_output=True,
            check=True,
            **account,  # type: ignore[call-overload]
        )
        self.start()
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE lentigo")

    def start(self) -> None:
        """Start on the same port with the same data."""
        self._process.start(
            [
                program("postgres"),
                *("-D", str(self._home / "data"), "-h", "127.0.0.1", "-p", str(self.port)),
                *("-c", "unix_socket_directories=", "-c", "fsync=off"),
            ],
            self._is_ready,
            user=self._user,
        )

    def stop(self) -> None:
        """Shut down, breaking open connections."""
        self._process.end(signal.SIGINT)  # "fast shutdown" in PostgreSQL's words

    def remove(self) -> None:
        """Stop and delete the data."""
        self.stop()
        shutil.rmtree(self._home)

    def _conninfo(self, database: str) -> str:
        return (
            f"host=127.0.0.1 port={self.port} user=lentigo password={self._password} "
            f"dbname={database} connect_timeout=5"
        )

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self._conninfo("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Run a PostgreSQL that a test can stop and start; its log lies in `folder`."""
    require("postgres")
    server = PostgresServer(folder)
    try:
        server.create()
        yield server
    finally:
        server.remove()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL and yield the SQLAlchemy URL of an empty database."""
    with postgres_server(folder) as server:
        yield server.url
