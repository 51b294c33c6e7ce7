"""What the parts of an analysis took, in time and traffic: for timelines and benches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from workers.ports import InferenceClient, ManifestKind, ServedModel, Tensors


class Meter:
    """Adds up seconds by name, and requests and bytes of the model server."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._counts = {"requests": 0, "bytes_sent": 0, "bytes_received": 0}
        self._lock = threading.Lock()  # the encoder's requests overlap

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time inside to a name."""
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                passed = time.monotonic() - started
                self._seconds[name] = self._seconds.get(name, 0.0) + passed

    def count(self, sent: Tensors, received: Tensors) -> None:
        """Count one request."""
        with self._lock:
            self._counts["requests"] += 1
            self._counts["bytes_sent"] += sum(each.nbytes for each in sent.values())
            self._counts["bytes_received"] += sum(each.nbytes for each in received.values())

    def as_dict(self) -> dict[str, float]:
        """Seconds by name with ``_s`` behind it, and the counts.

        ``inference_s`` is the sum over requests; where they overlap it may exceed ``run_s``.
        """
        seconds = {f"{name}_s": round(value, 4) for name, value in self._seconds.items()}
        return {**seconds, **self._counts}


class MeteredModels:
    """A model server whose requests are measured; implements ``workers.ports.InferenceClient``."""

    def __init__(self, models: InferenceClient, meter: Meter) -> None:
        self._models = models
        self._meter = meter

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        """Return what is in service under a name."""
        return self._models.identify(model, kind)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        """Return the outputs for one request."""
        with self._meter.measure("inference"):
            outputs = self._models.infer(model, inputs, is_batched=is_batched)
        self._meter.count(inputs, outputs)
        return outputs
