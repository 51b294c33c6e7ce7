import cv2
import numpy as np
import pytest

from models.errors import ImageError
from models.slide.stain import (
    WHITE_LEVEL,
    LabStatistics,
    fit_macenko,
    lab_statistics,
    macenko,
    optical_density,
    reinhard,
    stained_pixels,
)

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def section(seed=0, size=64, gain=1.0, vectors=(HAEMATOXYLIN, EOSIN)):
    """H&E by Lambert-Beer: known stains in known amounts, glass in a corner."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.4, (size, size, 2)) * gain
    amounts[rng.random((size, size)) < 0.15, 1] = 0.0
    amounts[rng.random((size, size)) < 0.15, 0] = 0.0
    amounts[:12, :12] = 0
    unit = np.stack([v / np.linalg.norm(v) for v in vectors])
    return np.clip(WHITE_LEVEL * np.exp(-amounts @ unit) - 1, 0, 255).round().astype(np.uint8)


def naive_reinhard(image, target):
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(float)
    chosen = [
        (r, c)
        for r in range(image.shape[0])
        for c in range(image.shape[1])
        if np.mean([-np.log((int(v) + 1) / 240) for v in image[r, c]]) >= 0.15
    ]
    values = np.array([lab[place] for place in chosen])
    mean, std = values.mean(axis=0), values.std(axis=0)
    found = image.copy()
    for place in chosen:
        moved = [
            (lab[place][i] - mean[i]) * target.std[i] / std[i] + target.mean[i] for i in range(3)
        ]
        rgb = cv2.cvtColor(np.array([[moved]], np.float32), cv2.COLOR_LAB2RGB)[0, 0]
        found[place] = np.rint(np.clip(rgb, 0, 1) * 255)
    return found


def test_reinhard_equals_its_naive_twin():
    image = section(size=24)
    target = LabStatistics(mean=(55.0, 30.0, -20.0), std=(12.0, 8.0, 6.0))
    difference = reinhard(image, target).astype(int) - naive_reinhard(image, target)
    assert np.abs(difference).max() <= 1


def test_reinhard_reaches_the_target_and_leaves_glass_alone():
    image, other = section(0), section(1, gain=0.6)
    target = lab_statistics(other)
    moved = reinhard(image, target)
    found = lab_statistics(moved, stained_pixels(image))
    np.testing.assert_allclose(found.mean, target.mean, atol=1.5)
    np.testing.assert_allclose(found.std, target.std, rtol=0.12)
    assert (moved[:12, :12] == image[:12, :12]).all()


def test_reinhard_to_its_own_colours_changes_nothing():
    image = section()
    difference = reinhard(image, lab_statistics(image)).astype(int) - image
    assert np.abs(difference).max() <= 1


def test_macenko_finds_the_stains_that_were_put_in():
    basis = fit_macenko(section(size=200))
    for found, truth in zip(basis.vectors, (HAEMATOXYLIN, EOSIN), strict=True):
        assert found @ truth / np.linalg.norm(truth) > 0.985
    np.testing.assert_allclose(np.linalg.norm(basis.vectors, axis=1), 1)


def test_macenko_equals_a_naive_twin():
    image = section(size=40)
    target = fit_macenko(section(3, size=80, gain=0.7))
    known = fit_macenko(image)
    found = macenko(image, target)
    for row, column in ((20, 20), (30, 5), (0, 0), (39, 39)):
        density = np.array([-np.log((int(v) + 1) / 240) for v in image[row, column]])
        amounts = np.linalg.lstsq(known.vectors.T, density, rcond=None)[0]
        amounts = amounts / known.top * target.top
        level = 240 * np.exp(-(target.vectors.T @ amounts)) - 1
        np.testing.assert_allclose(found[row, column], np.clip(np.rint(level), 0, 255), atol=1)


def test_macenko_brings_two_laboratories_together():
    other = (np.array([0.5, 0.75, 0.45]), np.array([0.2, 0.95, 0.3]))
    first, second = section(0, size=100), section(0, size=100, gain=0.6, vectors=other)
    before = np.abs(first.astype(int) - second).mean()
    after = np.abs(macenko(second, fit_macenko(first)).astype(int) - first).mean()
    assert after < before / 4


def test_glass_alone_has_no_stain():
    glass = np.full((40, 40, 3), 243, np.uint8)
    for estimate in (lab_statistics, fit_macenko):
        with pytest.raises(ImageError, match="stained pixels"):
            estimate(glass)


def test_one_stain_alone_is_refused():
    grey = np.repeat(np.random.default_rng(0).integers(40, 120, (40, 40, 1)), 3, axis=2)
    with pytest.raises(ImageError, match="one stain"):
        fit_macenko(grey.astype(np.uint8))


def test_optical_density_is_that_of_the_formula():
    image = np.array([[[0, 119, 239]]], np.uint8)
    np.testing.assert_allclose(optical_density(image)[0, 0], [np.log(240), np.log(2), 0.0])
