"""Export, promote, shadow and roll back against a real Triton, one command each."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from tests.lentigo import running_triton
from training import __main__ as training
from training.export import Provenance
from training.pretrained import load_compact
from training.recipes import encoder_export

VERSIONS = ("1.0.0", "1.1.0")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    patch = pytest.MonkeyPatch()
    for number, version in enumerate(VERSIONS):
        encoder = load_compact()
        with torch.no_grad():
            encoder.head[0].weight.copy_(encoder.head[0].weight.roll(number, dims=0))
        patch.setattr(encoder_export, "load_compact", lambda encoder=encoder: encoder)
        encoder_export.export(
            None,
            folder,
            Provenance(
                version=version,
                training_command="none",
                evaluation_command="none",
                git_commit="none",
                created="2025-01-31",
            ),
        )
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_triton(tmp_path_factory.mktemp("triton"), repository, ("encoder",)) as url:
        yield url


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)


def answer(url: str, model: str) -> np.ndarray:
    client = triton.InferenceServerClient(url)
    try:
        wire = triton.InferInput("IMAGE", [2, 224, 224, 3], "UINT8")
        wire.set_data_from_numpy(images())
        return client.infer(model, [wire]).as_numpy("EMBEDDING")
    finally:
        client.close()


def expected(repository: Path, number: int) -> np.ndarray:
    folder = repository / "encoder" / str(number)
    manifest = EncoderManifest.from_json((folder / "manifest.json").read_bytes())
    encoder = load_served_encoder((folder / "weights.safetensors").read_bytes(), manifest)
    with torch.inference_mode():
        return encoder(torch.from_numpy(images())).numpy()


def command(repository: Path, url: str, *words: str) -> int:
    place = ["--repository", str(repository), "--model", "encoder", "--triton", url]
    return training.main([*words[:1], *place, *words[1:]])


def test_versions_come_and_go_in_a_running_triton(repository: Path, server: str) -> None:
    first, second = expected(repository, 1), expected(repository, 2)
    assert np.abs(first - second).max() > 1e-2
    assert answer(server, "encoder") == pytest.approx(first, abs=1e-4)

    assert command(repository, server, "shadow", "--version", "1.1.0") == 0
    assert answer(server, "encoder_shadow") == pytest.approx(second, abs=1e-4)
    assert answer(server, "encoder") == pytest.approx(first, abs=1e-4)
    assert command(repository, server, "shadow") == 0
    with pytest.raises(InferenceServerException):
        answer(server, "encoder_shadow")

    assert command(repository, server, "promote", "--version", "1.1.0") == 0
    assert answer(server, "encoder") == pytest.approx(second, abs=1e-4)
    assert command(repository, server, "rollback") == 0
    assert answer(server, "encoder") == pytest.approx(first, abs=1e-4)


def test_a_server_that_is_not_there_is_an_error(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(repository, "127.0.0.1:9", "promote", "--version", "1.0.0") == 1
    assert "does not follow" in capsys.readouterr().err
