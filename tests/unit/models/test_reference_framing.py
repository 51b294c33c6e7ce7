"""The framing of PanDerm's encoders against a naive twin and against PIL itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.errors import ImageError
from models.preprocessing import MEAN, STD, normalise_pixels, prepare_reference

SHAPES = [
    (450, 600),
    (600, 450),
    (256, 256),
    (224, 224),
    (257, 301),
    (301, 257),
    (256, 341),
    (100, 37),
    (37, 100),
    (1, 300),
    (300, 1),
    (1, 1),
    (3, 2),
    (223, 225),
    (767, 1023),
]


def random_image(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def triangle(values: np.ndarray, target: int) -> np.ndarray:
    """Antialiased bilinear resampling along the first axis, rounded to whole levels as PIL does."""
    source = len(values)
    scale = source / target
    support = max(scale, 1.0)
    rows = []
    for number in range(target):
        centre = (number + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(source, int(centre + support + 0.5))
        weights = [max(0.0, 1 - abs((i + 0.5 - centre) / support)) for i in range(first, last)]
        total = sum(weights)
        rows.append(sum(w / total * values[first + i] for i, w in enumerate(weights)))
    return np.clip(np.floor(np.stack(rows) + 0.5), 0, 255)


def naive(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= height:
        new_width, new_height = 256, int(256 * height / width)
    else:
        new_width, new_height = int(256 * width / height), 256
    values = image.astype(np.float64)
    if new_width != width:
        values = triangle(values.transpose(1, 0, 2), new_width).transpose(1, 0, 2)
    if new_height != height:
        values = triangle(values, new_height)
    top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
    return values[top : top + 224, left : left + 224]


@pytest.mark.parametrize("shape", [s for s in SHAPES if max(s) < 400])
def test_it_equals_the_naive_twin_to_one_level(shape: tuple[int, int]) -> None:
    image = random_image(shape)
    difference = np.abs(prepare_reference(image) - naive(image))
    # PIL weighs in fixed point: a value on the edge between two levels may fall on either side.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_pil_bit_for_bit(shape: tuple[int, int]) -> None:
    image = random_image(shape)
    height, width = shape
    short, long = min(shape), max(shape)
    size = (256, int(256 * long / short)) if width <= height else (int(256 * long / short), 256)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (round((side - 224) / 2.0) for side in resized.shape[:2])
    expected = resized[top : top + 224, left : left + 224]
    found = prepare_reference(image)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_halves_go_to_the_even_offset() -> None:
    image = random_image((256, 341))  # (341 - 224) / 2 = 58.5
    assert np.array_equal(prepare_reference(image), image[16:240, 58:282])
    image = random_image((256, 343))  # 59.5
    assert np.array_equal(prepare_reference(image), image[16:240, 60:284])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_any_size_gives_a_square_of_the_same_colour(height: int, width: int, level: int) -> None:
    found = prepare_reference(np.full((height, width, 3), level, np.uint8))
    assert found.shape == (224, 224, 3)
    assert (found == level).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((1, 1001, 3), np.uint8),
    ],
)
def test_what_cannot_be_framed_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        prepare_reference(image)


def test_a_crop_larger_than_the_resized_side_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        prepare_reference(random_image((9, 9)), size=300)


def test_normalising_follows_the_formula_in_float32() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    found = normalise_pixels(levels)
    assert found.shape == (3, 16, 16)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    for channel in range(3):
        for level in range(256):
            scaled = np.float32(level) / np.float32(255)
            expected = (scaled - np.float32(MEAN[channel])) / np.float32(STD[channel])
            assert found[channel].reshape(-1)[level] == expected
    assert math.isclose(found[0, 0, 0], -0.485 / 0.228, rel_tol=1e-6)


def test_normalising_takes_batches_and_other_deviations() -> None:
    batch = np.stack([random_image((5, 4)), random_image((5, 4))])
    found = normalise_pixels(batch)
    assert found.shape == (2, 3, 5, 4)
    assert np.array_equal(found[1], normalise_pixels(batch[1]))
    other = normalise_pixels(batch, std=(0.229, 0.224, 0.225))
    assert np.allclose(other[:, 0] * 0.229, found[:, 0] * 0.228, atol=1e-6)
    assert np.array_equal(other[:, 1:], found[:, 1:])


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(3, np.uint8)],
)
def test_what_are_no_pixels_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError):
        normalise_pixels(pixels)
