"""One image is encoded once for each version of the encoder, whoever asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.embedding import EncoderManifest
from tests.unit.workers.fakes import FakeEmbeddings
from workers.adapters.embeddings import EmbeddingFile
from workers.encoding import BATCH, Encoder, content_key
from workers.errors import BadModelOutput, EncoderMismatch, LimitExceeded
from workers.ports import ManifestKind, ServedModel, Tensors

DIGEST = "cd" * 32
MANIFEST = EncoderManifest.from_json(
    (Path(__file__).parents[3] / "triton_repo" / "encoder" / "manifest.json").read_text()
)


class CountingEncoder:
    """Answers with the mean of each image, in every feature."""

    def __init__(self, width: int = MANIFEST.dim) -> None:
        self.batches: list[int] = []
        self.width = width

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        assert isinstance(MANIFEST, kind)
        return ServedModel(name=model, digest=DIGEST, manifest=MANIFEST)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        images = inputs["IMAGE"]
        self.batches.append(len(images))
        means = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
        return {"EMBEDDING": np.repeat(means[:, None], self.width, axis=1).astype(np.float32)}


def picture(level: int) -> NDArray[np.uint8]:
    return np.full((224, 224, 3), level, np.uint8)


class Pictures:
    """Loads pictures by number, and remembers which."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = levels
        self.loaded: list[int] = []
        self.keys = [content_key(picture(level)) for level in levels]

    def __call__(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        self.loaded += numbers
        return np.stack([picture(self.levels[number]) for number in numbers])


def nothing() -> None:
    pass


def test_every_image_gets_its_own_embedding_in_order() -> None:
    levels = list(range(100))
    found = Encoder(CountingEncoder(), FakeEmbeddings()).encode(
        Pictures(levels).keys, Pictures(levels), nothing
    )
    assert found.shape == (100, MANIFEST.dim)
    assert found[:, 0].tolist() == levels


def test_images_go_in_batches_and_equal_ones_once() -> None:
    models, pictures = CountingEncoder(), Pictures([*range(70), 3, 3])
    found = Encoder(models, FakeEmbeddings()).encode(pictures.keys, pictures, nothing)
    assert sorted(models.batches, reverse=True) == [BATCH, BATCH, 70 - 2 * BATCH]
    assert found[[70, 71], 0].tolist() == [3, 3]
    assert pictures.loaded == list(range(70))


def test_what_is_known_is_neither_loaded_nor_encoded_again() -> None:
    kept, models = FakeEmbeddings(), CountingEncoder()
    first = Pictures([1, 2, 3])
    Encoder(models, kept).encode(first.keys, first, nothing)
    second = Pictures([3, 9, 1])
    found = Encoder(models, kept).encode(second.keys, second, nothing)
    assert second.loaded == [1]
    assert found[:, 0].tolist() == [3, 9, 1]
    assert models.batches == [3, 1]


def test_a_stop_in_the_middle_keeps_what_was_encoded() -> None:
    kept, models, pictures = FakeEmbeddings(), CountingEncoder(), Pictures(range(200))
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise LimitExceeded("time")

    with pytest.raises(LimitExceeded):
        Encoder(models, kept).encode(pictures.keys, pictures, stop)
    assert len(kept.kept) >= 2 * BATCH
    again = Pictures(range(200))
    Encoder(models, kept).encode(again.keys, again, nothing)
    assert len(again.loaded) <= 200 - 2 * BATCH


def test_embeddings_of_another_width_are_refused() -> None:
    pictures = Pictures([1])
    with pytest.raises(BadModelOutput, match="shape"):
        Encoder(CountingEncoder(width=7), FakeEmbeddings()).encode(pictures.keys, pictures, nothing)


def test_a_head_of_another_encoder_is_not_fed() -> None:
    encoder = Encoder(CountingEncoder(), FakeEmbeddings())
    encoder.require(DIGEST)
    with pytest.raises(EncoderMismatch, match="abababab"):
        encoder.require("ab" * 32)


def test_no_images_ask_nothing() -> None:
    models = CountingEncoder()
    found = Encoder(models, FakeEmbeddings()).encode([], Pictures([]), nothing)
    assert found.shape == (0, MANIFEST.dim)
    assert models.batches == []


class TestFile:
    def test_survives_a_restart_and_keeps_encoders_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "features.sqlite3"
        rows = {f"{n:04}": np.full(5, n, np.float32) for n in range(1200)}
        first = EmbeddingFile(path)
        first.put(DIGEST, rows)
        first.close()
        again = EmbeddingFile(path)
        found = again.get(DIGEST, [*rows, "unknown"])
        assert found.keys() == rows.keys()
        assert all(np.array_equal(found[key], rows[key]) for key in rows)
        assert again.get("ef" * 32, list(rows)) == {}
        again.close()

    def test_is_bounded(self, tmp_path: Path) -> None:
        file = EmbeddingFile(tmp_path / "features.sqlite3", max_rows=100)
        for number in range(301):
            file.put(DIGEST, {f"{number}": np.zeros(3, np.float32)})
        keys = [f"{number}" for number in range(301)]
        found = file.get(DIGEST, keys)
        assert len(found) <= 200
        assert "300" in found
        file.close()

    @pytest.mark.parametrize("content", [b"not a database at all, " * 100, b""])
    def test_a_damaged_file_is_thrown_away(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "features.sqlite3"
        path.write_bytes(content)
        file = EmbeddingFile(path)
        assert file.get(DIGEST, ["a"]) == {}
        file.put(DIGEST, {"a": np.ones(3, np.float32)})
        assert np.array_equal(file.get(DIGEST, ["a"])["a"], np.ones(3))
        file.close()

    def test_a_folder_that_cannot_be_written_costs_only_time(self, tmp_path: Path) -> None:
        (tmp_path / "blocked").write_text("a file where a folder should be")
        file = EmbeddingFile(tmp_path / "blocked" / "features.sqlite3")
        file.put(DIGEST, {"a": np.ones(3, np.float32)})
        assert file.get(DIGEST, ["a"]) == {}

    def test_two_processes_may_write(self, tmp_path: Path) -> None:
        path = tmp_path / "features.sqlite3"
        one, two = EmbeddingFile(path), EmbeddingFile(path)
        one.put(DIGEST, {"a": np.ones(3, np.float32)})
        two.put(DIGEST, {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)})
        assert set(one.get(DIGEST, ["a", "b"])) == {"a", "b"}
        assert one.get(DIGEST, ["a"])["a"].tolist() == [1, 1, 1]
        one.close()
        two.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM embeddings").fetchone() == (2,)
        connection.close()
