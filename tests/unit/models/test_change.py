import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.change.cleaning import (
    CORNER_RADIUS_SHARE,
    find_hair,
    hair_kernel_px,
    remove_dark_corners,
    remove_hair,
)
from models.change.pair import change_probability, measure_growth
from models.change.preparation import PreparationSettings, prepare_pair
from models.change.registration import Registration, RegistrationFailure
from models.errors import ImageError
from tests.unit.models.test_registration import moved, skin


def tube(image: NDArray[np.uint8], share: float = 0.8) -> NDArray[np.uint8]:
    """The image behind a dermatoscope's round opening."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    dark = image.copy()
    dark[distance > share * np.hypot(height, width) / 2] = 8
    return dark


def test_dark_corners_are_painted_over_and_the_rest_stays() -> None:
    image = tube(skin(0))
    original = image.copy()
    found = remove_dark_corners(image)
    assert found.flag == "removed"
    assert (image == original).all()
    height, width = image.shape[:2]
    assert found.image[0, 0].mean() > 60
    assert found.painted[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert (found.image[~found.painted] == image[~found.painted]).all()
    kept = np.sqrt((~found.painted[height // 2]).sum() / 2 * 2)
    assert kept > 0
    radius = CORNER_RADIUS_SHARE * 0.8 * np.hypot(height, width) / 2
    expected = np.pi * radius**2
    assert 0.8 * expected < (~found.painted).sum() < 1.1 * expected


def test_an_image_without_dark_corners_is_left_alone() -> None:
    image = skin(1)
    found = remove_dark_corners(image)
    assert found.flag == "no dark corners"
    assert (found.image == image).all()
    assert found.image is not image
    assert not found.painted.any()


def test_a_dark_image_is_not_painted_over() -> None:
    image = (skin(2) * 0.3).astype(np.uint8)
    found = remove_dark_corners(image)
    assert found.flag != "removed"
    assert (found.image == image).all()
    assert found.threshold < 100


def test_a_dark_image_behind_a_tube_is_cleaned_by_otsus_threshold() -> None:
    image = tube((skin(3) * 0.45).astype(np.uint8))
    image[image.mean(axis=2) < 10] = 2
    found = remove_dark_corners(image)
    assert found.flag == "removed"
    assert found.threshold < 100


def test_a_large_dark_lesion_is_no_corner() -> None:
    image = np.full((200, 260, 3), (210, 170, 150), np.uint8)
    image[:, 130:] = 30
    found = remove_dark_corners(image)
    assert found.flag != "removed"
    assert (found.image == image).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_pass(value: int) -> None:
    image = np.full((30, 40, 3), value, np.uint8)
    assert (remove_dark_corners(image).image == image).all()
    assert remove_hair(image).flag == "no hair"
    assert (remove_hair(np.full((1, 1, 3), value, np.uint8)).image == value).all()


def hairy(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    drawn, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    for start, end in (((10, 20), (300, 200)), ((280, 10), (60, 230)), ((150, 0), (170, 239))):
        cv2.line(drawn, start, end, (35, 30, 30), 2, cv2.LINE_AA)
        cv2.line(mask, start, end, 1, 2)
    return drawn, mask > 0


def test_hair_is_found_and_painted_over() -> None:
    plain = np.full((240, 320, 3), (205, 165, 145), np.uint8)
    image, truth = hairy(plain)
    original = image.copy()
    found = remove_hair(image)
    assert found.flag == "removed"
    assert (image == original).all()
    assert (found.painted & truth).sum() > 0.95 * truth.sum()
    assert np.abs(found.image[truth].astype(int) - plain[truth]).mean() < 12
    assert (found.image[~found.painted] == image[~found.painted]).all()


def test_dots_and_short_streaks_are_no_hair() -> None:
    image = np.full((240, 320, 3), (205, 165, 145), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        centre = tuple(int(v) for v in rng.integers(10, 230, 2))
        cv2.circle(image, centre, 3, (80, 50, 40), -1)
    for _ in range(20):
        start = rng.integers(10, 220, 2)
        cv2.line(image, start.tolist(), (start + rng.integers(-8, 9, 2)).tolist(), (80, 50, 40), 1)
    assert find_hair(image).mean() < 0.03


def test_the_kernel_follows_the_size_of_the_image() -> None:
    assert [hair_kernel_px(s) for s in ((768, 1024), (480, 640), (192, 256))] == [17, 11, 7]


def test_a_pair_is_registered_and_the_originals_stay() -> None:
    before = skin(4)
    after, expected = moved(before, 10, (6, -8))
    copies = before.copy(), after.copy()
    prepared = prepare_pair(before, after, PreparationSettings())
    assert (before == copies[0]).all()
    assert (after == copies[1]).all()
    assert prepared.is_registered
    assert prepared.source_matrix is not None
    np.testing.assert_allclose(prepared.source_matrix, expected, atol=0.5)
    inner = ~(prepared.after.painted | prepared.before.painted)
    inner[:20] = inner[-20:] = False
    difference = np.abs(prepared.before.image.astype(int) - prepared.after.image)
    assert difference[inner].mean() < 8
    raw = np.abs(before.astype(int) - after)
    assert raw[inner].mean() > 20


def test_another_scale_is_brought_to_one() -> None:
    before = skin(5, (480, 640))
    after, expected = moved(before, 5, (10, 4))
    small = np.asarray(cv2.resize(after, (320, 240), interpolation=cv2.INTER_AREA), np.uint8)
    prepared = prepare_pair(before, small, PreparationSettings(removes_hair=False))
    assert prepared.is_registered
    assert prepared.source_matrix is not None
    corner = np.array([20.0, 30.0])
    doubled = (corner + 0.5) * 2 - 0.5
    found = prepared.source_matrix @ [*corner, 1]
    np.testing.assert_allclose(found, expected @ [*doubled, 1], atol=1.5)
    spaced = prepare_pair(
        before, small, PreparationSettings(removes_hair=False), spacing_mm=(0.01, 0.02)
    )
    np.testing.assert_allclose(spaced.source_matrix, prepared.source_matrix)


def test_large_images_are_reduced_first() -> None:
    image = np.asarray(cv2.resize(skin(6), (2560, 1920)), np.uint8)
    prepared = prepare_pair(image, image, PreparationSettings(removes_hair=False))
    assert prepared.before.image.shape == (768, 1024, 3)
    assert prepared.before.scale == pytest.approx(0.4)
    assert prepared.is_registered
    np.testing.assert_allclose(prepared.source_matrix, np.eye(2, 3), atol=0.1)


def lesion_pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture, a darker and redder one of the same place, and the lesion's mask."""
    before = skin(12)
    mask = disc(before.shape[:2], (120, 160), 30)
    before[mask] = (120, 70, 60)
    after = np.clip(before * np.array([0.9, 0.75, 0.7]), 0, 255).astype(np.uint8)
    return before, after, mask


@pytest.mark.parametrize("has_masks", [True, False])
def test_the_second_image_gets_the_light_of_the_first(has_masks: bool) -> None:
    before, after, mask = lesion_pair()
    masks = (mask, mask) if has_masks else None
    settings = PreparationSettings(removes_hair=False, crops=False)
    matched = prepare_pair(before, after, settings, masks=masks)
    plain = prepare_pair(
        before, after, PreparationSettings(removes_hair=False, crops=False, matches_colour=False)
    )
    error = [
        np.abs(pair.before.image.astype(int) - pair.after.image)[5:-5, 5:-5].mean()
        for pair in (matched, plain)
    ]
    assert error[0] < 2 < 15 < error[1]
    assert matched.crop is None


def test_a_darker_lesion_is_not_taken_for_darker_light() -> None:
    before, _, mask = lesion_pair()
    large = disc(before.shape[:2], (120, 160), 110)
    before[large] = (120, 70, 60)
    after = before.copy()
    after[large] = (70, 40, 35)
    settings = PreparationSettings(removes_corners=False, removes_hair=False, crops=False)
    matched = prepare_pair(before, after, settings, masks=(large, large))
    assert matched.is_registered
    assert matched.after.image[mask].mean() < 60


def test_both_images_are_cut_to_the_lesion() -> None:
    before, after, mask = lesion_pair()
    grown = disc(mask.shape, (120, 170), 40)
    prepared = prepare_pair(
        before, after, PreparationSettings(removes_hair=False), masks=(mask, grown)
    )
    assert prepared.crop is not None
    top, bottom, left, right = prepared.crop
    margin = 0.3 * (right - left) / 1.6
    assert prepared.before.image.shape == (bottom - top, right - left, 3)
    assert prepared.after.image.shape == prepared.before.image.shape
    assert (top, bottom) == (pytest.approx(80 - margin, abs=3), pytest.approx(161 + margin, abs=3))
    assert (left, right) == (
        pytest.approx(130 - margin, abs=3),
        pytest.approx(211 + margin, abs=3),
    )
    without = prepare_pair(before, after, PreparationSettings(removes_hair=False))
    assert without.crop is None
    assert without.before.image.shape == before.shape


def test_a_failed_registration_is_an_outcome_not_an_error() -> None:
    prepared = prepare_pair(skin(7), skin(8), PreparationSettings())
    assert isinstance(prepared.registration, RegistrationFailure)
    assert prepared.source_matrix is None
    assert prepared.after.image.shape == skin(8).shape


def test_steps_can_be_switched_off() -> None:
    settings = PreparationSettings(removes_corners=False, removes_hair=False, registers=False)
    image = tube(skin(9))
    prepared = prepare_pair(image, image, settings)
    assert (prepared.before.image == image).all()
    assert prepared.before.corners is prepared.before.hair is prepared.registration is None


@pytest.mark.parametrize("registers", [True, False])
def test_the_masking_step_keeps_the_lesion_only(registers: bool) -> None:
    image = skin(10)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[80:160, 100:200] = True
    settings = PreparationSettings(
        removes_corners=False, removes_hair=False, crops=False, masks=True, registers=registers
    )
    prepared = prepare_pair(image, image, settings, masks=(mask, mask))
    assert len(np.unique(prepared.before.image[~mask].reshape(-1, 3), axis=0)) == 1
    assert (prepared.before.image[mask] == image[mask]).all()
    with pytest.raises(ImageError, match="masks"):
        prepare_pair(image, image, settings)


@pytest.mark.parametrize(
    ("after", "spacing"),
    [
        (np.zeros((30, 40), np.uint8), (None, None)),
        (np.zeros((2, 3, 3), np.uint8), (None, None)),
        (skin(0), (0.0, 0.1)),
        (skin(0), (0.1, 0.9)),
    ],
    ids=["grey", "other scale", "no spacing", "other spacing"],
)
def test_impossible_pairs_are_refused(
    after: NDArray[np.uint8], spacing: tuple[float | None, float | None]
) -> None:
    with pytest.raises(ImageError):
        prepare_pair(skin(0), after, PreparationSettings(), spacing_mm=spacing)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(rows - centre[0], columns - centre[1]) <= radius)


def test_growth_is_counted_in_the_first_images_frame() -> None:
    before = disc((200, 200), (100, 100), 30)
    after = disc((200, 200), (110, 120), 36)
    shift = np.array([[1.0, 0, -20], [0, 1, -10]])
    growth = measure_growth(before, after, shift, spacing_mm=(0.1, None))
    assert growth is not None
    assert growth.relative == pytest.approx(0.44, abs=0.02)
    assert growth.growth_mm2 == pytest.approx(growth.growth_px * 0.01)
    assert growth.gained_px == pytest.approx(growth.growth_px, abs=2)
    assert growth.lost_px == 0


def test_growth_knows_two_scales() -> None:
    before, after = disc((200, 200), (100, 100), 40), disc((100, 100), (50, 50), 20)
    by_matrix = measure_growth(before, after, np.array([[2.0, 0, 0.5], [0, 2, 0.5]]))
    by_spacing = measure_growth(before, after, None, spacing_mm=(0.1, 0.2))
    assert by_matrix is not None
    assert by_spacing is not None
    assert by_matrix.relative == pytest.approx(0, abs=0.02)
    assert by_spacing.relative == by_matrix.relative
    assert by_spacing.gained_px is None
    assert measure_growth(before, after, None) is None


def test_growth_of_nothing_has_no_ratio() -> None:
    nothing = np.zeros((20, 20), np.bool_)
    growth = measure_growth(nothing, disc((20, 20), (10, 10), 4), np.eye(2, 3))
    assert growth is not None
    assert growth.relative is None
    assert growth.gained_px == growth.growth_px > 0


def test_probability_is_calibrated_by_the_temperature() -> None:
    assert change_probability(np.array([2.0]), 2.0)[0] == pytest.approx(1 / (1 + np.exp(-1)))
    with pytest.raises(ValueError, match="temperature"):
        change_probability(np.array([0.0]), 0.0)


def test_an_identical_pair_has_not_moved() -> None:
    prepared = prepare_pair(skin(11), skin(11), PreparationSettings())
    assert isinstance(prepared.registration, Registration)
    assert (prepared.before.image == prepared.after.image)[:-1, :-1].all()
