"""Stain normalisation of H&E images: Reinhard and Macenko.

Both bring an image's colours to those of a target. They change appearance, never shape, and they
take away only a part of what betrays the laboratory.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError
from models.preprocessing import check_image

WHITE_LEVEL = 240.0
"""Grey level of unstained glass (Macenko's Io)."""
MIN_DENSITY = 0.15
"""Optical density below which a pixel is glass (Macenko's beta)."""
ANGLE_PERCENTILE = 1.0
"""Percentile of the angles at either end that is taken for a pure stain (Macenko's alpha)."""
TOP_PERCENTILE = 99.0
"""Percentile of a stain's concentration that is brought to the target's."""
MIN_PIXELS = 50
"""Fewest stained pixels from which colours can be estimated."""
_MIN_SPREAD = 1e-3


@dataclass(frozen=True, kw_only=True)
class LabStatistics:
    """Colours of the stained pixels of an image or a slide in CIE Lab."""

    mean: tuple[float, float, float]
    """L in 0 to 100, a and b."""
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class StainBasis:
    """The two stains of an image."""

    vectors: NDArray[np.float64]
    """(2, 3) unit optical density of haematoxylin, then eosin, R G B."""
    top: NDArray[np.float64]
    """(2,) 99th percentile of their concentrations."""


def optical_density(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Optical density (H, W, 3) of an image (H, W, 3) uint8 RGB: ``-log((I + 1) / 240)``."""
    check_image(image)
    levels = -np.log((np.arange(256) + 1) / WHITE_LEVEL)
    return np.asarray(levels[image])


def stained_pixels(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels that are not glass, (H, W): mean optical density of at least ``MIN_DENSITY``."""
    check_image(image)
    thirds = (-np.log((np.arange(256) + 1) / WHITE_LEVEL) / 3).astype(np.float32)
    red, green, blue = (np.asarray(cv2.LUT(image[..., i], thirds)) for i in range(3))
    return np.asarray(red + green + blue >= MIN_DENSITY)


def lab_statistics(
    image: NDArray[np.uint8], pixels: NDArray[np.bool_] | None = None
) -> LabStatistics:
    """Mean and deviation of the stained pixels in Lab.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    pixels
        (H, W) which pixels count; None for ``stained_pixels``.

    Raises
    ------
    ImageError
        If it is no RGB image, or fewer than ``MIN_PIXELS`` pixels count.
    """
    chosen = _to_lab(image)[stained_pixels(image) if pixels is None else pixels]
    if len(chosen) < MIN_PIXELS:
        raise ImageError(f"{len(chosen)} stained pixels, at least {MIN_PIXELS} are needed")
    mean, std = chosen.mean(axis=0, dtype=np.float64), chosen.std(axis=0, dtype=np.float64)
    return LabStatistics(
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )


def reinhard(
    image: NDArray[np.uint8],
    target: LabStatistics,
    *,
    source: LabStatistics | None = None,
    pixels: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Bring mean and deviation of the stained pixels to the target's.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    target
        Colours to reach.
    source
        Colours of the whole slide, so that a tile of stroma does not get the colours of one of
        tumour; None for the image's own.
    pixels
        (H, W) which pixels are changed; None for ``stained_pixels``.

    Returns
    -------
    ndarray
        (H, W, 3) uint8 RGB; glass is left as it is.

    Raises
    ------
    ImageError
        If it is no RGB image, or has too few stained pixels to estimate ``source``.

    References
    ----------
    Reinhard et al., Color Transfer between Images, IEEE CG&A 21(5), 2001, eq. 10 and 11; in CIE
    Lab in place of their lab, as is usual in pathology.
    """
    chosen = stained_pixels(image) if pixels is None else pixels
    known = lab_statistics(image, chosen) if source is None else source
    gain = np.array(target.std) / np.maximum(known.std, _MIN_SPREAD)
    shift = np.array(target.mean) - np.array(known.mean) * gain
    moved = _to_lab(image) * gain.astype(np.float32) + shift.astype(np.float32)
    rgb = np.asarray(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB))
    levels = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return np.where(chosen[..., np.newaxis], levels, image)


def _to_lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    check_image(image)
    lab: NDArray[np.float32] = np.asarray(
        cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32
    )
    return lab


def fit_macenko(image: NDArray[np.uint8]) -> StainBasis:
    """Estimate the two stains of an image.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB of H&E.

    Raises
    ------
    ImageError
        If it is no RGB image, has too few stained pixels, or only one stain.

    References
    ----------
    Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI
    2009, algorithm 1.
    """
    density = optical_density(image).reshape(-1, 3)
    stained = density[(density >= MIN_DENSITY).all(axis=1)]
    if len(stained) < MIN_PIXELS:
        raise ImageError(f"{len(stained)} stained pixels, at least {MIN_PIXELS} are needed")
    _, directions = np.linalg.eigh(np.cov(stained.T))
    plane = directions[:, :0:-1]  # (3, 2), the two largest
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)  # densities are positive
    along = stained @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, (ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE))
    pair = np.stack([plane @ (np.cos(end), np.sin(end)) for end in ends])
    if abs(float(pair[0] @ pair[1])) > 1 - 1e-6:
        raise ImageError("the image shows only one stain")
    if pair[0, 0] < pair[1, 0]:  # haematoxylin takes more red light than eosin
        pair = pair[::-1]
    top = np.percentile(_concentrations(stained, pair), TOP_PERCENTILE, axis=0)
    if (top <= 0).any():
        raise ImageError("the image shows only one stain")
    return StainBasis(vectors=pair, top=top)


def macenko(
    image: NDArray[np.uint8], target: StainBasis, *, source: StainBasis | None = None
) -> NDArray[np.uint8]:
    """Replace the stains of an image by the target's.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB of H&E.
    target
        Stains to reach.
    source
        Stains of the whole slide; None for the image's own.

    Returns
    -------
    ndarray
        (H, W, 3) uint8 RGB. Glass may change by a few levels, since it has some density too.

    Raises
    ------
    ImageError
        As ``fit_macenko``.
    """
    known = fit_macenko(image) if source is None else source
    density = optical_density(image).reshape(-1, 3)
    amounts = _concentrations(density, known.vectors) * (target.top / known.top)
    levels = WHITE_LEVEL * np.exp(-amounts @ target.vectors) - 1
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(image.shape)


def _concentrations(
    density: NDArray[np.float64], vectors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least-squares amounts (P, 2) of the two stains in densities (P, 3)."""
    return np.asarray(density @ np.linalg.pinv(vectors))
