"""Features are computed once, survive a kill at any byte, and name an image that is corrupt."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.errors import OutputError
from models.preprocessing import normalise_pixels, prepare_image, prepare_reference
from training.errors import CohortError, RunError
from training.features.extraction import Features, extract_features
from training.features.store import FeatureStore

DIGEST = "ab" * 32


class Counting(nn.Module):
    """Means and extremes of each channel, and how often it was asked."""

    dim = 6

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.images = -1  # the image that tells whether a store fits is not counted
        self.stop_after = stop_after

    def forward(self, images: Tensor) -> Tensor:
        if self.stop_after is not None and self.images >= self.stop_after:
            raise KeyboardInterrupt
        self.images += len(images)
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], dim=1)


def write_images(folder: Path, count: int = 7) -> list[tuple[str, Path]]:
    folder.mkdir()
    files = []
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        path = folder / f"image_{number}.png"
        Image.fromarray(pixels).save(path)
        files.append((f"image_{number}", path))
    return files


def extract(files: list[tuple[str, Path]], cache: Path, network: nn.Module, **changes: object):
    options = {"framing": "reference", "batch_size": 3, "digest": DIGEST} | changes
    return extract_features(
        files, backbone=network, cache=cache, device=torch.device("cpu"), **options
    )


def expected_of(path: Path, framing: str = "reference") -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    prepared = prepare_reference(pixels) if framing == "reference" else prepare_image(pixels)
    images = torch.from_numpy(normalise_pixels(prepared[None]))
    return Counting()(images)[0].numpy()


def test_rows_are_the_encoders_answers_in_order(tmp_path: Path) -> None:
    files = write_images(tmp_path / "images")
    found = extract(files, tmp_path / "cache", Counting())
    assert found.computed == 7
    assert found.features.ids == tuple(name for name, _ in files)
    for row, (_, path) in zip(found.features.values, files, strict=True):
        assert np.allclose(row, expected_of(path), atol=1e-6)


def test_an_image_is_encoded_once_whatever_its_name_or_order(tmp_path: Path) -> None:
    files = write_images(tmp_path / "images")
    first = extract(files, tmp_path / "cache", Counting()).features
    shutil.copy(files[2][1], tmp_path / "copy.png")
    files = [("copy", tmp_path / "copy.png"), *files[::-1]]
    network = Counting()
    second = extract(files, tmp_path / "cache", network)
    assert network.images == second.computed == 0
    assert np.array_equal(second.features.values[0], first.values[2])
    assert np.array_equal(second.features.values[1:], first.values[::-1])


def test_equal_images_of_one_batch_are_encoded_once(tmp_path: Path) -> None:
    files = write_images(tmp_path / "images", 1) * 3
    network = Counting()
    found = extract([(str(i), path) for i, (_, path) in enumerate(files)], tmp_path / "c", network)
    assert network.images == 1
    assert np.array_equal(found.features.values[0], found.features.values[2])


@pytest.mark.parametrize("change", [{"digest": "cd" * 32}, {"framing": "whole"}])
def test_another_encoder_or_framing_has_rows_of_its_own(
    tmp_path: Path, change: dict[str, str]
) -> None:
    files = write_images(tmp_path / "images")
    extract(files, tmp_path / "cache", Counting())
    network = Counting()
    found = extract(files, tmp_path / "cache", network, **change)
    assert network.images == 7
    expected = expected_of(files[3][1], change.get("framing", "reference"))
    assert np.allclose(found.features.values[3], expected, atol=1e-6)


def test_a_broken_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    files = write_images(tmp_path / "images")
    with pytest.raises(KeyboardInterrupt):
        extract(files, tmp_path / "cache", Counting(stop_after=6))
    network = Counting()
    found = extract(files, tmp_path / "cache", network)
    assert network.images == 1
    whole = extract(files, tmp_path / "other", Counting())
    assert np.array_equal(found.features.values, whole.features.values)


def test_the_same_weights_in_a_changed_network_are_noticed(tmp_path: Path) -> None:
    class Changed(Counting):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0.1

    files = write_images(tmp_path / "images")
    extract(files, tmp_path / "cache", Counting())
    with pytest.raises(RunError, match="another network"):
        extract(files, tmp_path / "cache", Changed())


def stores(folder: Path) -> tuple[Path, Path]:
    (place,) = folder.iterdir()
    return place / "rows.f32", place / "index.txt"


@pytest.mark.parametrize("lost_rows", [0, 1, 24, 30])
@pytest.mark.parametrize("lost_records", [0, 1, 74, 100])
def test_any_torn_tail_is_cut_and_computed_again(
    tmp_path: Path, lost_rows: int, lost_records: int
) -> None:
    files = write_images(tmp_path / "images", 4)
    whole = extract(files, tmp_path / "cache", Counting()).features
    rows, index = stores(tmp_path / "cache")
    rows.write_bytes(rows.read_bytes()[: 4 * 24 - lost_rows])
    index.write_bytes(index.read_bytes()[: 4 * 74 - lost_records])
    network = Counting()
    again = extract(files, tmp_path / "cache", network)
    lost = max(-(-lost_rows // 24), -(-lost_records // 74))
    assert network.images == lost
    assert np.array_equal(again.features.values, whole.values)


def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    files = write_images(tmp_path / "images", 4)
    extract(files, tmp_path / "cache", Counting())
    rows, _ = stores(tmp_path / "cache")
    content = bytearray(rows.read_bytes())
    content[30] ^= 1
    rows.write_bytes(content)
    with pytest.raises(RunError, match="damaged in row 1"):
        extract(files, tmp_path / "cache", Counting())


def test_a_store_belongs_to_one_encoder_and_one_run(tmp_path: Path) -> None:
    digests = ["ab" * 32, "ab" * 8 + "cd" * 24]
    options = {"dim": 3, "framing": "whole", "preparation": {}, "check": np.ones(3, np.float32)}
    first = FeatureStore(tmp_path, backbone=digests[0], **options)
    with pytest.raises(RunError, match="in use"):
        FeatureStore(tmp_path, backbone=digests[0], **options)
    first.close()
    with pytest.raises(RunError, match="another encoder"):
        FeatureStore(tmp_path, backbone=digests[1], **options)


def test_a_full_disk_leaves_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "backbone": DIGEST,
        "dim": 3,
        "framing": "whole",
        "preparation": {},
        "check": np.ones(3, np.float32),
    }
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    with FeatureStore(tmp_path, **options) as store:
        store.append(names[:2], rows)

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="No space"):
            store.append(names[2:], rows[:1])
    monkeypatch.undo()
    with FeatureStore(tmp_path, **options) as store:
        assert np.array_equal(store.read(names[:2]), rows)
        assert names[2] not in store.places


def corrupt_files(folder: Path) -> dict[str, bytes]:
    whole = (folder / "image_0.png").read_bytes()
    chunk = bytearray(whole)
    chunk[60] ^= 0xFF
    return {
        "empty": b"",
        "text": b"no image",
        "torn": whole[: len(whole) // 2],
        "bits": bytes(chunk),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "torn", "bits"])
def test_a_corrupt_image_is_named_or_left_out(tmp_path: Path, kind: str) -> None:
    files = write_images(tmp_path / "images", 4)
    files[2][1].write_bytes(corrupt_files(tmp_path / "images")[kind])
    with pytest.raises(CohortError, match="image_2"):
        extract(files, tmp_path / "cache", Counting())
    found = extract(files, tmp_path / "cache", Counting(), is_lenient=True)
    assert found.features.ids == ("image_0", "image_1", "image_3")
    assert [name for name, _ in found.skipped] == ["image_2"]
    assert np.allclose(found.features.values[2], expected_of(files[3][1]), atol=1e-6)


def test_missing_and_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no image"):
        extract([], tmp_path / "cache", Counting())
    absent = [("absent", tmp_path / "absent.png")]
    with pytest.raises(CohortError, match="absent"):
        extract(absent, tmp_path / "cache", Counting())
    with pytest.raises(CohortError, match="none of 1"):
        extract(absent, tmp_path / "cache", Counting(), is_lenient=True)


def test_an_answer_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    class Broken(Counting):
        def forward(self, images: Tensor) -> Tensor:
            found = super().forward(images)
            return found / 0 if self.images else found

    with pytest.raises(OutputError, match="image_0"):
        extract(write_images(tmp_path / "images"), tmp_path / "cache", Broken())


def test_features_are_saved_read_and_selected(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    features = Features(ids=("a", "b", "ü"), values=values, backbone=DIGEST, framing="whole")
    features.save(tmp_path / "f.npz")
    again = Features.read(tmp_path / "f.npz")
    assert again.ids == features.ids
    assert (again.backbone, again.framing) == (DIGEST, "whole")
    assert np.array_equal(again.select(["ü", "a"]), values[[2, 0]])
    with pytest.raises(CohortError, match="2 images"):
        again.select(["a", "x", "y"])
    (tmp_path / "f.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:200])
    for name in ("f.npz", "absent.npz"):
        with pytest.raises(RunError, match="no features"):
            Features.read(tmp_path / name)
