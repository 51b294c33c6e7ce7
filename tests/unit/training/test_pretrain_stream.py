from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pretrain_builder import toy, write_images

from training.errors import CohortError
from training.pretraining.stream import (
    MaskedImages,
    draw_crop,
    epoch_order,
    list_images,
    load_epoch,
    load_views,
    read_picture,
    view,
)


def test_folders_are_searched_to_any_depth_and_listed_in_order(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "clinic_0" / "._image_00.png").write_bytes(b"a file manager's fork")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"")
    (tmp_path / "LOUD.JPG").write_bytes(b"")
    found = list_images([tmp_path])
    assert found.names == (
        "LOUD.JPG",
        "clinic_0/image_00.png",
        "clinic_0/image_02.png",
        "clinic_0/image_04.png",
        "clinic_1/image_01.png",
        "clinic_1/image_03.png",
    )
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert list_images([moved]).digest() == found.digest()


def test_lists_and_folders_may_be_mixed_and_count_a_file_once(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 4)
    table = tmp_path / "list.csv"
    other = Image.new("RGB", (8, 8))
    other.save(tmp_path / "other.png")
    table.write_text("dx,path\nnv,a/clinic_0/image_00.png\nmel,other.png\n")
    found = list_images([tmp_path / "a", table])
    assert len(found.paths) == 5
    assert found.names[-1] == "other.png"
    with pytest.raises(CohortError, match="were given before"):
        list_images([tmp_path / "a", tmp_path / "a" / "clinic_0"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\nx.png\n", "no column 'path'"),
        ("path\nx.png\n", "line 2 names no file"),
        ("path,dx\n,nv\n", "line 2 names no file"),
        ("path\n", "no image"),
        ("", "no image"),
    ],
)
def test_unusable_lists_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(CohortError, match=message):
        list_images([tmp_path / "list.csv"])


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no image"):
        list_images([tmp_path])
    with pytest.raises(CohortError, match="No such file"):
        list_images([tmp_path / "none"])


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1), st.integers(0, 2**32))
def test_crops_lie_inside_and_keep_their_share(w: int, h: int, share: float, seed: int) -> None:
    left, top, right, bottom = draw_crop(np.random.default_rng(seed), (w, h), share)
    assert 0 <= left < right <= w
    assert 0 <= top < bottom <= h
    is_fallback = right - left == bottom - top == min(w, h)
    if not is_fallback:
        area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
        slack = (right - left) + (bottom - top) + 1  # rounding of both sides
        assert area >= share * w * h - slack
        assert 0.75 * (right - left - 1) / (right - left) <= aspect * 1.35
        assert aspect <= 4 / 3 * (1 + 2 / (bottom - top))


def test_pictures_are_upright_rgb_whatever_their_mode(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 10), (200, 0, 0)).save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png", side=8).size == (10, 20)
    for mode in ("L", "P", "RGBA", "CMYK", "1", "LA"):
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (12, 9)).save(tmp_path / f"{mode}.{suffix}")
        picture = read_picture(tmp_path / f"{mode}.{suffix}", side=8)
        assert (picture.mode, picture.size) == ("RGB", (12, 9))
    deep = np.full((6, 6), 0x7F00, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(read_picture(tmp_path / "deep.png", side=8)).mean() == 0x7F


def test_large_jpegs_are_decoded_small_but_not_too_small(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200), (90, 60, 50)).save(tmp_path / "large.jpg")
    picture = read_picture(tmp_path / "large.jpg", side=128)
    assert min(picture.size) >= 2 * 128
    assert max(picture.size) < 1600


@settings(deadline=None)
@given(st.integers(0, 400))
def test_torn_files_are_decoded_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    write_images(folder, 1)
    path = folder / "clinic_0" / "image_00.png"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CohortError, match=r"image_00\.png: cannot be decoded"):
        read_picture(path, side=32)


def test_an_item_depends_on_seed_epoch_and_place_alone(tmp_path: Path) -> None:
    images = list_images([write_images(tmp_path)])

    def item(index: int, *, seed: int = 5, epoch: int = 0) -> np.ndarray:
        stream = MaskedImages(images, toy(seed=seed), epoch=epoch, skip_bad=False)
        image, masked, bad = stream[index]
        assert image.shape == (32, 32, 3)
        assert masked.shape == (16,)
        assert masked.sum() == 8
        assert bad == ()
        return np.concatenate([image.reshape(-1), masked])

    assert np.array_equal(item(3), item(3))
    assert not np.array_equal(item(3), item(4))
    assert not np.array_equal(item(3), item(3, epoch=1))
    assert not np.array_equal(item(3), item(3, seed=6))


def test_workers_change_nothing(tmp_path: Path) -> None:
    images = list_images([write_images(tmp_path)])
    stream = MaskedImages(images, toy(), epoch=1, skip_bad=False)
    order = epoch_order(10, toy(), epoch=1, rank=0, world_size=1)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    alone = list(load_epoch(stream, order, workers=0))
    assert torch.equal(torch.random.get_rng_state(), before)
    helped = list(load_epoch(stream, order, workers=1))
    assert len(alone) == len(helped) == 2
    for one, other in zip(alone, helped, strict=True):
        assert one.images.shape == (4, 3, 32, 32)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masked, other.masked)


@given(st.integers(4, 60), st.integers(0, 5), st.sampled_from([1, 2, 4]))
def test_processes_share_the_same_steps(count: int, epoch: int, world_size: int) -> None:
    parts = [
        epoch_order(count, toy(), epoch=epoch, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    together = [[i for part in step for i in part] for step in zip(*parts, strict=True)]
    assert together == epoch_order(count, toy(), epoch=epoch, rank=0, world_size=1)
    flat = [i for step in together for i in step]
    assert len(flat) == len(set(flat)) == count // 4 * 4
    assert set(flat) <= set(range(count))


def test_random_masks_are_drawn_when_asked_for(tmp_path: Path) -> None:
    images = list_images([write_images(tmp_path)])
    stream = MaskedImages(images, toy(masking__mode="random"), epoch=0, skip_bad=False)
    assert {int(stream[i][1].sum()) for i in range(10)} == {8}


def test_bad_images_stop_the_stream_or_are_replaced_and_named(tmp_path: Path) -> None:
    images = list_images([write_images(tmp_path)])
    for number in (2, 3):
        images.paths[number].write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    strict = MaskedImages(images, toy(), epoch=0, skip_bad=False)
    with pytest.raises(CohortError, match=r"clinic_0/image_04\.png: cannot be decoded \(--skip"):
        strict[2]
    lenient = MaskedImages(images, toy(), epoch=0, skip_bad=True)
    assert lenient[2][2] == ("clinic_0/image_04.png", "clinic_0/image_06.png")
    assert lenient[4][2] == ()
    for path in images.paths:
        path.write_bytes(b"")
    with pytest.raises(CohortError, match="10 images in a row cannot be decoded"):
        lenient[0]


def test_views_are_centred_squares_without_bad_images(tmp_path: Path) -> None:
    images = list_images([write_images(tmp_path)])
    images.paths[1].unlink()
    seen: list[int] = []
    views = load_views(images, [0, 1, 2], side=16, done=seen.append)
    assert views.shape == (2, 16, 16, 3)
    assert seen == [1, 2, 3]
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    assert view(Image.fromarray(stripes), 8).min() == 255
    assert load_views(images, [1], side=16, done=seen.append).shape == (0, 16, 16, 3)
