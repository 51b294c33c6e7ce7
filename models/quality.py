"""Whether an image can be assessed at all, judged before any network sees it.

Limits were set so that no real image is refused that a reader would use: the extremes named
beside each were measured on 5,255 dermoscopic and clinical images (HAM10000, ISIC nevus and
melanoma, ISIC 2017, PH2, PAD-UFES-20), of which none is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocessing import check_image
from models.results import ImageQuality

WORKING_SIZE = 256
"""Shorter side in pixels at which everything is measured, so that limits do not depend on the
camera and a 100-megapixel image costs no more than its reduction."""
MIN_SIDE_PX = 64
"""Below it a lesion has too few pixels for structure; smallest real image 147."""
LOW_RESOLUTION_PX = 168
"""Three quarters of the network's input: below it the image is enlarged noticeably."""
MAX_ASPECT = 5.0
"""Longer over shorter side; a strip is no photograph of a lesion. Real images reach 1.8."""
MIN_RANGE = 15.0
"""Grey levels between the 1st and 99th percentile after smoothing; real images have 22 or more."""
BLACK_LEVEL, MAX_BLACK = 16, 0.85
"""Grey level that counts as black, and the share at which nothing is left to see. Dark corners
reach 0.50."""
WHITE_LEVEL, MAX_WHITE = 250, 0.70
"""Level that all channels exceed where the sensor is saturated, and the share at which nothing is
left to see; gel reflections and white frames reach 0.36."""
NOTABLE_BLACK, NOTABLE_WHITE = 0.35, 0.25
"""Shares worth a remark; exceeded by 1 in 200 real images."""
BLUR_SIGMA_PX = 2.0
"""Test blur of ``gradient_kept`` at the working size."""
MAX_GRADIENT_KEPT = 0.78
"""Share of the gradient that survives the test blur; a sharp image loses most of it. Real images
reach 0.67, images blurred by 4 px keep 0.81 to 0.98."""
SOFT_GRADIENT_KEPT = 0.60
"""Share worth a remark; exceeded by 1 in 200 real images."""
MIN_CHROMA = 5.0
"""Mean spread of the channels in grey levels; real images have 8 or more, greyscale ones 0."""
MAX_GREEN_EXCESS, MAX_BLUE_EXCESS = 10.0, 50.0
"""Green over the next channel, and blue over red, in grey levels of the mean colour. Skin is
reddest: real images stay below 2 for green; 1 in 300 exceeds 50 for blue."""

UNREADABLE = "the image could not be read"
"""How the reason begins when the pixel data cannot be decoded; what follows says why."""


class Reason(StrEnum):
    """What forbids an assessment, in words; reports have a code for each."""

    TOO_SMALL = f"image too small (shorter side under {MIN_SIDE_PX} pixels)"
    STRIP = "image far longer than wide"
    BLACK = "image almost entirely black"
    OVEREXPOSED = "image almost entirely overexposed"
    UNIFORM = "image almost uniform"
    BLURRED = "image extremely blurred"
    OUT_OF_DISTRIBUTION = "image unlike the images the model was trained on"


class Remark(StrEnum):
    """What is worth saying and forbids nothing, in words; reports have a code for each."""

    LOW_RESOLUTION = "low resolution"
    SOFT_FOCUS = "soft focus"
    DARK_AREA = "large dark area"
    OVEREXPOSED_AREA = "large overexposed area"
    NO_COLOUR = "almost no colour"
    COLOUR_CAST = "strong colour cast"
    FAR_FROM_TRAINING = "image unlike most of the images the model was trained on"
    NO_LESION = "no lesion could be outlined"
    NOT_DERMOSCOPIC = "not marked as dermoscopic; the model is made for dermoscopic images"


@dataclass(frozen=True, kw_only=True)
class QualityMeasures:
    """What ``assess_quality`` judges, measured at the working size."""

    grey_range: float
    """Grey levels between the 1st and 99th percentile after smoothing."""
    black_share: float
    """Share of almost black pixels in [0, 1]."""
    white_share: float
    """Share of saturated pixels in [0, 1]."""
    gradient_kept: float
    """Share of the gradient that survives the test blur in [0, 1]; 1 is blurred."""
    chroma: float
    """Mean spread of the channels in grey levels."""
    mean_colour: tuple[float, float, float]
    """Mean R, G, B in grey levels."""


def assess_quality(image: NDArray[np.uint8]) -> ImageQuality:
    """Judge whether an image can be assessed.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB of any size.

    Returns
    -------
    ImageQuality
        Reasons that forbid an assessment, and remarks that do not.

    Raises
    ------
    ImageError
        If the array is not an RGB image.

    Notes
    -----
    Says nothing about content: a sharp photograph of a dog passes here and is for the
    out-of-distribution check.
    """
    check_image(image)
    shorter, longer = sorted(image.shape[:2])
    if shorter < MIN_SIDE_PX:
        return ImageQuality(reasons=(Reason.TOO_SMALL,))
    if longer > MAX_ASPECT * shorter:
        return ImageQuality(reasons=(Reason.STRIP,))
    measures = measure_quality(image)
    reasons = _reasons(measures)
    if reasons:
        return ImageQuality(reasons=reasons)
    return ImageQuality(warnings=_warnings(measures, shorter))


def measure_quality(image: NDArray[np.uint8]) -> QualityMeasures:
    """Measure an image at the working size.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.

    References
    ----------
    Crete et al., The Blur Effect, SPIE Human Vision and Electronic Imaging 2007 (comparing an
    image with its own blur).
    """
    height, width = image.shape[:2]
    factor = WORKING_SIZE / min(height, width)
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), BLUR_SIGMA_PX)
    gradient = _gradient(grey)
    low, high = np.percentile(smooth, (1, 99))
    mean = image.reshape(-1, 3).mean(axis=0)
    spread = image.max(axis=2).astype(np.int16) - image.min(axis=2)
    return QualityMeasures(
        grey_range=float(high - low),
        black_share=float((grey < BLACK_LEVEL).mean()),
        white_share=float((image.min(axis=2) > WHITE_LEVEL).mean()),
        gradient_kept=min(1.0, _gradient(smooth) / gradient) if gradient > 0 else 1.0,
        chroma=float(spread.mean()),
        mean_colour=(float(mean[0]), float(mean[1]), float(mean[2])),
    )


def _gradient(grey: cv2.typing.MatLike) -> float:
    """Mean absolute difference of neighbours, both directions."""
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def _reasons(measures: QualityMeasures) -> tuple[str, ...]:
    """Why the image cannot be assessed; one reason, since each implies the ones after it."""
    if measures.black_share > MAX_BLACK:
        return (Reason.BLACK,)
    if measures.white_share > MAX_WHITE:
        return (Reason.OVEREXPOSED,)
    if measures.grey_range < MIN_RANGE:
        return (Reason.UNIFORM,)
    if measures.gradient_kept > MAX_GRADIENT_KEPT:
        return (Reason.BLURRED,)
    return ()


def _warnings(measures: QualityMeasures, shorter: int) -> tuple[str, ...]:
    red, green, blue = measures.mean_colour
    has_cast = green - max(red, blue) > MAX_GREEN_EXCESS or blue - red > MAX_BLUE_EXCESS
    remarks = {
        Remark.LOW_RESOLUTION: shorter < LOW_RESOLUTION_PX,
        Remark.SOFT_FOCUS: measures.gradient_kept > SOFT_GRADIENT_KEPT,
        Remark.DARK_AREA: measures.black_share > NOTABLE_BLACK,
        Remark.OVEREXPOSED_AREA: measures.white_share > NOTABLE_WHITE,
        Remark.NO_COLOUR: measures.chroma < MIN_CHROMA,
        Remark.COLOUR_CAST: has_cast,
    }
    return tuple(text for text, applies in remarks.items() if applies)
