"""What every model of the repository shares on Triton's Python backend.

A model's ``1/model.py`` subclasses ``PythonBackend`` and hands over ``pb_utils``, which exists only
inside Triton. Everything else (digest, device, warm-up, gathering requests, DLPack) is here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

MAX_CPU_THREADS = 4  # beyond this a compact network gains nothing


def cpu_threads() -> int:
    """Half the cores: one forward pass split over cores that others keep busy waits for the last.

    On two cores under full load one thread answered in 0.2 to 0.4 s, two threads in 2 to 3 s.
    """
    return max(1, min(MAX_CPU_THREADS, len(os.sched_getaffinity(0)) // 2))


class PythonBackend:
    """Base of a ``TritonPythonModel``.

    Attributes
    ----------
    pb_utils
        Module ``triton_python_backend_utils``.
    INPUTS
        Names of the inputs, as in ``config.pbtxt``.
    GATHERS
        Whether the requests of one call are answered together: their inputs are joined along the
        first axis. False for bags, whose first axis is no batch.
    """

    pb_utils: Any = None
    INPUTS: tuple[str, ...] = ()
    GATHERS = True

    device: torch.device
    max_batch_size: int

    def load(self, manifest: str, weights: bytes) -> None:
        """Build the network on ``self.device``; an exception keeps the model unavailable."""
        raise NotImplementedError

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Answer one batch; inputs and outputs by name."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Answer once or twice, so that the first request is not slow."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton: load the weights beside the model and warm up."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        is_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if is_gpu else "cpu")
        self.max_batch_size = int(config["max_batch_size"])
        if not is_gpu:
            torch.set_num_threads(cpu_threads())
        self.load(
            config["parameters"]["manifest"]["string_value"],
            (folder / "weights.safetensors").read_bytes(),
        )
        self.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton: answer requests, in one forward pass where they can be gathered."""
        batches = [self._read(request) for request in requests]
        if not self.GATHERS:
            return [self._respond(self._run(batch), None) for batch in batches]
        joined = {name: torch.cat([batch[name] for batch in batches]) for name in self.INPUTS}
        answers = self._run(joined)
        responses, start = [], 0
        for batch in batches:
            end = start + len(batch[self.INPUTS[0]])
            responses.append(self._respond(answers, slice(start, end)))
            start = end
        return responses

    @torch.inference_mode()
    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.answer({name: tensor.to(self.device) for name, tensor in inputs.items()})
        return {name: tensor.cpu() for name, tensor in outputs.items()}

    def _read(self, request: Any) -> dict[str, Tensor]:
        # DLPack, not numpy: Triton's stub before 24.06 misreads arrays of numpy 2 and sends
        # empty outputs.
        find = self.pb_utils.get_input_tensor_by_name
        return {
            name: torch.utils.dlpack.from_dlpack(find(request, name).to_dlpack())
            for name in self.INPUTS
        }

    def _respond(self, answers: Mapping[str, Tensor], part: slice | None) -> Any:
        # A copy: each response owns its memory, whole and contiguous.
        tensors = [
            self.pb_utils.Tensor.from_dlpack(
                name, to_dlpack((answer if part is None else answer[part]).clone().contiguous())
            )
            for name, answer in answers.items()
        ]
        return self.pb_utils.InferenceResponse(output_tensors=tensors)


class ImageBackend(PythonBackend):
    """Base of the models that read (B, S, S, 3) uint8 images; ``load`` sets ``image_size`` S."""

    INPUTS = ("IMAGE",)

    image_size: int

    def warm_up(self) -> None:
        """Answer the smallest and, on a GPU, the largest batch."""
        for count in (1, 1, self.max_batch_size if self.device.type == "cuda" else 2):
            shape = (count, self.image_size, self.image_size, 3)
            self._run({"IMAGE": torch.zeros(shape, dtype=torch.uint8)})

    def autocast(self) -> torch.autocast:
        """Bfloat16 on a GPU, float32 on a processor."""
        is_gpu = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_gpu)
