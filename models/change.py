"""Short-term change of one lesion: two images made comparable, growth measured.

The chain of the PanDerm paper (Nature Medicine 2025, methods, "Short-term change detection"):
dark corners, hair, registration, lesion mask. The originals are never altered: every step gives a
new array and says what it did. Whether the lesion changed is for the network that sees both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.cleaning import CornerFlag, HairFlag, remove_dark_corners, remove_hair
from models.errors import ImageError
from models.manifest import Manifest
from models.preprocessing import check_image
from models.registration import (
    Registration,
    RegistrationFailure,
    RegistrationOutcome,
    RegistrationSettings,
    register,
)

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
    """Step 4, what lies outside both lesions is filled with the image's mean skin."""
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
    first = _prepare(before, scales[0], settings, masks[0] if masks else None)
    second = _prepare(after, scales[1], settings, masks[1] if masks else None)
    if not settings.registers:
        return PreparedPair(before=first, after=second, registration=None, source_matrix=None)
    outcome = register(first.image, second.image, settings.registration)
    if isinstance(outcome, RegistrationFailure):
        return PreparedPair(before=first, after=second, registration=outcome, source_matrix=None)
    second = _warp(second, outcome.matrix, first.image.shape[:2])
    source_matrix = _to_source(outcome.matrix, scales)
    lesions = None if masks is None else _in_first_frame(masks, source_matrix, first)
    if settings.matches_colour:
        second = _with_light_of(first, second, lesions)
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
    image: NDArray[np.uint8],
    scale: float,
    settings: PreparationSettings,
    mask: NDArray[np.bool_] | None,
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
    if settings.masks and mask is not None:
        small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        working, painted = _fill_outside(working, small), painted | ~small
    return PreparedImage(image=working, painted=painted, corners=corners, hair=hair, scale=scale)


def _fill_outside(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Put one colour, the mean of the skin, outside the lesion."""
    filled = image.copy()
    if not mask.all():
        filled[~mask] = image[~mask].mean(axis=0).round()
    return filled


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


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a lesion's area changed."""

    before_px: float
    """Area before, in square pixels of the first image."""
    after_px: float
    """Area after, in square pixels of the first image."""
    growth_px: float
    """Difference."""
    relative: float | None
    """Difference over the area before; None when that is zero."""
    growth_mm2: float | None
    """Difference in mm²; None when the first image's spacing is unknown."""
    gained_px: float | None
    """Area that belongs to the lesion only after; None without a registration."""
    lost_px: float | None
    """Area that belonged to the lesion only before; None without a registration."""


def measure_growth(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    source_matrix: NDArray[np.float64] | None,
    *,
    spacing_mm: tuple[float | None, float | None] = (None, None),
) -> Growth | None:
    """Compare a lesion's area at two times.

    Parameters
    ----------
    before, after
        (H, W) bool masks of the two source images.
    source_matrix
        ``PreparedPair.source_matrix``; None when the images were not registered.
    spacing_mm
        Millimetres a pixel of each image.

    Returns
    -------
    Growth or None
        None when nothing gives the images' common scale: neither a registration nor both
        spacings.

    Notes
    -----
    The area after is the mask's own times the motion's scale, so that a lesion that leaves the
    first image's frame is not cut there; gained and lost areas are counted inside that frame.
    """
    first_mm, second_mm = spacing_mm
    gained = lost = None
    if first_mm is not None and second_mm is not None:
        area_ratio = (second_mm / first_mm) ** 2
    elif source_matrix is not None:
        area_ratio = abs(float(np.linalg.det(source_matrix[:, :2])))
    else:
        return None
    if source_matrix is not None:
        moved = cv2.warpAffine(
            after.astype(np.uint8),
            source_matrix,
            (before.shape[1], before.shape[0]),
            flags=cv2.INTER_NEAREST,
        )
        gained = float(np.count_nonzero((moved > 0) & ~before))
        lost = float(np.count_nonzero((moved == 0) & before))
    before_px = float(np.count_nonzero(before))
    after_px = float(np.count_nonzero(after)) * area_ratio
    growth = after_px - before_px
    return Growth(
        before_px=before_px,
        after_px=after_px,
        growth_px=growth,
        relative=growth / before_px if before_px else None,
        growth_mm2=None if first_mm is None else growth * first_mm**2,
        gained_px=gained,
        lost_px=lost,
    )


def change_probability(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Calibrated probability of change, (B,) in [0, 1], from the network's logits (B,).

    Examples
    --------
    >>> change_probability(np.array([0.0, 800.0, -800.0]), 1.5).tolist()
    [0.5, 1.0, 0.0]
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive")
    # Written with tanh: exp would overflow for large logits.
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(logits, np.float64) / (2 * temperature))))


@dataclass(frozen=True, kw_only=True)
class ChangeManifest(Manifest):
    """What travels with the weights of change detection."""

    embedding_dim: int
    """Features of an embedding."""
    hidden: int
    """Width of the fully connected layer."""
    projection: int
    """Features of the contrastive embedding."""
    encoder_digest: str
    """SHA-256 of the encoder whose embeddings the head was trained on."""
    temperature: float
    """Divides the logit, positive."""
    threshold: float
    """Probability in (0, 1) from which a lesion is called changed."""
    threshold_meaning: str
    """What the threshold was chosen for."""
    margin: float
    """Distance that the contrastive loss asked of changed pairs."""
    preparation: PreparationSettings
    """Steps that the pair must go through."""

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        return {
            "embedding_dim": lambda: self.embedding_dim > 0,
            "encoder_digest": lambda: (
                len(self.encoder_digest) == 64
                and set(self.encoder_digest) <= set("0123456789abcdef")
            ),
            "hidden": lambda: self.hidden > 0,
            "projection": lambda: self.projection > 0,
            "temperature": lambda: 0 < self.temperature < math.inf,
            "threshold": lambda: 0 < self.threshold < 1,
            "margin": lambda: 0 < self.margin < math.inf,
        }
