import numpy as np
import pytest
import torch
from cohort_builder import tiny_settings

from models.preprocessing import MEAN, STD
from training.augment import augment_one, jitter_colour, mix_batch, normalise, random_affine, warp

SETTINGS = tiny_settings().augment
STILL = tiny_settings(
    **{f"augment__{name}": 0 for name in ("rotation", "shift", "brightness", "contrast")},
    **{f"augment__{name}": 0 for name in ("saturation", "tint", "hair_prob", "blur_prob")},
    **{f"augment__{name}": 1 for name in ("scale", "aspect", "gamma")},
    augment__erase_prob=0,
    augment__vignette_prob=0,
).augment


def pair() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:64, :64]
    inside = np.hypot(rows - 30, columns - 25) < 12
    image = np.where(inside[..., None], 40, 200).astype(np.uint8).repeat(3, axis=2)
    return image, (inside * 255).astype(np.uint8)


def test_the_mask_follows_the_image() -> None:
    image, mask = pair()
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = random_affine(rng, SETTINGS, side=64, aspect=4 / 3)
        warped, warped_mask = warp(image, mask, matrix)
        is_dark = warped[..., 0] < 120
        assert np.count_nonzero(is_dark != (warped_mask >= 128)) < 30


def test_without_strength_only_mirroring_is_left() -> None:
    image, mask = pair()
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        out, out_mask = augment_one(image, mask, aspect=1.5, settings=STILL, rng=rng)
        is_same = np.array_equal(out, image) and np.array_equal(out_mask, mask)
        is_mirrored = np.array_equal(out, image[:, ::-1])
        assert is_same or is_mirrored
        seen.add(is_same)
    assert seen == {True, False}


def test_a_quarter_turn_happens_in_the_scene_not_in_the_square() -> None:
    turn = np.random.default_rng(0)
    matrix = random_affine(turn, STILL, side=100, aspect=2.0)
    assert np.allclose(np.abs(np.linalg.det(matrix[:, :2])), 1)
    settings = tiny_settings(augment__rotation=90, augment__scale=1, augment__aspect=1).augment
    rng = np.random.default_rng(0)
    for _ in range(10):
        linear = random_affine(rng, settings, side=100, aspect=2.0)[:, :2]
        squash = np.diag([np.sqrt(2), 1 / np.sqrt(2)])
        scene = squash @ linear @ np.linalg.inv(squash)
        assert np.allclose(scene @ scene.T, np.eye(2))  # a rotation or a mirror


def test_the_same_seed_draws_the_same() -> None:
    image, mask = pair()
    first, again = (
        augment_one(image, mask, aspect=1, settings=SETTINGS, rng=np.random.default_rng(5))
        for _ in range(2)
    )
    assert np.array_equal(first[0], again[0])
    other = augment_one(image, mask, aspect=1, settings=SETTINGS, rng=np.random.default_rng(6))
    assert not np.array_equal(first[0], other[0])


def test_the_source_is_left_alone() -> None:
    image, mask = pair()
    before = image.copy(), mask.copy()
    rng = np.random.default_rng(0)
    for _ in range(10):
        augment_one(image, mask, aspect=1, settings=SETTINGS, rng=rng)
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def test_colour_changes_image_by_image_and_stays_in_range() -> None:
    images = torch.rand(4, 3, 8, 8)
    changed = jitter_colour(images, SETTINGS, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    shift = (changed - images).mean((1, 2, 3))
    assert shift.unique().numel() == 4
    same = jitter_colour(images, STILL, torch.Generator().manual_seed(0))
    assert torch.allclose(same, images, atol=1e-6)


def test_normalisation_is_that_of_serving() -> None:
    images = torch.rand(2, 3, 4, 4)
    expected = (images.numpy() - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    assert normalise(images).numpy() == pytest.approx(expected, abs=1e-5)


def test_mixing_weighs_images_targets_and_masks_alike() -> None:
    images, masks = torch.rand(3, 3, 4, 4), torch.rand(3, 1, 4, 4)
    targets = torch.eye(3)
    mixed = mix_batch(images, targets, masks, 0.75)
    assert torch.allclose(mixed[0][0], 0.75 * images[0] + 0.25 * images[2])
    assert torch.allclose(mixed[1][0], torch.tensor([0.75, 0.0, 0.25]))
    assert torch.allclose(mixed[2][2], 0.75 * masks[2] + 0.25 * masks[0])
    assert torch.allclose(mixed[1].sum(1), torch.ones(3))
