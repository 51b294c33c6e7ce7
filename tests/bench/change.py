"""Change detection stage by stage: milliseconds a pair, and what its objects take.

``python -m tests.bench.change``. The pair is drawn; networks are left out (``tests.bench`` measures
them through Triton), everything else is what the clinic runs.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.demo.samples import Kind, render
from models.change.overlay import common_frames
from models.change.pair import measure_growth
from models.change.preparation import PreparationSettings, PreparedPair, prepare_pair
from models.change.registration import RegistrationSettings, register
from models.change.result import Alignment, ChangeResult, Comparison, LesionChange
from models.results import LesionRegion
from models.segmentation import largest_part, measure_region
from reports.context import SourceImage
from reports.encode import encode
from tests.unit.reports.change import change_builders as builders

SIZES = ((600, 450), (1024, 768), (2592, 1944))
TURNS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """Median time of one stage."""

    size: str
    stage: str
    ms: float
    objects_bytes: int = 0


def run(turns: int = TURNS) -> list[Row]:
    """Measure every stage at every size."""
    cv2.setNumThreads(1)
    return [row for size in SIZES for row in _stages(size, turns)]


def _stages(size: tuple[int, int], turns: int) -> list[Row]:
    name = f"{size[0]} x {size[1]}"
    before = np.asarray(render(Kind.NEVUS, 1, size))
    matrix = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), 7.0, 1.0)
    after = np.asarray(cv2.warpAffine(before, matrix, size, borderMode=cv2.BORDER_REFLECT))
    regions = (_outlined(before), _outlined(after))
    masks = (regions[0].mask, regions[1].mask)
    settings = PreparationSettings()
    pair = prepare_pair(before, after, settings, masks=masks)
    assert pair.is_registered, "the drawn pair registers"
    result, sources = _result((before, after), regions, pair)
    context = builders.change_context(*sources)
    stages: dict[str, Callable[[], object]] = {
        "registration alone": lambda: register(before, after, RegistrationSettings()),
        "preparation, registration included": lambda: prepare_pair(
            before, after, settings, masks=masks
        ),
        "growth": lambda: measure_growth(*masks, pair.source_matrix),
        "common frames": lambda: common_frames((before, after), masks, pair),
        "objects": lambda: encode(result, context),
    }
    rows = [Row(size=name, stage=stage, ms=_median(work, turns)) for stage, work in stages.items()]
    written = [_written(each.dataset) for each in encode(result, context)]
    return [*rows[:-1], replace(rows[-1], objects_bytes=sum(map(len, written)))]


def _outlined(picture: NDArray[np.uint8]) -> LesionRegion:
    grey = picture.mean(axis=2)
    part = largest_part(grey < np.median(grey) - 25)
    region = None if part is None else measure_region(part)
    assert region is not None, "the drawn lesion is dark"
    return region


def _result(
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    regions: tuple[LesionRegion, LesionRegion],
    pair: PreparedPair,
) -> tuple[ChangeResult, tuple[SourceImage, SourceImage]]:
    points = (
        builders.point(1, region=regions[0]),
        builders.point(2, 92, linkage=None, region=regions[1]),
    )
    masks = (regions[0].mask, regions[1].mask)
    comparison = Comparison(
        before=points[0],
        after=points[1],
        change_prob=0.6,
        is_changed=True,
        growth=measure_growth(*masks, pair.source_matrix),
        alignment=Alignment(inliers=80, matches=100, residual_px=1, overlap=0.9, rotation_deg=7),
        frames=common_frames(images, masks, pair),
    )
    lesion = LesionChange(time_points=points, comparison=comparison)
    shape = (images[0].shape[0], images[0].shape[1])
    sources = (
        replace(builders.current(shape=shape), pixels=images[1]),
        replace(builders.earlier(shape=shape), pixels=images[0]),
    )
    return builders.result(lesion), sources


def _median(work: Callable[[], object], turns: int) -> float:
    taken = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def _written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def main() -> None:
    """Print a line for each stage."""
    print("# change detection, one pair, one thread, without the networks")
    for row in run():
        bytes_note = f", {row.objects_bytes / 1e6:.1f} MB" if row.objects_bytes else ""
        print(f"{row.size:>12}  {row.stage:<36} {row.ms:8.1f} ms{bytes_note}")


if __name__ == "__main__":
    main()
