"""Real third-party servers for the tests: Orthanc, PostgreSQL and dcmtk's storescp.

Each runs on loopback on ports that were free, keeps its files and its log in a folder of the test,
and is ended by its process id. :func:`require` skips a test whose programs are not installed, or
fails it where ``REQUIRE_SERVICES=1`` says that they must be.

Orthanc 1.10 and storescp take no address to listen on. Where a C compiler is installed, a small
preloaded library (``loopback_bind.c``) keeps them on loopback; elsewhere they listen on every
address: Orthanc then still refuses HTTP from other hosts and unknown called AE titles.
"""

import functools
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import psycopg
import pydicom
import pytest

T = TypeVar("T")

_HERE = Path(__file__).parent
_DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PACKAGES = {
    "Orthanc": "orthanc orthanc-dicomweb",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "dciodvfy": "dicom3tools",
    "npm": "npm",
    "pdftotext": "poppler-utils",
    "postgres": "postgresql",
}  # everything else that the tests use is in dcmtk
_START_S = 60.0  # generous: the machine may be busy with other tests
_STOP_S = 30.0


class Peer(Protocol):
    """A DICOM application entity that listens."""

    @property
    def ae_title(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    predicate: Callable[[], T], timeout_s: float, what: str, *, interval_s: float = 0.05
) -> T:
    """Poll until `predicate` returns something true, and return it.

    Parameters
    ----------
    predicate
        Asked at least twice, the last time after the deadline; its exceptions pass through.
    timeout_s
        Deadline from now.
    what
        What is waited for: the words of the failure.
    interval_s
        Pause between two questions.

    Raises
    ------
    AssertionError
        If the deadline passes first.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() >= deadline
        answer = predicate()
        if answer:
            return answer
        if is_last:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)


def find_program(name: str) -> Path | None:
    """Return where a program is installed, None where it is not."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    if name == "postgres":
        versions = Path("/usr/lib/postgresql").glob("*/bin")
        folders += map(str, sorted(versions, key=lambda p: float(p.parent.name), reverse=True))
    found = shutil.which(name, path=os.pathsep.join(folders))
    if name == "Orthanc" and not _DICOMWEB_PLUGIN.exists():
        return None
    return Path(found) if found else None


def require(*programs: str) -> None:
    """Skip the test unless all programs are installed; fail it under ``REQUIRE_SERVICES=1``."""
    missing = [name for name in programs if find_program(name) is None]
    if not missing:
        return
    packages = " ".join(dict.fromkeys(_PACKAGES.get(name, "dcmtk") for name in missing))
    reason = f"not installed: {', '.join(missing)} (apt-get install {packages})"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _program(name: str) -> str:
    require(name)
    found = find_program(name)
    assert found is not None
    return str(found)


class ServerProcess:
    """One server as a process group of its own, with its log in a file."""

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: list[str],
        is_ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        """Start, and wait until it answers.

        Raises
        ------
        AssertionError
            If it ends or does not answer in time; the message shows the end of its log.
        """
        assert self._process is None, f"{self.name} is already running"
        as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd="/",
                start_new_session=True,
                **as_user,  # type: ignore[arg-type]
            )
        process = self._process
        try:
            wait_until(
                lambda: process.poll() is not None or is_ready(), _START_S, f"{self.name} ready"
            )
            if process.poll() is not None:
                raise AssertionError(f"{self.name} ended at once, status {process.returncode}")
        except BaseException as exc:
            self.end(signal.SIGKILL)
            exc.add_note(self.log())
            raise

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id; also that of its process group."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def end(self, with_signal: signal.Signals) -> None:
        """Send a signal and wait for the end; a server that does not obey is killed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(with_signal)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)  # what it forked
        except ProcessLookupError:
            pass

    def log(self, last_bytes: int = 4000) -> str:
        """Return the end of the log."""
        return self.log_path.read_bytes()[-last_bytes:].decode(errors="replace")


@functools.cache
def _loopback_library() -> Path | None:
    """Compile ``loopback_bind.c`` once; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = Path(tempfile.gettempdir()) / f"lentigo-loopback-bind-{os.getpid()}.so"
    source = str(_HERE / "loopback_bind.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True
    )
    return library


def _loopback_only() -> dict[str, str]:
    library = _loopback_library()
    return {} if library is None else {"LD_PRELOAD": str(library)}


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class StoredInstance:
    """One instance in Orthanc."""

    orthanc_id: str
    """Key in Orthanc's REST API."""
    sop_instance_uid: str
    """SOP Instance UID."""
    sop_class_uid: str
    """SOP Class UID."""
    modality: str
    """Modality of its series."""


class OrthancError(AssertionError):
    """Orthanc answered an HTTP request with an error status."""


class Orthanc:
    """A running Orthanc: the PACS of the tests."""

    def __init__(
        self,
        folder: Path,
        *,
        aet: str,
        route_to: Peer | None = None,
        route_on: Literal["stable", "stored"] = "stable",
        route_all: bool = False,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.aet = aet
        self.host = "127.0.0.1"
        self.dicom_port = 0
        self.http_port = 0
        self._modalities: dict[str, Peer] = {} if route_to is None else {"route": route_to}
        self._route = (route_to, route_on, route_all)
        self._configuration = configuration or {}
        self._process = ServerProcess("Orthanc", folder / "orthanc.log")

    @property
    def ae_title(self) -> str:
        """Same as `aet`: an Orthanc is a `Peer`."""
        return self.aet

    @property
    def port(self) -> int:
        """Same as `dicom_port`."""
        return self.dicom_port

    @property
    def url(self) -> str:
        """Root of the REST API."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        """Root of DICOMweb, without a slash at the end."""
        return f"{self.url}/dicom-web"

    def start(self) -> None:
        """Start; the first time on new ports, later on the same and with the same storage."""
        self.folder.mkdir(parents=True, exist_ok=True)
        is_first = self.dicom_port == 0
        for attempts_left in reversed(range(3 if is_first else 1)):
            if is_first:
                self.dicom_port, self.http_port = free_port(), free_port()
            try:
                self._process.start(
                    [_program("Orthanc"), str(self._write_configuration())],
                    self._is_ready,
                    environment=_loopback_only(),
                )
                return
            except AssertionError:
                # Somebody may have taken a port since it was found free.
                if attempts_left == 0:
                    raise

    def stop(self) -> None:
        """End it as an administrator would; the storage stays."""
        self._process.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would; the storage stays."""
        self._process.end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same ports with the same storage."""
        self.stop()
        self.start()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process.is_running

    def log(self) -> str:
        """Return the end of its log."""
        return self._process.log()

    # --- REST -----------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> bytes:
        """Send one HTTP request and return the body of the answer.

        Raises
        ------
        OrthancError
            If the status is not 2xx.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise OrthancError(f"{method} {path}: {response.status} {answer[:300]!r}")
        return answer

    def get_json(self, path: str) -> Any:
        """GET a JSON answer."""
        return json.loads(self.request("GET", path))

    def post_json(self, path: str, body: Any) -> Any:
        """POST JSON and return the JSON answer."""
        return json.loads(self.request("POST", path, json.dumps(body).encode()))

    # --- What it holds ----------------------------------------------------------------------

    def studies(self) -> list[str]:
        """Return the Study Instance UIDs it holds, sorted."""
        found = self.get_json("/studies?expand")
        return sorted(study["MainDicomTags"]["StudyInstanceUID"] for study in found)

    def find_study(self, study_instance_uid: str) -> str | None:
        """Return Orthanc's id of a study, None when it does not hold it."""
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = self.post_json("/tools/find", query)
        return str(found[0]) if found else None

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        """Return the instances of a study, sorted by SOP Instance UID; empty when unknown."""
        study = self.find_study(study_instance_uid)
        if study is None:
            return []
        found = []
        for series in self.get_json(f"/studies/{study}/series"):
            for instance in self.get_json(f"/series/{series['ID']}/instances"):
                key = instance["ID"]
                class_uid = self.request("GET", f"/instances/{key}/metadata/SopClassUid")
                found.append(
                    StoredInstance(
                        orthanc_id=key,
                        sop_instance_uid=instance["MainDicomTags"]["SOPInstanceUID"],
                        sop_class_uid=class_uid.decode(),
                        modality=series["MainDicomTags"].get("Modality", ""),
                    )
                )
        return sorted(found, key=lambda each: each.sop_instance_uid)

    def download(self, instance: StoredInstance) -> bytes:
        """Return the instance as a DICOM file, exactly as stored."""
        return self.request("GET", f"/instances/{instance.orthanc_id}/file")

    def study_datasets(self, study_instance_uid: str) -> list[pydicom.Dataset]:
        """Return the instances of a study as Datasets, pixel data included."""
        return [
            pydicom.dcmread(BytesIO(self.download(each)))
            for each in self.instances(study_instance_uid)
        ]

    def store(self, file: Path | bytes) -> None:
        """Store one DICOM file over HTTP (it then has no Remote AE Title)."""
        body = file if isinstance(file, bytes) else file.read_bytes()
        self.request("POST", "/instances", body, {"Content-Type": "application/dicom"})

    def delete_study(self, study_instance_uid: str) -> None:
        """Remove a study that it holds."""
        self.request("DELETE", f"/studies/{self.find_study(study_instance_uid)}")

    # --- Other application entities ---------------------------------------------------------

    def register(self, name: str, peer: Peer) -> None:
        """Make an application entity known under `name`, also after a restart."""
        self._modalities[name] = peer
        self.request("PUT", f"/modalities/{name}", json.dumps(_modality(peer)).encode())

    def echo(self, name: str) -> None:
        """C-ECHO a registered application entity.

        Raises
        ------
        OrthancError
            If it does not answer.
        """
        self.post_json(f"/modalities/{name}/echo", {"Timeout": 10})

    def send_study(self, study_instance_uid: str, name: str) -> None:
        """C-STORE all of a study to a registered application entity, and wait for the end."""
        study = self.find_study(study_instance_uid)
        body = {"Resources": [study], "Synchronous": True}
        self.request("POST", f"/modalities/{name}/store", json.dumps(body).encode())

    # --- Set-up -----------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        try:
            self.request("GET", "/system", timeout_s=5)
        except (OSError, http.client.HTTPException, OrthancError):
            return False
        return _accepts(self.dicom_port)

    def _write_configuration(self) -> Path:
        route_to, _, _ = self._route
        configuration = {
            "Name": self.aet,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "TemporaryDirectory": str(self.folder),
            "Plugins": [str(_DICOMWEB_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.aet,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "UnknownSopClassAccepted": True,
            **{f"DicomAlwaysAllow{service}": True for service in ("Find", "Get", "Move")},
            "DicomModalities": {name: _modality(peer) for name, peer in self._modalities.items()},
            "StableAge": 1,
            "OverwriteInstances": True,
            "DefaultEncoding": "Utf8",
            "LuaScripts": [] if route_to is None else self._write_route(route_to),
            **self._configuration,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(configuration, indent=1))
        return path

    def _write_route(self, route_to: Peer) -> list[str]:
        _, route_on, route_all = self._route
        settings = self.folder / "route.lua"
        settings.write_text(
            "ROUTE_MODALITY = 'route'\n"
            f"ROUTE_AET = '{route_to.ae_title}'\n"
            f"ROUTE_ON = '{route_on}'\n"
            f"ROUTE_ALL = {str(route_all).lower()}\n"
        )
        return [str(settings), str(_HERE / "autoroute.lua")]


def _modality(peer: Peer) -> dict[str, Any]:
    return {
        "AET": peer.ae_title,
        "Host": peer.host,
        "Port": peer.port,
        "AllowStorageCommitment": True,
    }


@contextmanager
def orthanc(
    folder: Path,
    *,
    aet: str = "PACS",
    route_to: Peer | None = None,
    route_on: Literal["stable", "stored"] = "stable",
    route_all: bool = False,
    configuration: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Run an Orthanc.

    Parameters
    ----------
    folder
        Made when it does not exist; holds configuration, storage and log.
    aet
        Its AE title, checked when it is called.
    route_to
        Where it sends what arrives; need not listen yet.
    route_on
        ``stable``: whole studies, a second after their last instance; ``stored``: each instance.
    route_all
        Also send results back to where they came from.
    configuration
        Entries of Orthanc's configuration that replace ours.
    """
    require("Orthanc")
    server = Orthanc(
        folder,
        aet=aet,
        route_to=route_to,
        route_on=route_on,
        route_all=route_all,
        configuration=configuration,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


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
def storescp(folder: Path, *, aet: str = "STORESCP") -> Iterator[StoreScp]:
    """Run dcmtk's storescp in its fastest mode: one process an association, bytes as received.

    Parameters
    ----------
    folder
        Made when it does not exist; holds the log and a folder ``received``.
    aet
        Its AE title.
    """
    program = _program("storescp")
    received = folder / "received"
    received.mkdir(parents=True)
    port = free_port()
    process = ServerProcess("storescp", folder / "storescp.log")
    options = ["--fork", "+B", "+xa", "-pm", "-aet", aet, "-od", str(received)]
    process.start(
        [program, *options, str(port)], lambda: _accepts(port), environment=_loopback_only()
    )
    try:
        yield StoreScp(ae_title=aet, host="127.0.0.1", port=port, folder=received, process=process)
    finally:
        process.end(signal.SIGTERM)


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
                str(Path(_program("postgres")).with_name("initdb")),
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
                _program("postgres"),
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
