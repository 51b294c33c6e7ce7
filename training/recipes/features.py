"""Recipe that embeds a folder of images once, for whatever is trained on embeddings."""

from __future__ import annotations

import argparse
import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.backbones import COMPACT, HELP, name_of, notice_of, open_backbone
from training.cohorts import IMAGE_SUFFIXES, find_file, read_image, read_rows
from training.errors import CohortError
from training.features.extraction import FRAMINGS, Extraction, extract_features
from training.report import Page
from training.runs import Progress, RunFolder, device, write_atomically
from training.settings import read_toml

SUMMARY = "embed a folder of images once per image and encoder"
FEATURES = "features.npz"
_EXAMPLES = 8
_COMPONENTS = 64


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What decides the embeddings beside the encoder and the images."""

    recipe: Literal["features"]
    framing: Literal["reference", "whole"]
    """PanDerm's framing (shorter side 256, centre 224), or the whole image squashed."""
    batch_size: int
    """Images decoded and encoded at a time."""

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe's arguments."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--table", type=Path, help="CSV file naming the images; default: all")
    parser.add_argument("--image-column", default="image_id")
    parser.add_argument("--backbone", default=COMPACT, help=HELP)
    parser.add_argument("--cache", type=Path, help="folder of stored features; default: OUT/cache")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be read, and say so"
    )


def run(options: argparse.Namespace, report: Progress) -> None:
    """Embed the images; ``features.npz`` and ``report.html`` are the result.

    Raises
    ------
    TrainingError
        If the settings, the images or the store cannot be used.
    ModelError
        If the encoder cannot be loaded.
    """
    settings = read_toml(options.config, FeatureSettings)
    folder = RunFolder(options.out, recipe="features", settings=settings)
    files = find_images(options.data, options.table, options.image_column)
    backbone, digest = open_backbone(options.backbone)
    started = time.monotonic()
    extraction = extract_features(
        files,
        backbone=backbone,
        digest=digest,
        framing=settings.framing,
        cache=options.cache or folder.path("cache"),
        batch_size=settings.batch_size,
        device=device(),
        is_lenient=options.skip_bad,
        progress=report,
    )
    seconds = time.monotonic() - started
    extraction.features.save(folder.path(FEATURES))
    write_skipped(folder.path("skipped.csv"), extraction.skipped)
    page = Page("Features")
    if notice_of(options.backbone):
        page.notice(notice_of(options.backbone))
    describe_features(page, extraction, name_of(options.backbone), seconds)
    places = dict(files)
    _, prepare = FRAMINGS[settings.framing]
    shown = extraction.features.ids[:_EXAMPLES]
    page.images(
        "What the encoder sees of the first images",
        [(prepare(read_image(places[image_id])), image_id) for image_id in shown],
    )
    page.write(folder.path("report.html"))


def find_images(folder: Path, table: Path | None, column: str) -> list[tuple[str, Path]]:
    """Image id and file of every image of a folder, or of those a table names.

    Raises
    ------
    CohortError
        If there is none, one of the table is missing, or two files have one name.
    """
    if table is not None:
        named = []
        for row in read_rows(table, image_column=column):
            path = find_file(folder, row.image_id)
            if path is None:
                raise CohortError(f"{row.image_id}: no image in {folder}")
            named.append((row.image_id, path))
        return named
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as exc:
        raise CohortError(f"{folder}: {exc.strerror}") from exc
    if not paths:
        raise CohortError(f"{folder} holds no image")
    files: dict[str, Path] = {}
    for path in paths:
        if path.stem in files:
            raise CohortError(f"{files[path.stem].name} and {path.name} have one name")
        files[path.stem] = path
    return list(files.items())


def write_skipped(path: Path, skipped: tuple[tuple[str, str], ...]) -> None:
    """Write the images that were left out, with the reason of each."""
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(("image_id", "reason"))
    writer.writerows(skipped)
    write_atomically(path, content.getvalue().encode("utf-8", "replace"))


def describe_features(page: Page, extraction: Extraction, backbone: str, seconds: float) -> None:
    """Add what was embedded by what, what was left out, and how the embeddings spread."""
    features = extraction.features
    page.table(
        "Run",
        [
            {"what": "encoder", "value": backbone},
            {"what": "digest of the encoder", "value": features.backbone},
            {"what": "framing", "value": FRAMINGS[features.framing][0]},
            {"what": "images embedded", "value": str(len(features.ids))},
            {"what": "width of an embedding", "value": str(features.values.shape[1])},
            {"what": "computed in this run", "value": str(extraction.computed)},
            {"what": "left out", "value": str(len(extraction.skipped))},
            {"what": "seconds", "value": f"{seconds:.1f}"},
        ],
    )
    if extraction.skipped:
        page.table(
            "Images left out",
            [{"image": image_id, "reason": reason} for image_id, reason in extraction.skipped],
        )
    page.figure(
        "Spread of the embeddings",
        spread(features.values),
        "Left: share of the variance that the first principal components explain; a curve that "
        "jumps to one at once means that the encoder says the same of every image. Right: "
        "lengths of the embeddings.",
    )


def spread(values: NDArray[np.float32]) -> Figure:
    """Explained variance and lengths of embeddings (N, D)."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    centred = values - values.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T.astype(np.float64) @ centred)[::-1].clip(min=0)
    total = variances.sum()
    shares = np.cumsum(variances[:_COMPONENTS]) / total if total > 0 else np.zeros(1)
    left.plot(np.arange(1, len(shares) + 1), shares, color="#0072B2")
    left.set(xlabel="principal components", ylabel="explained variance", ylim=(0, 1.02))
    right.hist(np.linalg.norm(values, axis=1), bins=30, color="#0072B2")
    right.set(xlabel="length of the embedding", ylabel="images")
    return figure
