"""Orthanc: the PACS of the tests, with DICOMweb and auto-routing."""

import http.client
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol

import pydicom

from gateway.host.embedded import free_port
from tests.servers.process import (
    DICOMWEB_PLUGIN,
    ServerProcess,
    accepts,
    loopback_only,
    program,
    require,
)


class Peer(Protocol):
    """A DICOM application entity that listens."""

    @property
    def ae_title(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


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
                    [program("Orthanc"), str(self._write_configuration())],
                    self._is_ready,
                    environment=loopback_only(),
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
        return accepts(self.dicom_port)

    def _write_configuration(self) -> Path:
        route_to, _, _ = self._route
        configuration = {
            "Name": self.aet,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "TemporaryDirectory": str(self.folder),
            "Plugins": [str(DICOMWEB_PLUGIN)],
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
        return [str(settings), str(Path(__file__).with_name("autoroute.lua"))]


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
