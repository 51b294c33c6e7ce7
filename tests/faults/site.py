"""One installation under fault: the real ``lentigo up``, a model server that obeys, a PACS.

What a test does: arm a fault, send as a modality does (again until it is acknowledged), wait until
the study is completed, and let ``lentigo verify`` judge the record, the files and the PACS.
"""

from __future__ import annotations

import contextlib
import functools
import io
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from PIL import Image
from sqlalchemy import Engine, select

from gateway.demo.samples import render, sample_set
from gateway.sending.wrap import wrap
from gateway.settings import DeliverySettings, StoreSettings
from gateway.store.engine import open_engine, reading
from gateway.store.reading.status import study_list
from gateway.store.tables import Instance
from gateway.store.verification.promises import Subject, verify
from gateway.verify_pacs import check_pacs
from tests.lentigo import Lentigo
from tests.servers import Orthanc, free_port, orthanc, require, wait_until
from tests.servers.triton_stub import TritonStub, triton_stub

RECOVERY_LIMIT_S = 60.0
"""Promise: an interrupted study is completed within that time of the fault's end."""

QUICK = {
    "LENTIGO_COMPLETENESS_QUIET_WINDOW_S": "0.5",
    "LENTIGO_COMPLETENESS_HINT_INTERVAL_S": "1",
    "LENTIGO_COMPLETENESS_SWEEP_INTERVAL_S": "0.1",
    "LENTIGO_WORKER_LEASE_S": "4",
    "LENTIGO_WORKER_MAX_BACKOFF_S": "1",
    "LENTIGO_DELIVERY_MAX_BACKOFF_S": "1",
    "LENTIGO_DELIVERY_TIMEOUT_S": "5",
    "LENTIGO_TRITON_TIMEOUT_S": "5",
}
"""The same machinery with shorter pauses: what is tested is the order, not the waiting."""


@dataclass(kw_only=True)
class Site:
    """An installation, the servers around it, and what a sender was told."""

    folder: Path
    lentigo: Lentigo
    triton: TritonStub | None
    pacs: Any
    """Where results go: has ``port`` and ``ae_title``."""
    failpoints: Path
    port: int
    database_url: str = ""
    can_find: bool = True
    """Whether the PACS can be asked what it holds."""
    acknowledged: dict[str, Path] = field(default_factory=dict)
    """SOP Instance UID -> the file that was answered with success."""
    recoveries: dict[str, float] = field(default_factory=dict)
    _number: int = 0

    # -- faults -----------------------------------------------------------------------------

    def arm(self, plan: str) -> None:
        """Put a plan of failpoints into force, from their first pass on."""
        for path in self.failpoints.iterdir():
            path.unlink()
        temporary = self.failpoints / "plan.part"
        temporary.write_text(plan)
        temporary.rename(self.failpoints / "plan")

    def disarm(self) -> None:
        """Nothing fails any more."""
        (self.failpoints / "plan").unlink(missing_ok=True)

    def heal(self) -> None:
        """Let the servers around it behave, and start what is not running."""
        if self.triton is not None:
            self.triton.heal()
        if not self.lentigo.is_running:
            self.lentigo.start()

    def passes(self, name: str) -> int:
        """Return how often a failpoint was passed since it was armed."""
        path = self.failpoints / name
        return path.stat().st_size if path.exists() else 0

    # -- sending ----------------------------------------------------------------------------

    def make(self, count: int = 1, **elements: str) -> list[Path]:
        """Draw studies of one image each; ``elements`` are set in all of them."""
        folder = self.folder / "sent"
        folder.mkdir(exist_ok=True)
        paths = []
        for _ in range(count):
            self._number += 1
            path = folder / f"{self._number:05d}.dcm"
            ds = wrap(_picture(self.folder, self._number), "dermoscopy")
            for keyword, value in elements.items():
                setattr(ds, keyword, value)
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def send_once(self, paths: Sequence[Path]) -> bool:
        """Send with dcmtk's storescu; return whether every instance was acknowledged."""
        done = subprocess.run(
            [
                *("storescu", "-aec", "LENTIGO", "-aet", "CAMERA", "-R", "-xy", "-to", "10"),
                *("127.0.0.1", str(self.port), *map(str, paths)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == 0:
            for path in paths:
                ds = pydicom.dcmread(path, stop_before_pixels=True)
                self.acknowledged[str(ds.SOPInstanceUID)] = path
        return done.returncode == 0

    def send(self, paths: Sequence[Path], timeout_s: float = 90.0) -> float:
        """Send each file until it is acknowledged, as a modality does; return the seconds."""
        began = time.monotonic()
        for path in paths:
            wait_until(
                lambda path=path: self.send_once([path]),  # type: ignore[misc]
                timeout_s,
                f"an acknowledgement\n{self.lentigo.log()}",
                interval_s=0.2,
            )
        return time.monotonic() - began

    def send_all(self, paths: Sequence[Path], timeout_s: float = 90.0) -> None:
        """Send all files on one association, again until all are acknowledged."""
        wait_until(
            lambda: self.send_once(paths),
            timeout_s,
            f"acknowledgements\n{self.lentigo.log()}",
            interval_s=0.2,
        )

    # -- looking ----------------------------------------------------------------------------

    @property
    def store(self) -> StoreSettings:
        """Where the record and the files are."""
        return StoreSettings(home=self.lentigo.home, database_url=self.database_url)

    def studies(self) -> dict[str, dict[str, Any]]:
        """Return every study by its UID, from the record."""
        engine = open_engine(self.store.record_url)
        try:
            listed = study_list(engine, self.store.results_folder)
            return {study["study_instance_uid"]: study for study in listed}
        finally:
            engine.dispose()

    def study_of(self, path: Path) -> dict[str, Any]:
        """Return the study of a file that was sent; empty while it is unknown."""
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
        return self.studies().get(uid, {})

    def files_of(self, paths: Sequence[Path]) -> list[Path]:
        """Return where the spool keeps files that were sent."""
        uids = [
            str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths
        ]
        engine = open_engine(self.store.record_url)
        try:
            with reading(engine) as connection:
                rows = connection.execute(select(Instance.sop_instance_uid, Instance.path))
                kept = {uid: self.store.spool_folder / path for uid, path in rows}
        finally:
            engine.dispose()
        return [kept[uid] for uid in uids]

    def wait_for(
        self, paths: Sequence[Path], state: str = "completed", timeout_s: float = 90.0
    ) -> float:
        """Wait until the studies of all files are in a state; return the seconds it took."""
        began = time.monotonic()
        uids = {
            str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in paths
        }
        try:
            wait_until(
                lambda: all((self.studies().get(uid) or {}).get("state") == state for uid in uids),
                timeout_s,
                f"studies {state}",
                interval_s=0.1,
            )
        except AssertionError as exc:
            known = self.studies()
            said = {uid[-8:]: _brief(known.get(uid)) for uid in uids}
            raise AssertionError(f"{exc}; {said}\n{self.lentigo.log()}") from exc
        return time.monotonic() - began

    def verify(self) -> None:
        """Judge record, files and PACS, and compare with what the sender was told."""
        store = self.store
        engine = open_engine(store.record_url)
        try:
            findings = verify(
                Subject(
                    engine=engine,
                    spool=store.spool_folder,
                    results=store.results_folder,
                    is_deep=True,
                    grace_s=20.0,
                )
            )
            if self.can_find:
                findings.append(check_pacs(engine, DeliverySettings()))
            self._check_acknowledged(engine)
        finally:
            engine.dispose()
        broken = [each for each in findings if each.verdict == "FAIL"]
        assert not broken, f"{broken}\n{self.lentigo.log()}"

    def _check_acknowledged(self, engine: Engine) -> None:
        """Every instance that was answered with success has a row."""
        with reading(engine) as connection:
            known = set(connection.execute(select(Instance.sop_instance_uid)).scalars())
        lost = set(self.acknowledged) - known
        assert not lost, f"{len(lost)} acknowledged instances are not in the record"

    def check(self, paths: Sequence[Path], fault: str, *, timeout_s: float = 90.0) -> float:
        """Wait for the studies, verify, and note how long the recovery took."""
        seconds = self.wait_for(paths, timeout_s=timeout_s)
        self.recoveries[fault] = seconds
        self.verify()
        for path in paths:
            items = self.study_of(path)["work_items"]
            assert [item["state"] for item in items] == ["COMPLETED"], items
        assert seconds < RECOVERY_LIMIT_S
        return seconds


def check_series(site: Site, paths: Sequence[Path], fault: str) -> None:
    """As ``Site.check`` for studies of many, which a fault may have made several generations of."""
    site.recoveries[fault] = site.wait_for(paths, timeout_s=120.0)
    wait_until(
        lambda: all(
            item["state"] == "COMPLETED"
            for path in paths
            for item in site.study_of(path)["work_items"]
        ),
        120,
        "all generations",
    )
    site.verify()


def series_of(site: Site, count: int) -> list[Path]:
    """Draw one study of several images."""
    paths = site.make(count)
    first = pydicom.dcmread(paths[0])
    for number, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID = first.StudyInstanceUID
        ds.SeriesInstanceUID = first.SeriesInstanceUID
        ds.PatientID, ds.PatientName = first.PatientID, first.PatientName
        ds.InstanceNumber = number + 1
        ds.save_as(path, enforce_file_format=True)
    return paths


_NOT_ASSESSED = ("lens-cap", "out-of-focus")  # the model is not even asked


def _picture(folder: Path, number: int) -> Path:
    samples = [each for each in sample_set() if each.name not in _NOT_ASSESSED]
    sample = samples[number % len(samples)]
    path = folder / f"{sample.name}.jpg"
    if not path.exists():
        path.write_bytes(_drawn(sample.kind, sample.seed))
    return path


@functools.cache
def _drawn(kind: str, seed: int) -> bytes:
    """Draw a picture, once for all modules: it takes seconds on a busy host."""
    out = io.BytesIO()
    Image.fromarray(render(kind, seed)).save(out, "JPEG", quality=92)
    return out.getvalue()


def _brief(study: dict[str, Any] | None) -> Any:
    if study is None:
        return "unknown"
    items = [(i["state"], i.get("step"), i.get("reason")) for i in study["work_items"]]
    return study["state"], study["reason"], items


def recovery_table(recoveries: dict[str, float]) -> str:
    """Return the recoveries as lines, the slowest first."""
    lines = [f"{seconds:6.1f} s  {fault}" for fault, seconds in recoveries.items()]
    return "\n".join(sorted(lines, reverse=True))


@contextlib.contextmanager
def site(
    folder: Path,
    *,
    pacs: Any = None,
    home: Path | None = None,
    environment: dict[str, str] | None = None,
    database_url: str = "",
    embedded: bool = False,
    start: bool = True,
) -> Iterator[Site]:
    """Run Lentigo with a model server that obeys; results go to ``pacs``, an Orthanc by default.

    Parameters
    ----------
    environment
        Variables beside those of ``QUICK``.
    embedded
        Run everything as a hospital would: the real Triton with its model, and default settings.
    """
    require("storescu")
    failpoints = folder / "failpoints"
    failpoints.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        if pacs is None:
            pacs = stack.enter_context(orthanc(folder / "pacs", aet="PACS"))
        triton = None if embedded else stack.enter_context(triton_stub())
        port = free_port()
        lentigo = Lentigo(
            home or folder / "home",
            send_to=f"PACS@127.0.0.1:{pacs.port}",
            arguments=("--dicom-port", str(port)),
            models=("diagnosis",) if triton is None else (),
            environment={
                **({} if triton is None else {**QUICK, "LENTIGO_TRITON_URL": triton.url}),
                **({} if embedded else {"LENTIGO_TEST_FAILPOINTS": f"@{failpoints}"}),
                **({"LENTIGO_DATABASE_URL": database_url} if database_url else {}),
                **(environment or {}),
            },
        )
        found = Site(
            folder=folder,
            lentigo=lentigo,
            triton=triton,
            pacs=pacs,
            failpoints=failpoints,
            port=port,
            database_url=database_url,
        )
        if start:
            # Triton and its model take their time on a busy host.
            lentigo.start(200.0 if embedded else 120.0)
        try:
            yield found
        finally:
            found.disarm()
            lentigo.stop()
            if found.recoveries:
                print("\n" + recovery_table(found.recoveries))


def results_in(pacs: Orthanc, study_instance_uid: str) -> list[pydicom.Dataset]:
    """Return our own objects in a study of the PACS."""
    return [
        ds for ds in pacs.study_datasets(study_instance_uid) if ds.get("Manufacturer") == "Lentigo"
    ]
