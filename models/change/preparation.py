"""Two images of one lesion made comparable.

The chain of the PanDerm paper (Nature Medicine 2025, methods, "Short-term change detection"):
dark corners, hair, registration, lesion mask. The originals are never altered: every step gives a
new array and says what it did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.change.cleaning import CornerFlag, HairFlag, remove_dark_corners, remove_hair
from models.change.registration import (
    Registration,
    RegistrationOutcome,
    RegistrationSettings,
    register,
)
from models.errors import ImageError
from models.preprocessing import check_image

MAX_WORKING_SIDE_PX = 1024
"""Longer sides are reduced first: inpainting and key points of a 12-megapixel image take 10 s."""
CROP_MARGIN = 0.3
"""Skin around the lesion in a cropped pair, as a share of the lesion's longer side."""
MAX_GAIN = 2.0
"""Largest gain of a channel in matching colours: more is no light, but another scene."""
MAX_SCALE_RATIO = 4.0
"""Images whose scales differ more were not taken with comparable instruments."""


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Which steps are taken; the paper's ablation switches them one by one."""

    removes_corners: bool = True
    """Step 1, dark corners."""
    removes_hair: bool = True
    """Step 2, hair."""
    registers: bool = True
    """Step 3, the second image is brought onto the first."""
    masks: bool = False
    """Step 4, what lies outside both lesions is filled with the image's mean skin; without a
    registration outside each one's own."""
    matches_colour: bool = True
    """Ours: the second image gets the light of the first, a gain for each channel."""
    crops: bool = True
    """Ours: both images are cut to the lesion where both masks are known and registered."""
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """One image of a pair, ready for the encoder."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB, a new array at working size."""
    painted: NDArray[np.bool_]
    """(h, w) True where pixels were invented."""
    corners: CornerFlag | None
    """Outcome of step 1; None when it was not taken."""
    hair: HairFlag | None
    """Outcome of step 2; None when it was not taken."""
    scale: float
    """Working pixels a source pixel."""


@dataclass(frozen=True, kw_only=True)
class PreparedPair:
    """Two images at one scale; the second in the frame of the first where that was possible."""

    before: PreparedImage
    after: PreparedImage
    registration: RegistrationOutcome | None
    """How they were brought together, in pixels of the working images; None when not tried."""
    source_matrix: NDArray[np.float64] | None
    """(2, 3) from (x, y) pixels of the second source image to those of the first; None without a
    registration. Holds a scale where the images have different ones."""
    crop: tuple[int, int, int, int] | None = None
    """Top, bottom, left and right, in pixels of the first working image, of the part that both
    images were cut to; None when they were not."""

    @property
    def is_registered(self) -> bool:
        """True when the second image lies in the frame of the first."""
        return isinstance(self.registration, Registration)


def prepare_pair(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    settings: PreparationSettings,
    *,
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    spacing_mm: tuple[float | None, float | None] = (None, None),
) -> PreparedPair:
    """Make two images of one lesion comparable.

    Parameters
    ----------
    before, after
        (H, W, 3) uint8 RGB, possibly of different sizes; they are not altered.
    settings
        Steps to take.
    masks
        (H, W) bool lesion of each; needed by the masking step.
    spacing_mm
        Millimetres a pixel of each. Where both are known they give the scale; else both images
        are taken to show one field of view, compared along their diagonals.

    Raises
    ------
    ImageError
        If an image, a mask or a spacing cannot be used, or the scales differ more than
        ``MAX_SCALE_RATIO`` times.

    Notes
    -----
    A failed registration is no error: the pair then comes back unregistered, and says why.
    """
    for image in (before, after):
        check_image(image)
    if masks is not None:
        for image, mask in zip((before, after), masks, strict=True):
            _check_mask(mask, image)
    if settings.masks and masks is None:
        raise ImageError("the masking step needs both lesion masks")
    scales = _working_scales(before.shape, after.shape, spacing_mm)
    first, second = (
        _prepare(image, scale, settings)
        for image, scale in zip((before, after), scales, strict=True)
    )
    outcome = (
        register(first.image, second.image, settings.registration) if settings.registers else None
    )
    if not isinstance(outcome, Registration):
        if settings.masks and masks is not None:
            first, second = (
                _fill_outside(x, m) for x, m in zip((first, second), masks, strict=True)
            )
        return PreparedPair(before=first, after=second, registration=outcome, source_matrix=None)
    second = _warp(second, outcome.matrix, first.image.shape[:2])
    source_matrix = _to_source(outcome.matrix, scales)
    lesions = None if masks is None else _in_first_frame(masks, source_matrix, first)
    if settings.matches_colour:
        second = _with_light_of(first, second, lesions)
    if settings.masks and lesions is not None:
        first, second = (_fill_outside(image, lesions) for image in (first, second))
    crop = None
    if settings.crops and lesions is not None and lesions.any():
        crop = _around(lesions)
        first, second = (_cut(image, crop) for image in (first, second))
    return PreparedPair(
        before=first,
        after=second,
        registration=outcome,
        source_matrix=source_matrix,
        crop=crop,
    )


def _in_first_frame(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    source_matrix: NDArray[np.float64],
    first: PreparedImage,
) -> NDArray[np.bool_]:
    """Both lesions together, at the first working image's size."""
    height, width = masks[0].shape
    moved = cv2.warpAffine(
        masks[1].astype(np.uint8), source_matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    both = (np.asarray(moved) > 0) | masks[0]
    size = (first.image.shape[1], first.image.shape[0])
    return np.asarray(
        cv2.resize(both.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), np.bool_
    )


def _with_light_of(
    first: PreparedImage, second: PreparedImage, lesions: NDArray[np.bool_] | None
) -> PreparedImage:
    """The second image with each channel's median on the skin made that of the first.

    Without masks the whole overlap stands for the skin: a lesion fills less than half of it.
    """
    usable = ~(first.painted | second.painted)
    if lesions is not None and (usable & ~lesions).any():
        usable &= ~lesions
    if not usable.any():
        return second
    medians = [np.median(image.image[usable], axis=0) for image in (first, second)]
    gains = np.clip((medians[0] + 1) / (medians[1] + 1), 1 / MAX_GAIN, MAX_GAIN)
    lit = np.clip(np.round(second.image * gains), 0, 255).astype(np.uint8)
    return replace(second, image=lit)


def _around(lesions: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Frame of a mask with a margin, inside the image."""
    rows, columns = np.nonzero(lesions)
    margin = math.ceil(CROP_MARGIN * (max(np.ptp(rows), np.ptp(columns)) + 1))
    return (
        max(0, int(rows.min()) - margin),
        min(lesions.shape[0], int(rows.max()) + 1 + margin),
        max(0, int(columns.min()) - margin),
        min(lesions.shape[1], int(columns.max()) + 1 + margin),
    )


def _cut(prepared: PreparedImage, crop: tuple[int, int, int, int]) -> PreparedImage:
    part = (slice(crop[0], crop[1]), slice(crop[2], crop[3]))
    return replace(
        prepared, image=prepared.image[part].copy(), painted=prepared.painted[part].copy()
    )


def _check_mask(mask: NDArray[np.bool_], image: NDArray[np.uint8]) -> None:
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        raise ImageError(f"a mask {mask.shape} {mask.dtype} does not fit an image {image.shape}")


def _working_scales(
    first: tuple[int, ...], second: tuple[int, ...], spacing_mm: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Factors by which both images are resized, so that they have one scale."""
    if any(s is not None and not 0 < s < math.inf for s in spacing_mm):
        raise ImageError("a pixel spacing must be positive")
    if spacing_mm[0] is not None and spacing_mm[1] is not None:
        ratio = spacing_mm[1] / spacing_mm[0]
    else:
        ratio = math.hypot(*first[:2]) / math.hypot(*second[:2])
    if not 1 / MAX_SCALE_RATIO <= ratio <= MAX_SCALE_RATIO:
        raise ImageError("the images' scales differ too much to be compared")
    # The finer one is reduced to the coarser: nothing is invented by enlarging.
    scales = (1.0, ratio) if ratio <= 1 else (1 / ratio, 1.0)
    longest = max(max(first[:2]) * scales[0], max(second[:2]) * scales[1])
    limit = min(1.0, MAX_WORKING_SIDE_PX / longest)
    return scales[0] * limit, scales[1] * limit


def _prepare(
    image: NDArray[np.uint8], scale: float, settings: PreparationSettings
) -> PreparedImage:
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    working = np.asarray(
        cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), np.uint8
    )
    painted = np.zeros(working.shape[:2], np.bool_)
    corners: CornerFlag | None = None
    hair: HairFlag | None = None
    if settings.removes_corners:
        cornered = remove_dark_corners(working)
        working, corners, painted = cornered.image, cornered.flag, painted | cornered.painted
    if settings.removes_hair:
        shaved = remove_hair(working)
        working, hair, painted = shaved.image, shaved.flag, painted | shaved.painted
    return PreparedImage(image=working, painted=painted, corners=corners, hair=hair, scale=scale)


def _fill_outside(prepared: PreparedImage, mask: NDArray[np.bool_]) -> PreparedImage:
    """Put one colour, the mean of the skin, outside a mask of any size."""
    height, width = prepared.image.shape[:2]
    small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    filled = prepared.image.copy()
    if not small.all():
        filled[~small] = prepared.image[~small].mean(axis=0).round()
    return replace(prepared, image=filled, painted=prepared.painted | ~small)


def _warp(
    prepared: PreparedImage, matrix: NDArray[np.float64], shape: tuple[int, ...]
) -> PreparedImage:
    size = (shape[1], shape[0])
    image = cv2.warpAffine(
        prepared.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    # Mirrored-in pixels at the border are invented as well.
    painted = cv2.warpAffine(
        prepared.painted.astype(np.uint8),
        matrix,
        size,
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(1,),
    )
    return PreparedImage(
        image=np.asarray(image, np.uint8),
        painted=np.asarray(painted, np.bool_),
        corners=prepared.corners,
        hair=prepared.hair,
        scale=prepared.scale,
    )


def _to_source(matrix: NDArray[np.float64], scales: tuple[float, float]) -> NDArray[np.float64]:
    """Express a motion between working images in pixels of the source images."""
    steps = [
        np.array(
            [[1 / scales[0], 0, 0.5 / scales[0] - 0.5], [0, 1 / scales[0], 0.5 / scales[0] - 0.5]]
        ),
        matrix,
        np.array([[scales[1], 0, 0.5 * scales[1] - 0.5], [0, scales[1], 0.5 * scales[1] - 0.5]]),
    ]
    whole = np.eye(3)
    for step in steps:
        whole = whole @ np.vstack([step, [0, 0, 1]])
    return np.asarray(whole[:2])
