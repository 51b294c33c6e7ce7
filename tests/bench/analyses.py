"""Each analysis on its path: studies an hour, seconds by stage, bytes on the wire, memory.

``python -m tests.bench.analyses``. Drawn studies go to one running Lentigo whose results a
query/retrieve server confirms. The stages are those of the timeline (``workers.metering``); memory
is the largest resident size that the kernel saw of any worker process.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid
from sqlalchemy import select

from gateway.delivery.routes import Destination
from gateway.demo.studies import DemoStudy, body, follow_up, melanoma, slide
from gateway.sending.send import send
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine, reading
from gateway.store.tables import Event, WorkItem
from tests.lentigo import Lentigo, running_lentigo

Make = Callable[[Path], list[DemoStudy]]
STUDIES: dict[str, tuple[str, Make]] = {
    "diagnosis": ("one dermoscopic image", lambda folder: [melanoma(folder)]),
    "prognosis": ("one image and four covariates", lambda folder: [melanoma(folder)]),
    "change_detection": ("an image and its prior", follow_up),
    "tbp_screening": ("200 tiles", lambda folder: [body(folder, count=200)]),
    "slide_classification": ("108 tiles of 256 px", lambda folder: [slide(folder)]),
}


def run(copies: int) -> None:
    """Measure every analysis, one after the other, and print a line each."""
    print(f"\n# analyses: {copies} studies of each, all at once")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        with running_lentigo(
            folder / "home",
            to_archive=True,
            models=(),
            environment={"LENTIGO_WORKER_DEMONSTRATION_MODELS": "1"},
        ) as lentigo:
            for analysis, (what, make) in STUDIES.items():
                made = make(folder / analysis)
                _send(lentigo, made, folder)  # the first ones warm everything up
                batch = [
                    copy for n in range(copies) for copy in _copies(made, folder / f"{analysis}{n}")
                ]
                started = time.perf_counter()
                sent = _send(lentigo, batch, folder)
                seconds = time.perf_counter() - started
                _print(lentigo, analysis, what, copies, seconds, sent)


def _send(lentigo: Lentigo, studies: list[DemoStudy], folder: Path) -> set[str]:
    """Send studies with their documents, and wait for every result."""
    before = len(lentigo.studies())
    for study in studies:
        for name, content in study.documents.items():
            path = folder / name
            path.write_bytes(content)
            lentigo.command("attach", "--study", study.study_instance_uid, str(path))
    peer = Destination(ae_title="LENTIGO", host="127.0.0.1", port=lentigo.dicom_port)
    send([path for study in studies for path in study.instances], peer, lambda *_: None)
    lentigo.wait_for_states({"completed"}, before + len(studies), 900)
    return {study.study_instance_uid for study in studies}


def _copies(studies: list[DemoStudy], folder: Path) -> Iterator[DemoStudy]:
    """The same studies under new UIDs, of another patient."""
    folder.mkdir()
    uids: dict[str, str] = {}
    patient = f"BENCH-{folder.name}"

    def renewed(uid: str) -> str:
        return uids.setdefault(uid, generate_uid())

    for number, study in enumerate(studies):
        paths = []
        for path in study.instances:
            ds = pydicom.dcmread(path)
            ds.PatientID = patient
            for keyword in (
                *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "TrackingUID"),
                *("FrameOfReferenceUID", "PyramidUID"),
            ):
                if keyword in ds:
                    setattr(ds, keyword, renewed(ds[keyword].value))
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            paths.append(folder / f"{number}-{path.name}")
            ds.save_as(paths[-1])
        yield DemoStudy(
            name=study.name,
            study_instance_uid=renewed(study.study_instance_uid),
            instances=tuple(paths),
            documents=study.documents,
        )


def _print(
    lentigo: Lentigo, analysis: str, what: str, copies: int, seconds: float, sent: set[str]
) -> None:
    items = [
        item
        for study in lentigo.studies().values()
        if study["study_instance_uid"] in sent
        for item in study["work_items"]
        if item["analysis"] == analysis
    ]
    rate = copies / seconds * 3600
    stages = _stages(lentigo, analysis, len(items))
    print(f"{analysis:20} {what}: {rate:6.0f} studies/h; median of a work item:", end=" ")
    for name in ("run_s", "inference_s", "encode_s", "write_s"):
        print(f"{name.removesuffix('_s')} {stages.get(name, 0.0):.2f} s,", end=" ")
    print(f"deliver {_delivery_s(items):.2f} s;", end=" ")
    sent_mb, received_mb = (stages.get(f"bytes_{way}", 0) / 1e6 for way in ("sent", "received"))
    print(f"wire {sent_mb:.1f} MB out, {received_mb:.2f} MB in;", end=" ")
    print(f"worker peak {_peak_mb(lentigo):.0f} MB", flush=True)


def _stages(lentigo: Lentigo, analysis: str, count: int) -> dict[str, float]:
    """Median of what the newest work items' timelines say."""
    engine = open_engine(StoreSettings(home=lentigo.home).record_url)
    try:
        with reading(engine) as connection:
            details = connection.execute(
                select(Event.detail)
                .join(WorkItem, Event.work_item_id == WorkItem.id)
                .where(Event.action == "work_item.analysed", WorkItem.analysis == analysis)
                .order_by(Event.id.desc())
                .limit(count)
            ).scalars()
            measured: list[dict[str, float]] = [detail["measured"] for detail in details]
    finally:
        engine.dispose()
    names = {name for each in measured for name in each}
    return {
        name: statistics.median([each[name] for each in measured if name in each]) for name in names
    }


def _delivery_s(items: list[dict[str, Any]]) -> float:
    """Median seconds from the analysed work item to its last confirmation."""
    spans = [
        dt.datetime.fromisoformat(item["finished_at"])
        - dt.datetime.fromisoformat(item["analysed_at"])
        for item in items
        if item.get("analysed_at") and item["finished_at"]
    ]
    return statistics.median([span.total_seconds() for span in spans]) if spans else 0.0


def _peak_mb(lentigo: Lentigo) -> float:
    """Largest resident size of any worker process so far."""
    groups = {pid for name, pid in lentigo.children().items() if name.startswith("workers")}
    peaks = [0]
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if int(fields.get("PPid", "0")) in groups and "VmHWM" in fields:
            peaks.append(int(fields["VmHWM"].split()[0]))
    return max(peaks) / 1024


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.analyses", description=__doc__)
    parser.add_argument("--copies", type=int, default=6)
    run(parser.parse_args().copies)


if __name__ == "__main__":
    main()
