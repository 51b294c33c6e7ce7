import numpy as np
import pytest
from PIL import Image

from models.errors import ImageError
from models.preprocessing import INPUT_SIZE, prepare_image, restore_lesion_mask


def test_the_whole_image_is_kept_and_nothing_aliases() -> None:
    image = np.zeros((896, 1792, 3), np.uint8)
    image[:, ::2] = 200  # one-pixel stripes: any filter without antialiasing would show them
    image[:, -8:] = (0, 0, 255)
    prepared = prepare_image(image)
    assert prepared.shape == (INPUT_SIZE, INPUT_SIZE, 3)
    assert prepared.dtype == np.uint8
    assert np.ptp(prepared[:, 5:-5].astype(int)) <= 2
    assert prepared[100, -1, 2] > 180  # the right border is still there


def test_it_is_pillows_bilinear_filter_bit_for_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 451, 3), np.uint8)
    expected = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare_image(image), np.asarray(expected))


def test_an_image_of_the_right_size_is_untouched_and_copied() -> None:
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    prepared = prepare_image(image)
    assert np.array_equal(prepared, image)
    prepared[:] = 0
    assert image.any()


@pytest.mark.parametrize("view", ["transposed", "reversed", "read only"])
def test_any_memory_layout_is_accepted(view: str) -> None:
    base = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    image = {"transposed": base.transpose(1, 0, 2), "reversed": base[::-1], "read only": base}[view]
    image.flags.writeable = False
    assert np.array_equal(prepare_image(image), prepare_image(image.copy()))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), np.float32),
        [[[0, 0, 0]]],
    ],
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        prepare_image(image)


def test_one_pixel_becomes_a_plain_square() -> None:
    prepared = prepare_image(np.full((1, 1, 3), 77, np.uint8))
    assert (prepared == 77).all()


@pytest.mark.parametrize("shape", [(600, 450), (37, 1200), (224, 224), (1, 1), (50, 60)])
def test_a_lesion_comes_back_where_it_was(shape: tuple[int, int]) -> None:
    prob = np.zeros((224, 224), np.uint8)
    prob[56:168, 112:] = 255  # rows 1/4 to 3/4, right half
    mask = restore_lesion_mask(prob, shape, 0.5)
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    rows, columns = (np.arange(n) + 0.5 for n in shape)
    inside_rows = (rows > shape[0] / 4) & (rows < shape[0] * 3 / 4)
    expected = inside_rows[:, None] & (columns > shape[1] / 2)[None]
    wrong = np.count_nonzero(mask != expected)
    assert wrong <= 2 * (shape[0] + shape[1])


def test_the_threshold_includes_its_own_value() -> None:
    prob = np.full((224, 224), 128, np.uint8)
    assert restore_lesion_mask(prob, (10, 10), 128 / 255).all()
    assert restore_lesion_mask(prob, (10, 10), 0.5).all()
    assert not restore_lesion_mask(prob, (10, 10), 0.51).any()


@pytest.mark.parametrize(
    ("prob", "shape"),
    [
        (np.zeros((4, 4), np.float32), (4, 4)),
        (np.zeros((4, 4, 1), np.uint8), (4, 4)),
        (np.zeros((0, 4), np.uint8), (4, 4)),
        (np.zeros((4, 4), np.uint8), (0, 4)),
    ],
)
def test_what_is_no_lesion_map_is_refused(prob: np.ndarray, shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError):
        restore_lesion_mask(prob, shape, 0.5)
