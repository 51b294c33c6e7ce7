"""Recipe that measures how much of the centre the embeddings of a cohort hold."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError
from models.slide.stain import fit_macenko, lab_statistics, macenko, reinhard
from training.cohorts import find_file, read_image
from training.errors import CohortError, RunError
from training.robustness.clustering import clustering_score
from training.robustness.cohort import CentreCohort, build_cohort
from training.robustness.combat import combat
from training.robustness.drop import performance_drop
from training.robustness.index import robustness_index
from training.robustness.page import Measures, Sample, plain_values, write_report
from training.runs import Progress, RunFolder, write_atomically
from training.settings import read_toml
from training.slide.features import TileEncoder, load_tile_encoder

SUMMARY = "robustness: what embeddings hold of the centre, and what removes it"
RESULT = "robustness.json"
DataMethod = Literal["reinhard", "macenko"]


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings:
    """Everything that decides the figures, apart from data and encoder."""

    recipe: Literal["robustness"]
    seed: int
    """Seed of draws and bootstrap."""
    image_column: str
    """Column with the image's file name."""
    label_column: str
    """Column with the biological class."""
    centre_column: str
    """Column with the centre."""
    group_column: str
    """Column with the slide or lesion; empty: every image alone."""
    labels: tuple[str, ...]
    """Classes that are compared; empty: all."""
    k: int
    """Neighbours of the robustness index; 0: the k with the best balanced accuracy."""
    replicates: int
    """Bootstrap samples."""
    unseen_centres: tuple[str, ...]
    """Centres that the performance drop keeps from training."""
    steps: int
    """Splits of rising association."""
    repetitions: int
    """Repetitions of the performance drop."""
    cluster_seeds: int
    """Repetitions of the clustering."""
    max_clusters: int
    """Largest number of clusters."""
    stain_methods: tuple[DataMethod, ...]
    """Normalisations of the images that are compared with none."""
    with_combat: bool
    """Whether each is also measured after ComBat."""
    batch_size: int
    """Images embedded at once."""

    def __post_init__(self) -> None:
        """Refuse values no measure can have."""
        counts = (self.replicates, self.repetitions, self.cluster_seeds, self.batch_size)
        if min(counts) < 1 or self.k < 0:
            raise ValueError("counts must be positive")
        if self.steps < 2 or self.max_clusters < 2:
            raise ValueError("steps and max_clusters must be at least 2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe's options."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--table", type=Path, required=True, help="CSV: image, label, centre, group"
    )
    parser.add_argument("--images", type=Path, help="folder of the images")
    parser.add_argument(
        "--embeddings", type=Path, help=".npy (B, D), a row a line of the table, in place of images"
    )
    parser.add_argument("--encoder", type=Path, help="exported encoder; default: ImageNet weights")
    parser.add_argument("--json", type=Path, help="where to write the figures; default: --out")


def run(options: argparse.Namespace, report: Progress) -> None:
    """Run the recipe; what was measured before is not measured again."""
    settings = read_toml(options.config, RobustnessSettings)
    if (options.images is None) == (options.embeddings is None):
        raise RunError("give --images or --embeddings")
    if options.embeddings is not None and settings.stain_methods:
        raise RunError("stain_methods need --images: stains cannot be changed in embeddings")
    folder = RunFolder(options.out, recipe="robustness", settings=settings)
    samples, chosen = read_samples(options.table, settings)
    variants: dict[str, Callable[[], NDArray[np.floating]]] = {}
    if options.embeddings is not None:
        variants["as it is"] = lambda: _read_embeddings(options.embeddings, chosen)
    else:
        encoder = load_tile_encoder(options.encoder)
        embedder = _Embedder(options.images, samples, encoder, settings, folder, report)
        variants["as it is"] = embedder.plain
        for method in settings.stain_methods:
            variants[method] = lambda method=method: embedder.normalised(method)  # type: ignore[misc]
    measured = []
    refused: dict[str, str] = {}
    for name, embed in variants.items():
        cohort = _cohort(embed(), samples)
        measured.append(_measure(name, cohort, settings, report))
        if settings.with_combat:
            try:
                adjusted = cohort.replace(
                    combat(cohort.embeddings, labels=cohort.labels, centres=cohort.centres)
                )
            except CohortError as exc:
                refused[f"{name}, ComBat"] = str(exc)
                continue
            measured.append(_measure(f"{name}, ComBat", adjusted, settings, report))
    result = {
        "samples": len(samples),
        "measures": [asdict(measures) for measures in measured],
        "refused": refused,
    }
    folder.write_json(RESULT, plain_values(result))
    if options.json is not None:
        write_atomically(options.json, folder.path(RESULT).read_bytes())
    write_report(folder.path("report.html"), samples, measured, refused)


def read_samples(
    table: Path, settings: RobustnessSettings
) -> tuple[tuple[Sample, ...], NDArray[np.intp]]:
    """Read the table; returns the samples of the chosen labels and their line numbers.

    Raises
    ------
    CohortError
        If the table or a column is missing, a cell is empty, or no line is left.
    """
    columns = (settings.image_column, settings.label_column, settings.centre_column)
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            records = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CohortError(f"{table} cannot be read as a table") from exc
    needed = (*columns, settings.group_column) if settings.group_column else columns
    missing = set(needed) - set(records[0] if records else {})
    if missing:
        raise CohortError(f"{table}: no column {sorted(missing)}")
    samples, chosen = [], []
    for number, record in enumerate(records):
        image, label, centre = (record[name] or "" for name in columns)
        group = record[settings.group_column] or "" if settings.group_column else image
        if not (image and label and centre and group):
            raise CohortError(f"{table}, line {number + 2}: a needed cell is empty")
        if not settings.labels or label in settings.labels:
            samples.append(Sample(image_id=image, label=label, centre=centre, group=group))
            chosen.append(number)
    if not samples:
        raise CohortError(f"{table}: no line has one of the labels {list(settings.labels)}")
    return tuple(samples), np.array(chosen)


def _read_embeddings(path: Path, chosen: NDArray[np.intp]) -> NDArray[np.floating]:
    try:
        values: NDArray[np.floating] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise CohortError(f"{path} holds no array") from exc
    if values.ndim != 2 or len(values) <= chosen.max():
        raise CohortError(f"{path} must hold one row for each line of the table")
    return values[chosen]


def _cohort(embeddings: NDArray[np.floating], samples: tuple[Sample, ...]) -> CentreCohort:
    return build_cohort(
        embeddings,
        labels=[sample.label for sample in samples],
        centres=[sample.centre for sample in samples],
        groups=[sample.group for sample in samples],
    )


class _Embedder:
    """Embeds the images of a table, plain or normalised, once each."""

    def __init__(
        self,
        images: Path,
        samples: tuple[Sample, ...],
        encoder: TileEncoder,
        settings: RobustnessSettings,
        folder: RunFolder,
        report: Progress,
    ) -> None:
        self._images = images
        self._samples = samples
        self._encoder = encoder
        self._batch_size = settings.batch_size
        self._folder = folder
        self._report = report

    def plain(self) -> NDArray[np.floating]:
        """Embeddings of the images as they are."""
        return self._embed("plain", lambda image: image)

    def normalised(self, method: DataMethod) -> NDArray[np.floating]:
        """Embeddings of the images with the colours of the first one that has enough stain.

        An image without enough stain to estimate its colours stays as it is.
        """
        target = self._target(method)

        def change(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            try:
                return target(image)
            except ImageError:
                return image

        return self._embed(method, change)

    def _target(self, method: DataMethod) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
        for sample in self._samples:
            image = self._read(sample.image_id)
            try:
                if method == "reinhard":
                    colours = lab_statistics(image)
                    return lambda other: reinhard(other, colours)
                basis = fit_macenko(image)
            except ImageError:
                continue
            return lambda other: macenko(other, basis)
        raise CohortError(f"no image has enough stain to be the target of {method}")

    def _read(self, image_id: str) -> NDArray[np.uint8]:
        direct = self._images / image_id
        path = direct if direct.is_file() else find_file(self._images, Path(image_id).stem)
        if path is None:
            raise CohortError(f"{image_id}: no image in {self._images}")
        return read_image(path)

    def _embed(
        self, name: str, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> NDArray[np.floating]:
        names = "\n".join(sample.image_id for sample in self._samples)
        key = hashlib.sha256(f"{self._encoder.digest} {self._images} {names}".encode()).hexdigest()
        cache = self._folder.path(f"embeddings_{name}_{key[:16]}.npy")
        if cache.is_file():
            return np.asarray(np.load(cache, allow_pickle=False))
        rows, count = [], len(self._samples)
        for start in range(0, count, self._batch_size):
            part = self._samples[start : start + self._batch_size]
            rows.append(self._encoder([change(self._read(sample.image_id)) for sample in part]))
            self._report(f"embeddings, {name}", start + len(part), count)
        found = np.concatenate(rows)
        content = io.BytesIO()
        np.save(content, found)
        write_atomically(cache, content.getvalue())
        return found


def _measure(
    name: str, cohort: CentreCohort, settings: RobustnessSettings, report: Progress
) -> Measures:
    index = robustness_index(
        cohort, k=settings.k or None, replicates=settings.replicates, seed=settings.seed
    )
    drop, drop_reason = None, ""
    try:
        drop = performance_drop(
            cohort,
            unseen_centres=settings.unseen_centres,
            steps=settings.steps,
            repetitions=settings.repetitions,
            seed=settings.seed,
            report=lambda _text, done, total: report(f"{name}: performance drop", done, total),
        )
    except CohortError as exc:
        drop_reason = str(exc)
    clustering, clustering_reason = None, ""
    try:
        clustering = clustering_score(
            cohort,
            seeds=settings.cluster_seeds,
            max_clusters=settings.max_clusters,
            report=lambda _text, done, total: report(f"{name}: clustering", done, total),
        )
    except CohortError as exc:
        clustering_reason = str(exc)
    return Measures(
        variant=name,
        index=index,
        drop=drop,
        drop_reason=drop_reason,
        clustering=clustering,
        clustering_reason=clustering_reason,
    )
