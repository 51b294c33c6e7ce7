"""The Triton adapter against a real gRPC server that misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from models.diagnosis import DiagnosisManifest
from tests.servers import free_port
from tests.unit.workers.fakes import DIGEST, manifest
from workers.adapters.triton import TritonModels
from workers.errors import BadModelOutput, ModelUnavailable
from workers.settings import TritonSettings

IMAGES = np.zeros((2, 224, 224, 3), np.uint8)
TYPES = {"f": "FP32", "u": "UINT8"}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's gRPC service, as far as the adapter calls it."""

    def __init__(self) -> None:
        self.is_ready = True
        self.parameters = {"manifest": manifest().to_json(), "digest": DIGEST}
        self.outputs: dict[str, np.ndarray] = {"LOGITS": np.ones((2, 7), np.float32)}
        self.refusal: grpc.StatusCode | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.requests: list[Any] = []

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return service_pb2.ModelReadyResponse(ready=self.is_ready)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        config = model_config_pb2.ModelConfig(name=request.name)
        for name, value in self.parameters.items():
            config.parameters[name].string_value = value
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.requests.append(request)
        self.hold.wait(30)
        if self.refusal is not None:
            context.abort(self.refusal, "Canary^Patient")
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, tensor in self.outputs.items():
            output = answer.outputs.add()
            output.name, output.datatype = name, TYPES[tensor.dtype.kind]
            output.shape.extend(tensor.shape)
            answer.raw_output_contents.append(tensor.tobytes())
        return answer


@pytest.fixture
def server() -> Iterator[tuple[FakeTriton, int]]:
    fake = FakeTriton()
    pool = futures.ThreadPoolExecutor(4)
    running = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield fake, port
    fake.hold.set()
    running.stop(None).wait()
    pool.shutdown()


@pytest.fixture
def connect() -> Iterator[Callable[..., TritonModels]]:
    clients: list[TritonModels] = []

    def connected(port: int, *, timeout_s: float = 10.0) -> TritonModels:
        settings = TritonSettings(url=f"127.0.0.1:{port}", timeout_s=timeout_s)
        clients.append(TritonModels(settings))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


Server = tuple[FakeTriton, int]
Connect = Callable[..., TritonModels]


class TestIdentify:
    def test_reads_manifest_and_digest(self, server: Server, connect: Connect) -> None:
        served = connect(server[1]).identify("diagnosis", DiagnosisManifest)
        assert served.digest == DIGEST
        assert served.manifest == manifest()

    def test_sees_a_new_version(self, server: Server, connect: Connect) -> None:
        models = connect(server[1])
        models.identify("diagnosis", DiagnosisManifest)
        other = "cd" * 32
        server[0].parameters = {"manifest": manifest(other).to_json(), "digest": other}
        assert models.identify("diagnosis", DiagnosisManifest).digest == other

    def test_model_that_is_not_ready_is_passing(self, server: Server, connect: Connect) -> None:
        server[0].is_ready = False
        with pytest.raises(ModelUnavailable, match="not ready"):
            connect(server[1]).identify("diagnosis", DiagnosisManifest)

    @pytest.mark.parametrize(
        "parameters",
        [
            {},
            {"digest": DIGEST},
            {"manifest": "{}", "digest": DIGEST},
            {"manifest": "no JSON", "digest": DIGEST},
            {"manifest": manifest("cd" * 32).to_json(), "digest": DIGEST},
        ],
    )
    def test_manifest_that_cannot_be_trusted_is_refused(
        self, server: Server, connect: Connect, parameters: dict[str, str]
    ) -> None:
        server[0].parameters = parameters
        with pytest.raises(BadModelOutput, match="manifest"):
            connect(server[1]).identify("diagnosis", DiagnosisManifest)

    def test_server_that_is_away_is_passing_and_comes_back(self, connect: Connect) -> None:
        port = free_port()
        models = connect(port, timeout_s=2.0)
        with pytest.raises(ModelUnavailable):
            models.identify("diagnosis", DiagnosisManifest)


class TestInfer:
    def test_gives_the_outputs_by_name(self, server: Server, connect: Connect) -> None:
        server[0].outputs = {
            "LOGITS": np.arange(14, dtype=np.float32).reshape(2, 7),
            "LESION_PROB": np.full((2, 4, 4), 9, np.uint8),
        }
        outputs = connect(server[1]).infer("diagnosis", {"IMAGE": IMAGES})
        assert set(outputs) == set(server[0].outputs)
        for name, tensor in server[0].outputs.items():
            assert np.array_equal(outputs[name], tensor)

    def test_sends_uint8(self, server: Server, connect: Connect) -> None:
        connect(server[1]).infer("diagnosis", {"IMAGE": IMAGES})
        (request,) = server[0].requests
        assert request.inputs[0].datatype == "UINT8"
        assert list(request.inputs[0].shape) == [2, 224, 224, 3]

    @pytest.mark.parametrize(
        "outputs",
        [
            {},
            {"LOGITS": np.full((2, 7), np.nan, np.float32)},
            {"LOGITS": np.full((2, 7), np.inf, np.float32)},
            {"LOGITS": np.zeros((1, 7), np.float32)},
            {"LOGITS": np.zeros((3, 7), np.float32)},
        ],
    )
    def test_answer_that_is_no_result_is_refused(
        self, server: Server, connect: Connect, outputs: dict[str, np.ndarray]
    ) -> None:
        server[0].outputs = outputs
        with pytest.raises(BadModelOutput):
            connect(server[1]).infer("diagnosis", {"IMAGE": IMAGES})

    @pytest.mark.parametrize("status", list(grpc.StatusCode)[1:])
    def test_every_grpc_status_is_translated_and_its_text_kept_out(
        self, server: Server, connect: Connect, status: grpc.StatusCode
    ) -> None:
        server[0].refusal = status
        with pytest.raises((ModelUnavailable, BadModelOutput)) as caught:
            connect(server[1]).infer("diagnosis", {"IMAGE": IMAGES})
        assert "canary" not in str(caught.value).lower()
        is_ours = status in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.DATA_LOSS,
        )
        assert isinstance(caught.value, BadModelOutput) == is_ours

    def test_slow_model_is_passing_and_ends_in_time(self, server: Server, connect: Connect) -> None:
        server[0].hold.clear()
        with pytest.raises(ModelUnavailable, match="deadline"):
            connect(server[1], timeout_s=0.3).infer("diagnosis", {"IMAGE": IMAGES})

    def test_inputs_of_different_batch_sizes_are_a_mistake_of_ours(
        self, server: Server, connect: Connect
    ) -> None:
        with pytest.raises(ValueError, match="batch"):
            connect(server[1]).infer("diagnosis", {"A": IMAGES, "B": IMAGES[:1]})
