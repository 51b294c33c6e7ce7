"""From a colour image to the network's input, and from its lesion map back.

One implementation for training and serving. Decoding and photometric interpretation happen
elsewhere: what comes in is an RGB array.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageError

INPUT_SIZE = 224
"""Side of the network's input in pixels (PanDerm's encoders)."""
MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet, on values in [0, 1]."""
STD = (0.228, 0.224, 0.225)
"""Channel deviations; 0.228 for red is PanDerm's constant (0.229 elsewhere)."""
INTERPOLATION = "bilinear-antialiased"
"""PIL's bilinear filter: its support grows with the reduction, so nothing aliases."""
FRAMING = "whole image"
"""The image is squashed to a square, not cropped: a lesion's edge may lie at the border."""
REFERENCE_SIZE = 256
"""Shorter side in pixels to which the reference framing reduces before it crops."""
REFERENCE_FRAMING = "shorter side 256, centre 224"
"""PanDerm's framing, for encoders that a site brings."""
MAX_SIDE_RATIO = 1000
"""Longer over shorter side beyond which the reference framing would need gigabytes."""


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse an array that is not an RGB image.

    Parameters
    ----------
    image
        (H, W, 3) uint8, RGB, H and W at least 1.

    Raises
    ------
    ImageError
        If the shape or the type differ.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be an array, not {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ImageError(f"an image must be uint8, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"an image must have shape (H, W, 3), not {image.shape}")


def prepare_image(image: NDArray[np.uint8], size: int = INPUT_SIZE) -> NDArray[np.uint8]:
    """Squash the whole image to the network's input size.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    size
        Side of the result in pixels.

    Returns
    -------
    ndarray
        (size, size, 3) uint8 RGB, C-contiguous and writable.

    Raises
    ------
    ImageError
        If ``image`` is not an RGB image.
    """
    check_image(image)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize((size, size), Image.Resampling.BILINEAR))


def prepare_reference(
    image: NDArray[np.uint8], size: int = INPUT_SIZE, resize: int = REFERENCE_SIZE
) -> NDArray[np.uint8]:
    """Frame an image as PanDerm's encoders were trained: reduce, then crop the centre.

    The shorter side becomes ``resize`` (PIL's bilinear filter, thus antialiased), the longer
    ``int(resize * longer / shorter)``; the square of side ``size`` begins at
    ``round((side - size) / 2)``, halves going to the even number.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB. The orientation that EXIF states and the conversion of other colour
        modes to RGB are the decoder's matter: apply them before.
    size
        Side of the result in pixels, at most ``resize``.
    resize
        Length of the shorter side in pixels before cropping.

    Returns
    -------
    ndarray
        (size, size, 3) uint8 RGB, C-contiguous and writable.

    Raises
    ------
    ImageError
        If ``image`` is not an RGB image, or one side is over ``MAX_SIDE_RATIO`` times the other.
    ValueError
        If ``size`` is not between 1 and ``resize``.

    Notes
    -----
    Bit for bit what torchvision's ``Resize(256)`` and ``CenterCrop(224)`` give on a PIL image.
    What lies outside the centre is lost: of a 4:3 photograph a third.
    """
    check_image(image)
    if not 1 <= size <= resize:
        raise ValueError(f"a crop of {size} px does not fit a shorter side of {resize} px")
    height, width = image.shape[:2]
    shorter, longer = min(height, width), max(height, width)
    if longer > MAX_SIDE_RATIO * shorter:
        raise ImageError(f"an image of {width} x {height} px is too narrow to be framed")
    picture = Image.fromarray(np.ascontiguousarray(image))
    if shorter != resize:
        reduced = int(resize * longer / shorter)
        target = (resize, reduced) if width <= height else (reduced, resize)
        picture = picture.resize(target, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in picture.size)
    return np.array(picture.crop((left, top, left + size, top + size)))


def normalise_pixels(
    pixels: NDArray[np.uint8], *, std: tuple[float, float, float] = STD
) -> NDArray[np.float32]:
    """Turn prepared pixels into the network's input.

    Parameters
    ----------
    pixels
        (..., H, W, 3) uint8 RGB.
    std
        Channel deviations.

    Returns
    -------
    ndarray
        (..., 3, H, W) float32, C-contiguous: divided by 255, minus ``MEAN``, divided by ``std``,
        each step rounded to float32 as the reference does.

    Raises
    ------
    ImageError
        If shape or type differ.
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise ImageError(f"pixels must be (..., H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    scaled = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C") / np.float32(255)
    scaled -= np.array(MEAN, np.float32)[:, None, None]
    scaled /= np.array(std, np.float32)[:, None, None]
    return scaled


def restore_lesion_mask(
    lesion_prob: NDArray[np.uint8], shape: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """Bring a lesion map back to the source image and threshold it there.

    The probability, not the mask, is enlarged: the outline then lies between pixels of the map
    instead of following its steps.

    Parameters
    ----------
    lesion_prob
        (h, w) uint8, probability times 255, of the squashed image.
    shape
        (H, W) of the source image in pixels.
    threshold
        Probability in (0, 1) from which a pixel belongs to the lesion.

    Returns
    -------
    ndarray
        (H, W) bool.

    Raises
    ------
    ImageError
        If the map is not two-dimensional uint8, or the shape is empty.
    """
    if lesion_prob.dtype != np.uint8 or lesion_prob.ndim != 2 or 0 in lesion_prob.shape:
        raise ImageError(
            f"a lesion map must be (h, w) uint8, not {lesion_prob.shape} {lesion_prob.dtype}"
        )
    height, width = shape
    if height < 1 or width < 1:
        raise ImageError(f"an image cannot have shape {shape}")
    # uint8 throughout: a float map of a 100-megapixel image would take 400 MB.
    restored = cv2.resize(lesion_prob, (width, height), interpolation=cv2.INTER_LINEAR)
    mask: NDArray[np.bool_] = restored >= math.ceil(threshold * 255)
    return mask
