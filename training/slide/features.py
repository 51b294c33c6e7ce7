"""Embeddings of the tiles of many slides, on disk.

Memory holds one batch of tiles and one overview, whatever the slide. Each slide is a folder that
appears whole or not at all, so a killed run goes on with the slide it was at; a slide that cannot
be read is recorded with its reason and stops nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import ModelError
from models.preprocessing import prepare_image
from models.slide.reading import SlideReader, geometry_of, read_overview, read_tile
from models.slide.tiles import TileGrid, lay_grid
from models.slide.tissue import PRESETS, Tissue, TissueFinding, find_tissue
from training.errors import RunError, SlideFileError
from training.features.embedding import load_embedder
from training.runs import Progress, write_atomically
from training.slide.readers import SlideFile
from training.slide.sheet import draw_sheet

RECORD, FEATURES, COORDINATES, SHEET, OVERVIEW = (
    "slide.json",
    "features.npy",
    "coordinates.npy",
    "sheet.png",
    "overview.png",
)
TOO_FEW = "too few tiles of tissue"
FAILED = "cannot be read"


@dataclass(frozen=True, kw_only=True)
class TileSettings:
    """What decides a slide's tiles and how they are embedded."""

    tile_px: int
    """Side of a tile in pixels."""
    tile_um_px: float
    """Resolution of a tile in micrometres per pixel."""
    tissue_preset: str
    """Name in ``models.slide.tissue.PRESETS``."""
    min_tiles: int
    """Fewest tiles of tissue for an assessment."""
    batch_size: int
    """Tiles embedded at once; it bounds the memory and changes nothing else."""

    def __post_init__(self) -> None:
        """Refuse values no slide can be cut by."""
        if min(self.tile_px, self.min_tiles, self.batch_size) < 1 or self.tile_um_px <= 0:
            raise ValueError("sizes and counts must be positive")
        if self.tissue_preset not in PRESETS:
            raise ValueError(f"tissue_preset must be one of {sorted(PRESETS)}")


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """What became of one slide."""

    slide_id: str
    """Name of the slide in the table."""
    key: str
    """Digest of everything the features depend on."""
    status: str
    """``ok``, a finding of ``models.slide.tissue``, ``TOO_FEW`` or ``FAILED``."""
    reason: str
    """What was wrong; empty when nothing was."""
    tiles: int
    """Tiles of tissue."""
    um_px: float
    """Resolution of level 0; 0 when unknown."""
    width: int
    """Width of level 0 in pixels; 0 when unknown."""
    height: int
    """Height of level 0 in pixels; 0 when unknown."""
    side: int
    """Side of a tile in pixels of level 0; 0 when unknown."""
    tissue_mm2: float
    """Area of tissue in square millimetres."""
    ink_share: float
    """Share of the overview that is ink."""
    is_pale: bool
    """Whether the tissue was found only by a lowered threshold."""


class TileEncoder:
    """The encoder as it is served: the same rounding, the same digest.

    Parameters
    ----------
    embed
        Takes (B, S, S, 3) uint8 RGB, returns (B, E) float32.
    digest
        SHA-256 of the encoder's weight file.
    size
        Side S of its input in pixels.
    dim
        Width E of an embedding.
    """

    def __init__(
        self, embed: Callable[[torch.Tensor], torch.Tensor], *, digest: str, size: int, dim: int
    ) -> None:
        self._embed = embed
        self.digest = digest
        self.size = size
        self.dim = dim

    @torch.inference_mode()
    def __call__(self, tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings (B, E) of tiles (h, w, 3) uint8 RGB."""
        batch = np.stack([prepare_image(tile, self.size) for tile in tiles])
        return self._embed(torch.from_numpy(batch)).numpy().astype(np.float32)


def load_tile_encoder(folder: Path | None) -> TileEncoder:
    """Load the encoder of a model repository, or the start weights as they would be exported.

    Parameters
    ----------
    folder
        E.g. ``triton_repo/encoder``; None for EfficientNet-Lite with its ImageNet weights.

    Raises
    ------
    RunError
        If the folder holds no exported encoder.
    ModelError
        If manifest and weights do not agree.
    """
    embedder = load_embedder(folder)
    return TileEncoder(
        lambda pixels: torch.from_numpy(embedder.embed(pixels.numpy())),
        digest=embedder.digest,
        size=embedder.size,
        dim=embedder.dim,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against a second run; a killed run's lock is gone with it.

    Raises
    ------
    RunError
        If another run holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("wb")
    except OSError as exc:
        raise RunError(f"{folder} cannot be used: {exc.strerror}") from exc
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise RunError(f"another run is writing into {folder}") from exc
        yield


@dataclass(frozen=True, kw_only=True)
class SlideSource:
    """A slide that can be opened."""

    slide_id: str
    """Name in the table."""
    fingerprint: str
    """Changes when the slide's content does."""
    open: Callable[[], SlideFile]
    """Opens the slide; raises ``SlideFileError``."""


def fingerprint(path: Path) -> str:
    """Sizes and times of the files behind a path; empty when there are none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    text = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """Folder of features, one folder a slide.

    Parameters
    ----------
    folder
        Made when missing.
    settings
        How slides are cut.
    encoder
        What embeds the tiles.
    """

    def __init__(self, folder: Path, *, settings: TileSettings, encoder: TileEncoder) -> None:
        self._folder = folder
        self._settings = settings
        self._encoder = encoder

    def path(self, slide_id: str, name: str) -> Path:
        """File of one slide."""
        return self._folder / quote(slide_id, safe="") / name

    def extract(self, sources: Sequence[SlideSource], report: Progress) -> dict[str, SlideRecord]:
        """Embed every slide that is not there yet.

        Returns
        -------
        dict
            Slide -> what became of it, in the order of ``sources``.

        Raises
        ------
        RunError
            If another run writes into the folder, or the disk is full.
        """
        with locked(self._folder):
            records = {}
            for number, source in enumerate(sources):
                report("slides", number, len(sources))
                known = self._known(source)
                records[source.slide_id] = known or self._extract_one(source)
            report("slides", len(sources), len(sources))
        return records

    def _key(self, source: SlideSource) -> str:
        settings = {k: v for k, v in asdict(self._settings).items() if k != "batch_size"}
        parts = [settings, self._encoder.digest, source.fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _known(self, source: SlideSource) -> SlideRecord | None:
        """Return the record of an earlier run; failures are tried again."""
        try:
            content = json.loads(self.path(source.slide_id, RECORD).read_text("utf-8"))
            record = SlideRecord(**content)
        except (OSError, ValueError, TypeError):
            return None
        is_done = record.key == self._key(source) and record.status != FAILED
        return record if is_done else None

    def _extract_one(self, source: SlideSource) -> SlideRecord:
        final = self.path(source.slide_id, RECORD).parent
        part = final.with_name(f"{final.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
        except OSError as exc:
            raise RunError(f"{self._folder} cannot be written: {exc.strerror}") from exc
        try:
            reader = source.open()
            try:
                record = self._cut(reader, source, part)
            finally:
                reader.close()
        except (SlideFileError, ModelError) as exc:
            record = self._record(source, FAILED, reason=str(exc))
        content = json.dumps(asdict(record), indent=2) + "\n"
        write_atomically(part / RECORD, content.encode())
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        return record

    def _record(self, source: SlideSource, status: str, **known: Any) -> SlideRecord:
        unknown: dict[str, Any] = {
            "um_px": 0.0,
            "width": 0,
            "height": 0,
            "side": 0,
            "tissue_mm2": 0.0,
        }
        values = unknown | {"reason": "", "tiles": 0, "ink_share": 0.0, "is_pale": False} | known
        return SlideRecord(slide_id=source.slide_id, key=self._key(source), status=status, **values)

    def _cut(self, reader: SlideReader, source: SlideSource, part: Path) -> SlideRecord:
        settings = self._settings
        geometry = geometry_of(reader)
        overview, um_px = read_overview(reader)
        tissue = find_tissue(overview, um_px=um_px, preset=PRESETS[settings.tissue_preset])
        grid = lay_grid(geometry, tissue, tile_px=settings.tile_px, um_px=settings.tile_um_px)
        status = "ok"
        if tissue.finding is not TissueFinding.TISSUE:
            status = tissue.finding.value
        elif len(grid) < settings.min_tiles:
            status = TOO_FEW
        if status == "ok":
            self._embed(reader, grid, part)
        _save_picture(part / OVERVIEW, overview)
        facts = _facts(source.slide_id, status, tissue, grid)
        _save_picture(part / SHEET, draw_sheet(overview, tissue, grid, facts))
        width, height = geometry.sizes[0]
        return self._record(
            source,
            status,
            tiles=len(grid),
            um_px=geometry.um_px,
            width=width,
            height=height,
            side=grid.side,
            tissue_mm2=tissue.area_mm2,
            ink_share=float(tissue.ink.mean()),
            is_pale=tissue.is_pale,
        )

    def _embed(self, reader: SlideReader, grid: TileGrid, part: Path) -> None:
        """Write features through the page cache: no slide is too large for the memory."""
        shape = (len(grid), self._encoder.dim)
        try:
            np.save(part / COORDINATES, grid.coordinates)
            features = np.lib.format.open_memmap(
                part / FEATURES, mode="w+", dtype=np.float16, shape=shape
            )
            for start in range(0, len(grid), self._settings.batch_size):
                stop = min(start + self._settings.batch_size, len(grid))
                tiles = [read_tile(reader, grid, index) for index in range(start, stop)]
                features[start:stop] = self._encoder(tiles)
            features.flush()
        except OSError as exc:
            raise RunError(f"features cannot be written: {exc.strerror}") from exc

    def read(self, record: SlideRecord) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        """Features (N, E) and coordinates (N, 2) of a slide whose status is ``ok``.

        Raises
        ------
        RunError
            If the files are not there or not whole.
        """
        try:
            features = np.load(self.path(record.slide_id, FEATURES), mmap_mode="r")
            coordinates = np.load(self.path(record.slide_id, COORDINATES))
        except (OSError, ValueError) as exc:
            raise RunError(f"the features of {record.slide_id} cannot be read") from exc
        if len(features) != record.tiles or features.shape[1] != self._encoder.dim:
            raise RunError(f"the features of {record.slide_id} are not those of its record")
        return features, coordinates


def _save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    try:
        Image.fromarray(picture).save(path)
    except OSError as exc:
        raise RunError(f"{path.name} cannot be written: {exc.strerror}") from exc


def _facts(slide_id: str, status: str, tissue: Tissue, grid: TileGrid) -> tuple[str, ...]:
    width, height = grid.slide_size
    pale = ", found as pale tissue" if tissue.is_pale else ""
    return (
        f"{slide_id}: {status}",
        f"{width} x {height} px; tiles of {grid.tile_px} px at {grid.plan.um_px:.3f} um/px "
        f"from level {grid.plan.level} (factor {grid.plan.factor:.3f})",
        f"{len(grid)} tiles, {len(tissue.outlines)} parts, {tissue.area_mm2:.2f} mm2 of tissue"
        f"{pale}, ink {100 * float(tissue.ink.mean()):.1f} %, threshold {tissue.threshold}",
    )
