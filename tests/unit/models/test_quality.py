import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ImageError
from models.quality import MAX_GRADIENT_KEPT, assess_quality, measure_quality


def lesion_image(height: int = 450, width: int = 600) -> NDArray[np.uint8]:
    """A brown, structured spot on textured skin, sharp enough at any size."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    scale = min(height, width)
    radius = np.hypot(rows - height / 2, columns - width / 2) / scale
    texture = cv2.resize(rng.normal(0, 1, (256, 256)).astype(np.float32), (width, height))
    image = np.empty((height, width, 3), np.float32)
    skin, spot = np.array([205, 150, 130]), np.array([95, 60, 50])
    inside = np.clip((0.25 - radius) * 20 + 0.5, 0, 1)
    image[:] = skin * (1 - inside[..., None]) + spot * inside[..., None]
    image += texture[..., None] * 9
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(450, 600), (192, 256), (900, 700), (300, 300)])
def test_a_plain_photograph_can_be_assessed(size: tuple[int, int]) -> None:
    quality = assess_quality(lesion_image(*size))
    assert quality.is_assessable
    assert quality.warnings == ()


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63), (1, 4000)])
def test_a_tiny_image_cannot(size: tuple[int, int]) -> None:
    assert "too small" in assess_quality(np.zeros((*size, 3), np.uint8)).reasons[0]


def test_a_strip_cannot() -> None:
    assert assess_quality(lesion_image(100, 2000)).reasons == ("image far longer than wide",)


@pytest.mark.parametrize(
    ("level", "reason"),
    [(0, "black"), (5, "black"), (255, "overexposed"), (120, "uniform")],
)
def test_a_blank_image_cannot(level: int, reason: str) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (300, 400, 3))
    image = np.clip(level + noise, 0, 255).astype(np.uint8)
    reasons = assess_quality(image).reasons
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_sensor_noise_on_a_blank_wall_is_no_content() -> None:
    noise = np.random.default_rng(0).normal(150, 6, (400, 500, 3))
    assert assess_quality(noise.astype(np.uint8)).reasons == ("image almost uniform",)


def test_blur_is_warned_of_and_then_refused() -> None:
    image = lesion_image()
    kept = []
    for sigma in (1.5, 3.0, 12.0):
        blurred = cv2.GaussianBlur(image, (0, 0), sigma)
        kept.append(measure_quality(blurred).gradient_kept)
    assert kept == sorted(kept)
    assert assess_quality(image).warnings == ()
    assert kept[2] > MAX_GRADIENT_KEPT
    blurred = cv2.GaussianBlur(image, (0, 0), 12.0)
    assert assess_quality(blurred).reasons == ("image extremely blurred",)


def test_dark_corners_are_warned_of_not_refused() -> None:
    image = lesion_image(400, 400)
    rows, columns = np.mgrid[:400, :400]
    image[np.hypot(rows - 200, columns - 200) > 150] = 0
    quality = assess_quality(image)
    assert quality.is_assessable
    assert "large dark area" in quality.warnings


def test_dark_skin_is_not_mistaken_for_a_black_image() -> None:
    image = (lesion_image().astype(np.float32) * 0.25).astype(np.uint8)
    assert assess_quality(image).is_assessable


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda x: np.repeat(x.mean(2, keepdims=True), 3, 2), "almost no colour"),
        (lambda x: x[..., ::-1], "strong colour cast"),
        (lambda x: x * np.array([0.5, 1.2, 0.5]), "strong colour cast"),
        (lambda x: x[::3, ::4], "low resolution"),
    ],
)
def test_remarks(change, warning: str) -> None:
    changed = np.clip(change(lesion_image().astype(np.float32)), 0, 255).astype(np.uint8)
    quality = assess_quality(changed)
    assert quality.is_assessable
    assert warning in quality.warnings


def test_a_large_image_takes_seconds() -> None:
    image = np.broadcast_to(lesion_image(450, 600)[:1, :1], (6000, 8000, 3))
    started = time.monotonic()
    assert not assess_quality(np.ascontiguousarray(image)).is_assessable
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("image", [np.zeros((90, 90), np.uint8), np.zeros((90, 90, 3), np.int16)])
def test_what_is_no_image_is_an_error(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        assess_quality(image)
