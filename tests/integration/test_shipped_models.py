"""Every shipped model in a real Triton answers as its class does in this process."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from models.serving import PythonBackend
from tests.lentigo import running_triton
from training.export import live_number

pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[2] / "triton_repo"
MODELS = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
ANY_LENGTH, BATCH = 7, 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_triton(tmp_path_factory.mktemp("triton"), REPOSITORY, ("*",)) as url:
        yield url


def configuration(model: str) -> model_config_pb2.ModelConfig:
    text = (REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def drawn_inputs(config: model_config_pb2.ModelConfig) -> dict[str, np.ndarray]:
    """Inputs of the right shapes; small positive numbers suit embeddings and covariates alike."""
    rng = np.random.default_rng(0)
    inputs = {}
    for spec in config.input:
        shape = [BATCH] * bool(config.max_batch_size)
        shape += [ANY_LENGTH if size < 0 else size for size in spec.dims]
        kind = triton_to_np_dtype(model_config_pb2.DataType.Name(spec.data_type)[5:])
        if kind == np.uint8:
            inputs[spec.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            inputs[spec.name] = rng.uniform(0, 1, shape).astype(kind)
    return inputs


def backend_of(model: str, config: model_config_pb2.ModelConfig) -> PythonBackend:
    folder = REPOSITORY / model / str(live_number(REPOSITORY / model))
    source = (folder / "model.py").read_text(encoding="utf-8")
    found = re.search(r"^from (models\.backends\.\w+) import (\w+)$", source, re.MULTILINE)
    assert found is not None
    backend: PythonBackend = getattr(importlib.import_module(found[1]), found[2])()
    backend.device = torch.device("cpu")
    backend.max_batch_size = config.max_batch_size
    backend.load(
        config.parameters["manifest"].string_value, (folder / "weights.safetensors").read_bytes()
    )
    return backend


@pytest.mark.parametrize("model", MODELS)
def test_triton_answers_as_the_class_does(server: str, model: str) -> None:
    config = configuration(model)
    inputs = drawn_inputs(config)
    wires = []
    for spec in config.input:
        kind = model_config_pb2.DataType.Name(spec.data_type)[5:]
        wire = triton.InferInput(spec.name, list(inputs[spec.name].shape), kind)
        wire.set_data_from_numpy(inputs[spec.name])
        wires.append(wire)
    client = triton.InferenceServerClient(server)
    try:
        reply = client.infer(model, wires)
        answers = {spec.name: reply.as_numpy(spec.name) for spec in config.output}
    finally:
        client.close()
    expected = backend_of(model, config)._run(
        {name: torch.from_numpy(value) for name, value in inputs.items()}
    )
    assert set(answers) == set(expected)
    for name, tensor in expected.items():
        assert answers[name].shape == tuple(tensor.shape), name
        if tensor.dtype == torch.uint8:
            difference = answers[name].astype(int) - tensor.numpy().astype(int)
            assert np.abs(difference).max() <= 1, name
        else:
            assert np.isfinite(answers[name]).all(), name
            # The distance to the training data is whitened: its numbers are a hundredfold.
            assert answers[name] == pytest.approx(tensor.numpy(), rel=1e-4, abs=1e-4), name
