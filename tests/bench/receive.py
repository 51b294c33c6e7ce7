"""Receive rate, side by side in one run: Lentigo, Orthanc with its default settings, storescp +B.

Lentigo answers after file and row are on the disk, Orthanc after its default (synchronous) storage,
storescp without any sync. Senders: one that costs next to nothing, and dcmtk's own as they come,
with Nagle's algorithm on. Rounds are interleaved and every receiver starts afresh for each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gateway.dicom.file_meta import encode_file_meta
from gateway.host.embedded import free_port
from gateway.listener.acceptance import VL_PHOTOGRAPHIC
from tests.bench.blast import Association, Instance, command_set, encode
from tests.servers import orthanc, storescp, wait_until

WORKLOADS = {"tbp": (2000, 50_000), "derm": (200, 1_500_000), "wsi": (4, 300_000_000)}
"""Instances and bytes of each."""
QUICK_SCALE = 0.1
STOCK_INSTANCES = 200
RECEIVERS = ("lentigo", "orthanc", "storescp")


def instances(count: int, size: int) -> list[Instance]:
    """Make ``count`` instances of about ``size`` bytes, each with a UID of its own."""
    made = []
    ds = Dataset()
    ds.SOPClassUID = VL_PHOTOGRAPHIC
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "BENCH", "Bench", "XC"
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored = 1, 8, 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    side = int((size - 600) ** 0.5) // 2 * 2
    ds.Rows = ds.Columns = side
    ds.PixelData = np.random.default_rng(0).integers(0, 255, side * side, np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    data = encode(ds, ExplicitVRLittleEndian)
    first = ds.SOPInstanceUID
    for number in range(count):
        # UIDs of one length, so that the rest need not be encoded again.
        uid = f"{first[: len(first) - 6]}{number:06d}"
        made.append(
            Instance(
                command_set(VL_PHOTOGRAPHIC, uid, 1),
                data.replace(first.encode(), uid.encode(), 1),
            )
        )
    return made


def blast(port: int, called: str, load: list[Instance], associations: int) -> float:
    """Send the load over that many associations at once; return the seconds."""
    problems: list[BaseException] = []

    def one(part: list[Instance]) -> None:
        try:
            association = Association(
                port,
                called=called,
                calling="BENCH",
                sop_class_uid=VL_PHOTOGRAPHIC,
                syntax=ExplicitVRLittleEndian,
            )
            for instance in part:
                association.store(instance)
            association.release()
        except (OSError, ConnectionError) as exc:
            problems.append(exc)

    threads = [
        threading.Thread(target=one, args=(load[index::associations],))
        for index in range(associations)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return time.perf_counter() - started


def dcmtk(program: str, port: int, called: str, folder: Path) -> float:
    """Send a folder with a stock dcmtk sender, Nagle's algorithm on; return the seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    started = time.perf_counter()
    subprocess.run(
        [program, "+sd", "-aec", called, "127.0.0.1", str(port), str(folder)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=600,
    )
    return time.perf_counter() - started


def _files(folder: Path, load: list[Instance]) -> Path:
    folder.mkdir()
    for number, instance in enumerate(load):
        # The command set ends with Affected SOP Instance UID (0000,1000).
        uid = instance.command.rpartition(b"\0\0\0\x10")[2][4:].rstrip(b"\0").decode()
        meta = encode_file_meta(
            sop_class_uid=VL_PHOTOGRAPHIC,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        (folder / f"{number}.dcm").write_bytes(meta + instance.data)
    return folder


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A receiver that runs."""

    port: int
    ae_title: str
    pid: int | None = None


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Receiver]:
    """Run a receiver with its default settings on fresh storage."""
    if kind == "orthanc":
        with orthanc(folder) as server:
            yield Receiver(port=server.port, ae_title=server.ae_title)
    elif kind == "storescp":
        # dcmtk leaves Nagle's algorithm on, which stalls its answers; this shows its own speed.
        os.environ["TCP_NODELAY"] = "1"
        try:
            with storescp(folder) as peer:
                yield Receiver(port=peer.port, ae_title=peer.ae_title)
        finally:
            del os.environ["TCP_NODELAY"]
    else:
        with _listener(folder) as receiver:
            yield receiver


@contextmanager
def _listener(home: Path) -> Iterator[Receiver]:
    port = free_port()
    environment = {
        **os.environ,
        "LENTIGO_HOME": str(home),
        "LENTIGO_LISTENER_PORT": str(port),
    }
    subprocess.run(
        [sys.executable, "-m", "gateway", "migrate"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    with (home / "listener.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "listen"], env=environment, stdout=sink, stderr=sink
        )
    try:
        wait_until(lambda: _is_open(port), 120.0, "the listener")
        yield Receiver(port=port, ae_title="LENTIGO", pid=process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _is_open(port: int) -> bool:
    try:
        Association(
            port,
            called="LENTIGO",
            calling="BENCH",
            sop_class_uid=VL_PHOTOGRAPHIC,
            syntax=ExplicitVRLittleEndian,
        ).release()
    except OSError:
        return False
    return True


def _measure(kind: str, send: Callable[[Receiver], float]) -> float:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        with running(kind, folder) as receiver:
            return send(receiver)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(
    label: str, count: int, size: int, rounds: int, send: Callable[[Receiver], float]
) -> None:
    seconds: dict[str, list[float]] = {kind: [] for kind in RECEIVERS}
    for _ in range(rounds):
        for kind in RECEIVERS:
            seconds[kind].append(_measure(kind, send))
    median = {kind: statistics.median(taken) for kind, taken in seconds.items()}
    cells = "  ".join(
        f"{kind} {count / median[kind]:6.0f}/s ({count * size / median[kind] / 1e6:5.0f} MB/s)"
        for kind in RECEIVERS
    )
    ratios = "  ".join(f"/{kind} {median[kind] / median['lentigo']:.2f}" for kind in RECEIVERS[1:])
    print(f"{label:24} {cells}  {ratios}", flush=True)


def _blast(receiver: Receiver, *, count: int, size: int, associations: int) -> float:
    return blast(receiver.port, receiver.ae_title, instances(count, size), associations)


def _send_files(receiver: Receiver, *, program: str, folder: Path) -> float:
    return dcmtk(program, receiver.port, receiver.ae_title, folder)


def bench(names: list[str], rounds: int, scale: float, associations: tuple[int, ...]) -> None:
    """Print one line for each workload, number of associations and sender."""
    print(f"\n# receive: instances/s, median of {rounds} interleaved rounds; ratio over 1: faster")
    for name in names:
        count, size = WORKLOADS[name]
        count = max(4, int(count * scale))
        for number in associations:
            send = partial(_blast, count=count, size=size, associations=number)
            _compare(f"{name} blast {number} assoc", count, size, rounds, send)
    for program in ("dcmsend", "storescu"):
        for name in (each for each in names if each != "wsi"):
            size = WORKLOADS[name][1]
            count = max(20, int(min(WORKLOADS[name][0], STOCK_INSTANCES) * scale))
            with tempfile.TemporaryDirectory() as folder:
                made = _files(Path(folder) / "files", instances(count, size))

                send = partial(_send_files, program=program, folder=made)
                _compare(f"{name} {program}, Nagle", count, size, rounds, send)


def main(arguments: list[str] | None = None) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.receive", description=__doc__)
    parser.add_argument("--workloads", default="tbp,derm,wsi")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="share of each workload")
    parser.add_argument("--associations", default="1,4")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, one round")
    args = parser.parse_args(arguments)
    bench(
        args.workloads.split(","),
        1 if args.quick else args.rounds,
        QUICK_SCALE if args.quick else args.scale,
        tuple(int(number) for number in args.associations.split(",")),
    )


if __name__ == "__main__":
    main()
