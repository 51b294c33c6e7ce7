"""Triton over gRPC: what is in service, and inference with checked answers.

Everything that tritonclient or grpc raises ends here: passing conditions become
``ModelUnavailable``, answers that break the model's contract ``BadModelOutput``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.faults import failpoint
from gateway.observation.tracing import outgoing_headers, traced
from models.errors import ManifestError
from models.manifest import Manifest
from workers.errors import BadModelOutput, ModelUnavailable
from workers.ports import ManifestKind, ServedModel, Tensors
from workers.settings import TritonSettings

_CONTROL_TIMEOUT_S = 5.0
"""Longest wait for an answer that needs no computation."""

_MAX_MESSAGE_BYTES = 2**31 - 1

# gRPC status codes under which another try may succeed; the rest says that the request or the
# model is wrong (https://grpc.io/docs/guides/status-codes/).
_PASSING = frozenset(
    {
        "StatusCode.CANCELLED",
        "StatusCode.DEADLINE_EXCEEDED",
        "StatusCode.RESOURCE_EXHAUSTED",
        "StatusCode.ABORTED",
        "StatusCode.UNAVAILABLE",
        # Triton: a model that is loading, being replaced or not there yet.
        "StatusCode.NOT_FOUND",
        "StatusCode.FAILED_PRECONDITION",
        # tritonclient's own time-out; a stub process of the Python backend that died.
        "StatusCode.UNKNOWN",
        "StatusCode.INTERNAL",
    }
)


class TritonModels:
    """The models of one Triton server; implements ``workers.ports.InferenceClient``.

    A gRPC channel does not survive a fork: make one client in each process.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._timeout_s = settings.timeout_s
        # Connects at the first call, and again by itself; never slower than every two seconds.
        self._client = triton.InferenceServerClient(
            settings.url,
            channel_args=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                # Hospitals set proxies for the web; a model server on the host is not behind one.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._manifests: dict[tuple[type[Manifest], str], Manifest] = {}

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def is_ready(self, model: str) -> bool:
        """Return whether a model would take a request now."""
        timeout_s = min(self._timeout_s, _CONTROL_TIMEOUT_S)
        try:
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except InferenceServerException:
            return False

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        """Return what is in service under a name; the manifest is parsed once for each digest."""
        timeout_s = min(self._timeout_s, _CONTROL_TIMEOUT_S)
        try:
            if not self._client.is_model_ready(model, client_timeout=timeout_s):
                raise ModelUnavailable(
                    f"the model {model} is not ready on the model server", model=model
                )
            config: Any = self._client.get_model_config(model, client_timeout=timeout_s).config
        except InferenceServerException as exc:
            raise _translated(exc, model) from exc
        parameters = {name: value.string_value for name, value in config.parameters.items()}
        text, digest = parameters.get("manifest", ""), parameters.get("digest", "")
        if not text or not digest:
            raise BadModelOutput(f"the served model {model} carries no manifest")
        return ServedModel(
            name=model, digest=digest, manifest=self._manifest(model, kind, digest, text)
        )

    def _manifest(
        self, model: str, kind: type[ManifestKind], digest: str, text: str
    ) -> ManifestKind:
        known = self._manifests.get((kind, digest))
        if isinstance(known, kind):
            return known
        try:
            manifest = kind.from_json(text)
        except ManifestError as exc:
            raise BadModelOutput(f"the manifest of the model {model} is wrong: {exc}") from exc
        if manifest.digest != digest:
            raise BadModelOutput(f"the manifest of the model {model} belongs to other weights")
        self._manifests[kind, digest] = manifest
        return manifest

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        """Return every output for one request."""
        batch = {len(tensor) for tensor in inputs.values()} if is_batched else {None}
        if len(batch) != 1:
            raise ValueError("the inputs of one request have one batch size")
        try:
            with traced("workers", "infer", {"lentigo.model": model}):
                headers = outgoing_headers("workers")
                answer = self._client.infer(
                    model,
                    [_wire(name, tensor) for name, tensor in inputs.items()],
                    client_timeout=self._timeout_s,
                    timeout=int(self._timeout_s * 1e6),  # the server gives up too, in microseconds
                    headers=headers,
                    # Triton's gRPC front end (2.51 to 2.73, GrpcServerCarrier) reads the header as
                    # a C string, beyond its end, and then begins a trace of its own; the id
                    # always arrives, as triton.request_id of its span.
                    request_id=headers.get("traceparent", ""),
                )
        except InferenceServerException as exc:
            raise _translated(exc, model) from exc
        failpoint("worker.model_answered")
        return _checked(answer, model, batch.pop())


def _wire(name: str, tensor: NDArray[Any]) -> Any:
    contiguous = np.ascontiguousarray(tensor)
    wire = triton.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
    wire.set_data_from_numpy(contiguous)
    return wire


def _checked(answer: Any, model: str, batch: int | None) -> dict[str, NDArray[Any]]:
    """Return the outputs; each must be finite and, where there is a batch, of its size."""
    outputs: dict[str, NDArray[Any]] = {}
    for output in answer.get_response().outputs:
        try:
            tensor = answer.as_numpy(output.name)
        except (ValueError, TypeError, InferenceServerException) as exc:
            raise BadModelOutput(f"the model {model} sent an unreadable {output.name}") from exc
        if tensor is None or tensor.ndim < 1 or (batch is not None and len(tensor) != batch):
            shape = None if tensor is None else tensor.shape
            asked = "the request" if batch is None else f"{batch} images"
            raise BadModelOutput(
                f"the model {model} answered {asked} with {output.name} of shape {shape}"
            )
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BadModelOutput(f"the model {model} sent {output.name} that is not finite")
        outputs[output.name] = tensor
    if not outputs:
        raise BadModelOutput(f"the model {model} sent no output")
    return outputs


def _translated(exc: InferenceServerException, model: str) -> ModelUnavailable | BadModelOutput:
    """Return our error for one of theirs; its text stays in the cause, it may quote the request."""
    status = str(exc.status() or "")
    word = status.removeprefix("StatusCode.").lower().replace("_", " ") or "no status"
    if not status or status in _PASSING:
        return ModelUnavailable(f"the model {model} cannot be asked now ({word})", model=model)
    return BadModelOutput(f"the model server refuses a request to {model} ({word})")
