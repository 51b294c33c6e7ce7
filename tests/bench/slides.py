"""Tiles a second of one process beside openslide and wsidicom, on the same file, pixels compared.

``python -m tests.bench.slides``. The slide is drawn: 10,240 px, TILED_FULL, 1,600 JPEG tiles of
256 px in 4:2:2 of some 11 KB, of which 200 are distinct; tiles are read in one random order by all
readers, a hundred at a time in turn, so that other load meets all of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide
from wsidicom import WsiDicom

from tests.unit.workers.slide.slide_writer import Level
from workers.adapters.slides import SpoolSlides

SIDE, TILE, DISTINCT, TURN = 10_240, 256, 200, 100
Read = Callable[[int, int], NDArray[np.uint8]]
"""Column and row of a tile -> (256, 256, 3)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader's figure."""

    name: str
    tiles_s: float
    """Median over the turns, by the clock."""
    cpu_us: float
    """Processor time a tile, which other load on the machine changes less."""
    is_same: bool
    """Whether its pixels are ours."""


def draw_slide(path: Path) -> None:
    """Write the slide."""
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(DISTINCT):
        noise = rng.integers(0, 256, (TILE, TILE, 3), np.uint8)
        soft = cv2.GaussianBlur(noise, (0, 0), 3.0).astype(np.float32)
        picture = np.clip((soft - 128) * 2 + (200, 150, 190), 0, 255).astype(np.uint8)
        tiles.append(imagecodecs.jpeg8_encode(picture, level=80, subsampling="422"))
    count = (SIDE // TILE) ** 2
    shape = np.broadcast_to(np.uint8(0), (SIDE, SIDE, 3))
    Level(picture=shape, frames=[tiles[n % DISTINCT] for n in range(count)]).write(path)


def run() -> list[Row]:
    """Measure and return one row a reader, ours first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.dcm"
        draw_slide(path)
        # Without a cache: every tile is decoded, as it is by the others.
        source = SpoolSlides(path.parent, cache_bytes=0)
        threads = len(os.sched_getaffinity(0))
        with (
            closing(source.open(source.find([path.name]).slides[0])) as ours,
            WsiDicom.open(path) as theirs,
            OpenSlide(path) as plain,
            ThreadPoolExecutor(threads) as pool,
        ):
            readers: dict[str, Read] = {
                "lentigo": lambda x, y: ours.read(0, x * TILE, y * TILE, TILE, TILE),
                "wsidicom read_region": lambda x, y: np.asarray(
                    theirs.read_region((x * TILE, y * TILE), 0, (TILE, TILE))
                ),
                "openslide": lambda x, y: np.asarray(
                    plain.read_region((x * TILE, y * TILE), 0, (TILE, TILE)).convert("RGB")
                ),
            }
            # As workers read: codecs let go of the interpreter's lock.
            rows = [(name, read, map) for name, read in readers.items()]
            rows.append((f"lentigo, {threads} threads", readers["lentigo"], pool.map))
            return _measure(rows)


def _measure(readers: list[tuple[str, Read, Any]]) -> list[Row]:
    across = SIDE // TILE
    order = [divmod(int(n), across) for n in np.random.default_rng(1).permutation(across**2)]
    rates: dict[str, list[float]] = {name: [] for name, _, _ in readers}
    costs: dict[str, list[float]] = {name: [] for name, _, _ in readers}
    for start in range(0, len(order), TURN):
        xs, ys = zip(*order[start : start + TURN], strict=True)
        for name, read, spread in readers:
            began, began_cpu = time.perf_counter(), time.process_time()
            for _ in spread(read, xs, ys):
                pass
            rates[name].append(len(xs) / (time.perf_counter() - began))
            costs[name].append((time.process_time() - began_cpu) / len(xs) * 1e6)
    ours = readers[0][1]
    return [
        Row(
            name=name,
            tiles_s=statistics.median(rates[name]),
            cpu_us=statistics.median(costs[name]),
            is_same=all(np.array_equal(read(x, y), ours(x, y)) for x, y in order[:20]),
        )
        for name, read, _ in readers
    ]


def main() -> None:
    """Print the table."""
    rows = run()
    head = "slide tiles of 256 px, one process"
    print(f"{head:36} {'tiles/s':>9} {'ours is':>9} {'CPU us':>8} {'ours is':>9}  pixels")
    for row in rows:
        faster, cheaper = rows[0].tiles_s / row.tiles_s, row.cpu_us / rows[0].cpu_us
        same = "same" if row.is_same else "DIFFERENT"
        print(
            f"{row.name:36} {row.tiles_s:9.0f} {faster:8.1f}x {row.cpu_us:8.0f} {cheaper:8.1f}x"
            f"  {same}"
        )


if __name__ == "__main__":
    main()
