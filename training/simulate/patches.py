"""Real H&E patches that simulated slides are made of."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.slide.stain import LabStatistics, lab_statistics
from training.cohorts import find_file, read_image, read_mask
from training.errors import CohortError

Split: TypeAlias = Literal["development", "calibration", "held_out"]
"""What a slide is for."""


@dataclass(frozen=True, eq=False)
class Patch:
    """One real image."""

    name: str
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, at least one cell large."""
    tumour: NDArray[np.bool_]
    """(H, W) metastasis."""
    rows: tuple[int, int] | None
    """Rows, relative to the patch, that belong to development; None: all belong to ``split``."""
    colours: LabStatistics
    """Of the real slide it comes from."""
    split: Split
    """With ``rows`` None: which slides use it."""


def labelled_patches(data: Path, development_rows: Mapping[str, tuple[int, ...]]) -> list[Patch]:
    """Read the lymph-node patches with their metastasis masks.

    Parameters
    ----------
    data
        Folder that holds ``camelyon16_patches``.
    development_rows
        Real slide -> first and last row (level 0) of what development may use.

    Raises
    ------
    CohortError
        If the table, an image or a mask is missing or does not fit.
    """
    folder = data / "camelyon16_patches"
    try:
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as handle:
            records = list(csv.DictReader(handle))
        wanted = [(r["name"], r["slide"], r["label"], int(r["y_level0"])) for r in records]
    except (OSError, KeyError, ValueError) as exc:
        raise CohortError(f"{folder / 'labels.csv'} cannot be read as a table of patches") from exc
    images = {name: _read(folder / "images", name) for name, *_ in wanted}
    colours = {
        slide: _statistics([images[name] for name, where, *_ in wanted if where == slide])
        for slide in {where for _, where, *_ in wanted}
    }
    patches = []
    for name, slide, label, y_level0 in wanted:
        if slide not in development_rows:
            raise CohortError(f"development_rows names no rows of {slide}")
        first, last = development_rows[slide]
        image = images[name]
        tumour = np.zeros(image.shape[:2], np.bool_)
        mask = find_file(folder / "masks", name)
        if mask is not None:
            tumour = read_mask(mask) > 0
        elif label == "tumor":
            raise CohortError(f"{name} has no mask")
        if tumour.shape != image.shape[:2]:
            raise CohortError(f"{name}: mask {tumour.shape} does not fit image {image.shape[:2]}")
        rows = (first - y_level0, last - y_level0)
        patches.append(Patch(name, image, tumour, rows, colours[slide], "development"))
    return patches


def background_patches(
    data: Path, *, calibration_files: Collection[str], held_out_files: Collection[str]
) -> list[Patch]:
    """Tissue of other organs and laboratories, none of it a metastasis in a lymph node."""
    patches = []
    for path in sorted((data / "monuseg_test" / "images").glob("*")):
        image = _read(path.parent, path.stem)
        none = np.zeros(image.shape[:2], np.bool_)
        split: Split = "development"
        if path.stem in calibration_files:
            split = "calibration"
        elif path.stem in held_out_files:
            split = "held_out"
        patches.append(Patch(path.stem, image, none, None, _statistics([image]), split))
    return patches


def read_styles(data: Path) -> tuple[LabStatistics, ...]:
    """Colours of real laboratories; the first is the patches' own."""
    folders = ("camelyon16_patches/images", "monuseg_test/images", "stain_tiles")
    paths = [path for folder in folders for path in sorted((data / folder).glob("*.[jp][pn]g"))]
    if not paths:
        raise CohortError(f"{data} holds no patches")
    return tuple(_statistics([_read(path.parent, path.stem)]) for path in paths)


def _statistics(images: Sequence[NDArray[np.uint8]]) -> LabStatistics:
    # Every fourth pixel of each: enough for a mean and a deviation.
    pixels = np.concatenate([image[::4, ::4].reshape(-1, 1, 3) for image in images])
    return lab_statistics(pixels)


def _read(folder: Path, name: str) -> NDArray[np.uint8]:
    path = find_file(folder, name)
    if path is None:
        raise CohortError(f"{name}: no image in {folder}")
    return read_image(path)
