"""One patient of total body photography through Triton: seconds by stage, tiles a second, memory.

``python -m tests.bench.tbp [--tiles 2000]``. Everything but the record and the network is real: the
tiles lie on disk, Triton serves encoder and heads, every object is written.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import io
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

from gateway.demo.studies import body
from gateway.store.values import GenerationRow, InstanceRow
from models.tbp.lesions import TbpManifest
from reports.encode import ReportContext, encode
from tests.lentigo import running_triton
from tests.unit.workers.fakes import FakeEmbeddings, InMemory
from workers.adapters.instances import SpoolInstances
from workers.adapters.triton import TritonModels
from workers.analyses.tbp_screening import ANALYSIS
from workers.analysis import Tools
from workers.encoding import Encoder
from workers.settings import TritonSettings
from workers.study import Study

_DRAWN = 40


def run(tiles: int = 2000) -> None:
    """Screen one drawn patient and print where the time went."""
    print(f"\n# tbp: one patient of {tiles} tiles, encoder and heads through Triton")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        rows = tuple(_tiles(folder, tiles))
        (folder / "triton").mkdir()
        models = ("encoder", "tbp_screening")
        with running_triton(folder / "triton", models=models) as url:
            _screen(folder / "tiles", rows, TritonModels(TritonSettings(url=url)))


def _screen(spool: Path, rows: tuple[InstanceRow, ...], client: TritonModels) -> None:
    source = SpoolInstances(spool)
    closed_at = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    generation = GenerationRow(id=1, study_id=1, number=1, closed_at=closed_at, instances=rows)
    study = Study(generation, source)
    tools = Tools(
        served=client.identify("tbp_screening", TbpManifest),
        models=client,
        encoder=Encoder(client, FakeEmbeddings()),
        source=source,
        scratch=InMemory(),
        checkpoint=lambda: None,
        **_unused(),
    )
    marks = [("start", time.perf_counter())]
    matched = ANALYSIS.match(study)
    marks.append(("match", time.perf_counter()))
    conclusion = ANALYSIS.run(study, tools)
    marks.append(("screen", time.perf_counter()))
    context = ReportContext(
        sources=conclusion.sources,
        generation=1,
        analysis="tbp_screening",
        created_at=closed_at,
        software_version="bench",
        device_serial="bench",
    )
    objects = encode(conclusion.result, context)
    marks.append(("encode", time.perf_counter()))
    sizes = []
    for each in objects:
        buffer = io.BytesIO()
        dcmwrite(buffer, each.dataset, enforce_file_format=True)
        sizes.append(len(buffer.getvalue()))
    marks.append(("write", time.perf_counter()))
    stages = [f"{name} {at - before:.2f} s" for (_, before), (name, at) in pairwise(marks)]
    total = marks[-1][1] - marks[0][1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{matched.reason}; {conclusion.summary}")
    print(
        f"{total:.1f} s a patient ({', '.join(stages)}), {len(rows) / total:.0f} tiles/s, "
        f"{len(objects)} objects of {sum(sizes) / 1e6:.1f} MB, peak {peak:.0f} MB without Triton",
        flush=True,
    )


def _unused() -> dict[str, object]:
    """Tools that this analysis does not use."""
    names = {"served", "models", "encoder", "source", "scratch", "checkpoint"}
    return {name: None for name in Tools.__dataclass_fields__ if name not in names}


def _tiles(folder: Path, count: int) -> Iterator[InstanceRow]:
    """Write tiles: forty drawn ones, turned and shifted until there are enough, all different."""
    originals = [dcmread(path) for path in body(folder, count=min(count, _DRAWN)).instances]
    pictures = [np.asarray(each.pixel_array) for each in originals]
    (folder / "tiles").mkdir()
    for number in range(count):
        turn, shift = divmod(number // len(originals), 32)
        ds = copy.deepcopy(originals[number % len(originals)])
        picture = np.roll(np.rot90(pictures[number % len(originals)], turn), shift, axis=1)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=92)
        ds.PixelData = encapsulate([stream.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        ds.TrackingID, ds.TrackingUID = f"Lesion {number + 1}", f"2.25.1{number:05d}"
        ds.InstanceNumber = number + 1
        path = folder / "tiles" / f"{number:05d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        yield InstanceRow(
            sop_instance_uid=ds.SOPInstanceUID,
            sop_class_uid=str(ds.SOPClassUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
            modality=str(ds.Modality),
            path=path.name,
            size_bytes=path.stat().st_size,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tbp", description=__doc__)
    parser.add_argument("--tiles", type=int, default=2000)
    run(parser.parse_args().tiles)
