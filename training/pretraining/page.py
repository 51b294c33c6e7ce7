"""The page of a pretraining run: curves, spread, masks and nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import plots
from training.errors import CohortError
from training.pretraining.monitor import COLLAPSED_STD, nearest
from training.pretraining.settings import PretrainSettings
from training.pretraining.stream import ImageList, MaskedImages
from training.report import Page

EXAMPLES = 8
QUERIES = 6
NEIGHBOURS = 5
HIDDEN_GREY = 128
GAP_PX = 4


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a finished run has to show."""

    settings: PretrainSettings
    images: ImageList
    teacher: str
    """One sentence about the teacher."""
    origin: Mapping[str, str]
    """Digests of images, teacher and start weights."""
    history: Sequence[Mapping[str, float]]
    """One row an epoch."""
    bad: Sequence[str]
    """Names of images that could not be decoded."""
    features: NDArray[np.float32]
    """(B, D) class tokens of some images."""
    views: NDArray[np.uint8]
    """(B, S, S, 3) those images."""


def hide_masked(
    image: NDArray[np.uint8], masked: NDArray[np.bool_], patch_size: int
) -> NDArray[np.uint8]:
    """Paint the masked patches grey.

    Parameters
    ----------
    image
        (H, W, 3) uint8.
    masked
        (H / patch_size, W / patch_size) bool.
    """
    hidden = masked.repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    return np.where(hidden[:, :, None], np.uint8(HIDDEN_GREY), image)


def row_of(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images (S, S, 3) side by side with white gaps, (S, W, 3)."""
    gap = np.full((len(images[0]), GAP_PX, 3), 255, np.uint8)
    parts = [part for image in images for part in (image, gap)]
    return np.concatenate(parts[:-1], axis=1)


def write_page(found: Findings, path: Path) -> None:
    """Write ``report.html``.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    settings = found.settings
    page = Page("Pretraining: masked latent alignment")
    page.text(
        f"{len(found.images.paths)} images, {len(found.history)} epochs. {found.teacher}\n\n"
        f"{settings.masking.count} of {settings.encoder.grid**2} patches masked "
        f"({settings.masking.mode}), encoder {settings.encoder.dim} wide, "
        f"{settings.encoder.depth} deep, {settings.encoder.image_size} px.\n\n"
        "Loss and spread compare epochs of one run; whether the features are of use, only a "
        "probe on labelled images of other patients tells."
    )
    spread = [row.get("feature_std", np.nan) for row in found.history]
    if spread and spread[-1] < COLLAPSED_STD:
        page.notice(
            f"The features have collapsed: feature_std is {spread[-1]:.3f}, below "
            f"{COLLAPSED_STD}. All images look nearly alike to this encoder; do not use it."
        )
    if found.bad:
        page.notice(f"Left out, for they cannot be decoded: {len(found.bad)}, see bad_images.csv.")
    page.figure(
        "Learning curves",
        plots.learning_curves(found.history),
        "Losses are 1 - cosine, from 0 to 2. feature_std near 0 means collapse.",
    )
    page.table("Last epochs", found.history[-5:])
    page.images("What the encoder sees", _masks(found))
    page.images("Nearest neighbours", _neighbours(found))
    page.write(path)


def _masks(found: Findings) -> list[tuple[NDArray[np.uint8], str]]:
    settings = found.settings
    grid, patch = settings.encoder.grid, settings.encoder.patch_size
    stream = MaskedImages(found.images, settings, epoch=0, skip_bad=True)
    shown = []
    for index in range(min(EXAMPLES, len(stream))):
        try:
            image, masked, _ = stream[index]
        except CohortError:  # more than a hundred bad files in a row: the page says so already
            continue
        seen = hide_masked(image, masked.reshape(grid, grid), patch)
        shown.append((row_of([image, seen]), "augmented; what stays visible"))
    return shown


def _neighbours(found: Findings) -> list[tuple[NDArray[np.uint8], str]]:
    """Rows of a query and its neighbours; names stay out, for they may be a patient's."""
    shown = []
    for query, others in enumerate(nearest(found.features, QUERIES, NEIGHBOURS)):
        strip = row_of([found.views[i] for i in (query, *others)])
        shown.append((strip, f"query {query + 1}, then its nearest by cosine"))
    return shown
