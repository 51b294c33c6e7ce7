"""Changing the look of a real skin image: its colours, its light, how it was held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.augment import draw_hair
from training.cohorts import Cohort, Row, find_file, read_image, read_mask, read_rows
from training.errors import CohortError

IMAGE_COLUMN, LABEL_COLUMN, GROUP_COLUMN = "image_id", "dx", "group_id"


def read_lesions(folder: Path, labels: Sequence[str]) -> Cohort:
    """Read the lesions that a simulator starts from.

    Parameters
    ----------
    folder
        ``labels.csv`` with the columns ``image_id``, ``dx`` and ``group_id``, ``images/`` and
        ``masks/``.
    labels
        Values of ``dx`` that are taken.

    Raises
    ------
    CohortError
        If the table cannot be used, a label has no lesion, or a file is missing.
    """
    rows = read_rows(
        folder / "labels.csv",
        image_column=IMAGE_COLUMN,
        label_column=LABEL_COLUMN,
        group_column=GROUP_COLUMN,
        label_map={label: label for label in labels},
    )
    absent = set(labels) - {row.label for row in rows}
    if absent:
        raise CohortError(f"{folder / 'labels.csv'}: no lesion has label {sorted(absent)}")
    return Cohort(rows=rows, images=folder / "images", masks=folder / "masks")


def load_lesion(cohort: Cohort, row: Row) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image (H, W, 3) and mask (H, W) of one lesion.

    Raises
    ------
    CohortError
        If a file is missing or cannot be decoded, or the mask is empty or of another size.
    """
    found = [find_file(folder, row.image_id) for folder in (cohort.images, cohort.masks) if folder]
    if len(found) != 2 or found[0] is None or found[1] is None:
        raise CohortError(f"{row.image_id}: an image and a mask are needed")
    image, mask = read_image(found[0]), read_mask(found[1]) > 0
    if mask.shape != image.shape[:2] or not mask.any():
        raise CohortError(f"{row.image_id}: the mask is empty or of another size")
    return image, mask


def to_lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIELAB (H, W, 3) float32: L* in [0, 100], a* and b* around 0."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Back to RGB (H, W, 3) uint8; colours out of gamut are clipped."""
    rgb = cv2.cvtColor(np.ascontiguousarray(lab, np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(np.round(np.asarray(rgb) * 255), 0, 255), np.uint8)


def soften(mask: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float32]:
    """Mask with a soft edge, (H, W) in [0, 1]."""
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma_px))


def recolour(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    skin: NDArray[np.floating],
    lesion: NDArray[np.floating],
) -> NDArray[np.uint8]:
    """Shift skin and lesion so that their mean colours become the given ones.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) bool.
    skin, lesion
        Mean (L*, a*, b*) outside and inside.

    Returns
    -------
    ndarray
        (H, W, 3) uint8; texture stays, colours out of gamut are clipped.
    """
    lab = to_lab(image)
    outside_mean = lab[~mask].mean(axis=0) if (~mask).any() else lab.mean(axis=(0, 1))
    inside_mean = lab[mask].mean(axis=0) if mask.any() else outside_mean
    inside = soften(mask, 1.5) * _darkness(
        lab[..., 0], float(outside_mean[0]), float(inside_mean[0])
    )
    # The share of the mask that is skin must not weaken the shift of the mean.
    weight = inside[mask].mean() if mask.any() else 1.0
    shift = skin - outside_mean
    more = (lesion - inside_mean - shift) / max(float(weight), 0.3)
    return from_lab((lab + shift + inside[..., None] * more).astype(np.float32))


def _darkness(
    lightness: NDArray[np.float32], skin: float, lesion: float
) -> NDArray[np.floating] | float:
    """How much of a lesion each pixel is, in [0, 1]: masks are drawn wide and hold skin as well."""
    if skin - lesion < 5:
        return 1.0
    return np.asarray(np.clip((skin - lightness) / (skin - lesion), 0, 1))


@dataclass(frozen=True, kw_only=True)
class ReimagingSettings:
    """How much two pictures of one unchanged lesion differ; each is a largest half-range."""

    rotation_deg: float
    """The instrument is turned."""
    shift: float
    """And set down beside the place, as a share of the longer side."""
    light: float
    """Relative change of brightness."""
    tint: float
    """Relative gain of one colour channel."""
    hair_prob: float
    """Probability of drawn hair."""
    blur_prob: float
    """Probability of a blur."""
    noise: float
    """Standard deviation of the sensor's noise, in grey values."""


def reimage(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: ReimagingSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Take another picture of the same skin.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) bool.

    Returns
    -------
    tuple of ndarray
        The same shapes; what comes in from outside the frame is mirrored.
    """
    height, width = mask.shape
    angle = rng.uniform(-1, 1) * settings.rotation_deg
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    matrix[:, 2] += rng.uniform(-1, 1, 2) * settings.shift * max(height, width)
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    moved_mask = cv2.warpAffine(
        mask.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    gains = (1 + rng.uniform(-1, 1) * settings.light) * (1 + rng.uniform(-1, 1, 3) * settings.tint)
    lit = np.asarray(moved, np.float64) * gains
    if rng.random() < settings.blur_prob:
        lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.3, 0.8)))
    lit = lit + rng.normal(0, settings.noise, lit.shape)
    picture = np.ascontiguousarray(np.clip(np.round(lit), 0, 255).astype(np.uint8))
    if rng.random() < settings.hair_prob:
        draw_hair(rng, picture)
    return picture, moved_mask > 0
