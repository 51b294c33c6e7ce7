"""A model server for fault tests: Triton's gRPC service with drawn answers and faults on demand.

It serves the manifest and the shapes of a model of the repository, and answers at once, so that a
test of what happens around a model need not wait for one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import triton_to_np_dtype

from gateway.host.embedded import free_port

REPOSITORY = Path(__file__).resolve().parents[2] / "triton_repo"
_MAX_MESSAGE_BYTES = 2**31 - 1


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The methods that workers call; their names are those of the protocol."""

    def __init__(self, stub: TritonStub) -> None:
        self._stub = stub

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._stub.pass_fault("control", context)
        return service_pb2.ModelReadyResponse(ready=request.name in self._stub.configs)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._stub.pass_fault("control", context)
        if request.name not in self._stub.configs:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        return service_pb2.ModelConfigResponse(config=self._stub.configs[request.name])

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._stub.requests += 1
        self._stub.pass_fault("infer", context)
        return self._stub.answer(request)


class TritonStub:
    """The stub and its faults.

    Attributes
    ----------
    fault
        ``""``, ``hang`` (no answer), ``slow`` (``delay_s`` late), ``nan``, ``infinite``,
        ``shape`` (too few rows), ``unavailable``, ``internal``, ``missing`` (an output less).
    requests
        Inference requests so far.
    """

    def __init__(self, models: tuple[str, ...] = ("diagnosis",)) -> None:
        self.configs = {
            name: text_format.Parse(
                (REPOSITORY / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
            )
            for name in models
        }
        self.fault = ""
        self.delay_s = 2.0
        self.requests = 0
        self.port = free_port()
        self._let_go = threading.Event()
        self._server: Any = None

    @property
    def url(self) -> str:
        """``HOST:PORT`` of the gRPC service."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, on the same port each time."""
        self._let_go.clear()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(self), self._server)
        assert self._server.add_insecure_port(self.url) == self.port
        self._server.start()

    def stop(self) -> None:
        """Go away, with every request that is open."""
        self._let_go.set()
        if self._server is not None:
            self._server.stop(None).wait(20)
            self._server = None

    def heal(self) -> None:
        """Answer well again; requests that hang are answered."""
        self.fault = ""
        self._let_go.set()
        self._let_go = threading.Event()

    def pass_fault(self, kind: str, context: Any) -> None:
        """Do to one request what the fault says."""
        if self.fault == "hang":
            self._let_go.wait(600)
        elif self.fault == "slow" and kind == "infer":
            self._let_go.wait(self.delay_s)
        elif self.fault == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "a test")
        elif self.fault == "internal":
            context.abort(grpc.StatusCode.INTERNAL, "a test")

    def answer(self, request: Any) -> Any:
        """Return drawn outputs of the right shapes, or wrong ones on demand."""
        config = self.configs[request.model_name]
        rows = request.inputs[0].shape[0]
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        outputs = list(config.output)[: -1 if self.fault == "missing" else None]
        for output in outputs:
            name = model_config_pb2.DataType.Name(output.data_type).removeprefix("TYPE_")
            shape = [max(0, rows - 1) if self.fault == "shape" else rows, *output.dims]
            values = _drawn(shape, np.dtype(triton_to_np_dtype(name)))
            if values.dtype.kind == "f" and self.fault in ("nan", "infinite"):
                values.flat[0] = np.nan if self.fault == "nan" else np.inf
            tensor = response.outputs.add()
            tensor.name, tensor.datatype = output.name, name
            tensor.shape.extend(shape)
            response.raw_output_contents.append(values.tobytes())
        return response


def _drawn(shape: list[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return plausible values: small numbers, or a bright disc where bytes are asked for."""
    if dtype.kind == "f":
        return np.random.default_rng(5).normal(0, 1, shape).astype(dtype)
    rows, columns = np.indices(shape[-2:])
    disc = np.hypot(rows - shape[-2] / 2, columns - shape[-1] / 2) < shape[-1] / 4
    values: np.ndarray[Any, Any] = np.broadcast_to(disc * 255, shape).astype(dtype)
    return values


@contextmanager
def triton_stub(models: tuple[str, ...] = ("diagnosis",)) -> Iterator[TritonStub]:
    """Run a stub."""
    stub = TritonStub(models)
    stub.start()
    try:
        yield stub
    finally:
        with contextlib.suppress(ValueError):
            stub.stop()
