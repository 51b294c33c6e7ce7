"""Random views and mixed batches against naive twins."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import ImageError
from training.finetuning.batches import balanced_order
from training.finetuning.mixing import draw_rectangle, mix, soft_cross_entropy, soften
from training.finetuning.views import (
    CROP_AREA,
    CROP_ASPECT,
    _shift_colour,
    averaging_view,
    draw_crop,
    train_view,
)


def gradient(height: int = 60, width: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, rows * 0 + 90], -1).astype(
        np.uint8
    )


@pytest.mark.parametrize("view", [train_view, averaging_view])
@pytest.mark.parametrize("shape", [(60, 90), (1, 1), (300, 20), (1, 700), (1000, 700)])
def test_a_view_is_a_square_decided_by_its_seed(view, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    image = gradient(*shape)
    first = view(image, np.random.default_rng(3))
    assert first.shape == (224, 224, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, view(image, np.random.default_rng(3)))
    if min(shape) > 20:
        assert not np.array_equal(first, view(image, np.random.default_rng(4)))
    with pytest.raises(ImageError):
        view(image[..., :1], np.random.default_rng(0))


def test_crops_have_the_area_and_the_aspect_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = draw_crop(rng, 300, 256)
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 256
        share = (right - left) * (bottom - top) / (300 * 256)
        aspect = (right - left) / (bottom - top)
        assert CROP_AREA[0] - 0.01 < share <= 1
        assert CROP_ASPECT[0] * 0.98 < aspect < CROP_ASPECT[1] * 1.02


def test_a_long_strip_falls_back_to_its_centre() -> None:
    assert draw_crop(np.random.default_rng(0), 1000, 100) == (433, 0, 566, 100)
    assert draw_crop(np.random.default_rng(0), 100, 1000) == (0, 433, 100, 566)


def test_a_plain_view_is_only_geometry() -> None:
    grey = np.full((80, 80, 3), 120, np.uint8)  # no hue: colour jitter cannot change it
    for seed in range(20):
        found = averaging_view(grey, np.random.default_rng(seed))
        assert set(np.unique(found)) <= set(range(121))  # black corners and their soft edge


def test_hue_turns_and_comes_back() -> None:
    picture = Image.fromarray(gradient())
    turned = np.asarray(_shift_colour(picture, 1 / 3, 1.0)).astype(int)
    original = np.asarray(picture).astype(int)
    assert np.abs(turned.max(-1) - original.max(-1)).max() <= 3  # value stays
    rolled = np.roll(original, 1, axis=-1)  # a third of the circle: red becomes green
    assert np.abs(turned - rolled).max() <= 16  # 255 steps round the circle


def test_labels_are_smoothed() -> None:
    found = soften(np.array([2, 0]), 4, 0.1)
    assert torch.allclose(
        found, torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    )


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_batch_is_what_its_share_says(kind: str) -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 30).contiguous()
    targets = torch.eye(4)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        alphas = {"mixup": 0.8, "cutmix": 0.0} if kind == "mixup" else {"mixup": 0.0, "cutmix": 1.0}
        mixed, soft = mix(images, targets, rng, switch=0.5, **alphas)
        assert torch.allclose(soft.sum(1), torch.ones(4))
        for i in range(4):
            share = float(soft[i, i])
            assert soft[i, 3 - i] == pytest.approx(1 - share, abs=1e-6)
            # Either way the mean of the image is the mean of its label's numbers.
            expected = share * i + (1 - share) * (3 - i)
            assert float(mixed[i].mean()) == pytest.approx(expected, abs=1e-4)
        is_cut = torch.equal(mixed, mixed.round())
        assert is_cut == (kind == "cutmix")
    assert torch.equal(images[:, 0, 0, 0], torch.arange(4.0))  # the source is untouched


def test_switch_chooses_between_the_two() -> None:
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 16, 16).contiguous()
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(200):
        mixed, _ = mix(images, torch.eye(2), rng, mixup=0.8, cutmix=1.0, switch=0.5)
        kinds.append(torch.equal(mixed, mixed.round()))
    assert 70 < sum(kinds) < 130


def test_nothing_is_mixed_where_both_are_off() -> None:
    images, targets = torch.rand(2, 3, 4, 4), torch.eye(2)
    found = mix(images, targets, np.random.default_rng(0), mixup=0, cutmix=0, switch=0.5)
    assert found[0] is images
    assert found[1] is targets


def test_rectangles_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, bottom, left, right = draw_rectangle(rng, float(rng.uniform()), 20, 30)
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 30


def test_the_loss_of_soft_labels_is_the_formula() -> None:
    logits, targets = torch.randn(3, 4), torch.rand(3, 4).softmax(1)
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        expected -= sum(t * (value - total) for t, value in zip(target, row, strict=True)) / 3
    assert float(soft_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-5)


def test_rare_labels_are_drawn_as_often_as_common_ones() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    order = balanced_order(labels, 3, seed=1)
    assert len(order) == 1000
    assert np.abs(np.bincount(labels[order]) - 333).max() < 70
    assert np.array_equal(order, balanced_order(labels, 3, seed=1))
    assert not np.array_equal(order, balanced_order(labels, 3, seed=2))
