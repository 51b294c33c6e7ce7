"""``make bench``: measures, side by side in one run, and prints ratios. It asserts no speed.

Receive rate beside Orthanc and dcmtk's storescp, seconds from the last C-STORE to the confirmed
result, images per second through Triton, each analysis on its path, slide tiles beside openslide
and wsidicom, report and mask writing beside highdicom. ``--only TOPIC`` runs one of them.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import generate_uid

from tests.bench import analyses, change, prognosis, receive, reports, slide_reports, slides, tbp
from tests.lentigo import running_lentigo, running_triton


def bench_path(studies: int) -> None:
    """Seconds from the last C-STORE of a study to its confirmed result, one study at a time."""
    from gateway.delivery.routes import Destination
    from gateway.demo.samples import render
    from gateway.sending.send import send
    from gateway.sending.wrap import save, wrap

    print(f"\n# path: {studies} dermoscopic studies, one after another, then all at once")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        instance = stack.enter_context(running_lentigo(folder / "home", to_archive=True))
        peer = Destination(ae_title="LENTIGO", host="127.0.0.1", port=instance.dicom_port)
        (folder / "in").mkdir()
        paths = []
        for seed in range(studies):
            picture = folder / "in" / f"{seed}.jpg"
            Image.fromarray(render("nevus", seed)).save(picture, quality=92)
            paths.append(picture.with_suffix(".dcm"))
            save(wrap(picture, "dermoscopy"), paths[-1])
        send(paths[:1], peer, lambda *_: None)
        instance.wait_for_studies(1)  # the first one warms everything up
        seconds = []
        for number, path in enumerate(paths[1:], start=2):
            started = time.perf_counter()
            send([path], peer, lambda *_: None)
            instance.wait_for_studies(number)
            seconds.append(time.perf_counter() - started)
        print(
            f"one at a time: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s "
            "(quiet window of 2 s included)"
        )
        more = [_fresh_copy(path, folder / "again") for path in paths]
        started = time.perf_counter()
        send(more, peer, lambda *_: None)
        instance.wait_for_studies(len(paths) + len(more))
        took = time.perf_counter() - started
        print(f"all at once: {len(more)} studies in {took:.2f} s, {len(more) / took * 3600:.0f}/h")


def _fresh_copy(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ds = pydicom.dcmread(path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.save_as(folder / path.name)
    return folder / path.name


def bench_triton(seconds: float) -> None:
    """Images per second through the real server, by batch size and requests in flight."""
    from workers.adapters.triton import TritonModels
    from workers.settings import TritonSettings

    print(f"\n# triton: diagnosis, {seconds:.0f} s each")
    with tempfile.TemporaryDirectory() as folder, running_triton(Path(folder)) as url:
        client = TritonModels(TritonSettings(url=url))
        for batch, in_flight in ((1, 1), (1, 8), (8, 2), (32, 1), (32, 2)):
            images = np.random.default_rng(0).integers(0, 255, (batch, 224, 224, 3), np.uint8)
            counts = [0] * in_flight
            deadline = time.perf_counter() + seconds

            def loop(
                slot: int,
                counts: list[int] = counts,
                images: np.ndarray = images,
                deadline: float = deadline,
            ) -> None:
                while time.perf_counter() < deadline:
                    client.infer("diagnosis", {"IMAGE": images})
                    counts[slot] += len(images)

            threads = [threading.Thread(target=loop, args=(slot,)) for slot in range(in_flight)]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = sum(counts) / (time.perf_counter() - started)
            print(f"batch {batch:2}, {in_flight} in flight: {rate:6.1f} images/s", flush=True)


TOPICS: dict[str, Callable[[], object]] = {
    "slides": slides.main,
    "slide_reports": slide_reports.main,
    "reports": reports.run,
    "tbp": tbp.run,
    "change": change.main,
    "prognosis": prognosis.run,
}
"""Benches that need no options: tiles, writing, and the parts of each analysis."""


def main() -> None:
    """Run what was asked for; everything by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=("receive", "path", "triton", "analyses", *TOPICS))
    parser.add_argument("--workloads", default="tbp,derm,wsi")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.25, help="share of each workload")
    parser.add_argument("--quick", action="store_true", help="receive: a tenth of it, one round")
    parser.add_argument("--studies", type=int, default=12)
    parser.add_argument("--copies", type=int, default=4, help="studies of each analysis")
    args = parser.parse_args()
    if args.only in (None, "receive"):
        scale = receive.QUICK_SCALE if args.quick else args.scale
        receive.bench(args.workloads.split(","), 1 if args.quick else args.rounds, scale, (1, 4))
    if args.only in (None, "path"):
        bench_path(args.studies)
    if args.only in (None, "triton"):
        bench_triton(5.0)
    if args.only in (None, "analyses"):
        analyses.run(args.copies)
    for topic, run in TOPICS.items():
        if args.only in (None, topic):
            run()


if __name__ == "__main__":
    main()
