"""Random views of one image for fine-tuning and for averaging over views at test time.

PIL does the geometry and the colour, as in the reference's transforms; each view is decided by
the generator that it is given.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.preprocessing import INPUT_SIZE, REFERENCE_SIZE, check_image, prepare_reference

CROP_AREA = (0.75, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
TRAIN_ROTATION = 45.0  # degrees
TRAIN_HUE = 0.2  # of the colour circle
TEST_SIZE = 246
TEST_ROTATION = 270.0  # degrees, from 0
TEST_JITTER = 0.25  # of the colour circle, and of the saturation
TEST_PROB = 0.3
TEST_STD = (0.229, 0.224, 0.225)
"""Channel deviations of the reference's test-time views; its training uses 0.228 for red."""

_CROP_TRIES = 10


def train_view(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a training view: random crop, flips, rotation and hue.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    rng
        Decides the view.

    Returns
    -------
    ndarray
        (224, 224, 3) uint8. Corners that the rotation uncovers are black.

    Raises
    ------
    ImageError
        If ``image`` is not an RGB image.
    """
    check_image(image)
    picture = Image.fromarray(np.ascontiguousarray(image))
    scale = REFERENCE_SIZE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    box = tuple(side / scale for side in draw_crop(rng, size[0], size[1]))
    # Crop and resize in one step: the pixels in between are never made.
    picture = picture.resize(
        (INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR, box=_within(box, picture)
    )
    picture = _flip(picture, rng)
    angle = rng.uniform(-TRAIN_ROTATION, TRAIN_ROTATION)
    picture = picture.rotate(angle, Image.Resampling.BILINEAR)
    return np.array(_shift_colour(picture, rng.uniform(-TRAIN_HUE, TRAIN_HUE), 1.0))


def draw_crop(
    rng: np.random.Generator, width: int, height: int
) -> tuple[float, float, float, float]:
    """Draw a rectangle by share of the area and log-uniform aspect.

    Parameters
    ----------
    width, height
        Of the picture in pixels.

    Returns
    -------
    tuple
        Left, top, right, bottom. Where no rectangle of ten fits, the largest central one of a
        permitted aspect.

    References
    ----------
    Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.
    """
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        aspect = math.exp(rng.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    aspect = min(max(width / height, CROP_ASPECT[0]), CROP_ASPECT[1])
    crop_width, crop_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _within(box: tuple[float, ...], picture: Image.Image) -> tuple[float, float, float, float]:
    """Clip rounding errors; PIL refuses a box that is a hair too large."""
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, picture.width), min(bottom, picture.height)


def averaging_view(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a view for averaging at test time; normalise it with ``TEST_STD``.

    Shorter side 246 and centre 224, each flip with probability 0.5, then rotation and jitter of
    hue and saturation with probability 0.3 each. Parameters and errors as for ``train_view``.
    """
    picture = _flip(Image.fromarray(prepare_reference(image, resize=TEST_SIZE)), rng)
    if rng.random() < TEST_PROB:
        picture = picture.rotate(rng.uniform(0, TEST_ROTATION), Image.Resampling.BILINEAR)
    if rng.random() < TEST_PROB:
        hue, gain = rng.uniform(-TEST_JITTER, TEST_JITTER, 2)
        picture = _shift_colour(picture, hue, 1 + gain)
    return np.array(picture)


def _flip(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return picture


def _shift_colour(picture: Image.Image, hue: float, saturation: float) -> Image.Image:
    """Turn the hue by a share of the circle and multiply the saturation."""
    channels = np.array(picture.convert("HSV"))
    channels[..., 0] += np.uint8(round(hue * 255) % 256)  # wraps round the circle
    if saturation != 1:
        channels[..., 1] = np.clip(channels[..., 1] * saturation, 0, 255).round().astype(np.uint8)
    return Image.fromarray(channels, "HSV").convert("RGB")
