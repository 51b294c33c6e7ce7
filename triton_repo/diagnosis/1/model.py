"""Triton's Python backend for the diagnosis model.

Loads the weights beside it, refuses them unless their digest is the manifest's, and answers all
requests of one call in one forward pass. The network itself lives in ``models``.
"""

import json
import os
from pathlib import Path

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import to_dlpack

from models.manifest import Manifest
from models.weights import load_served_diagnosis

MAX_CPU_THREADS = 4  # beyond this a compact network gains nothing


def _cpu_threads() -> int:
    """Half the cores: one forward pass split over cores that others keep busy waits for the last.

    On two cores under full load one thread answered in 0.2 to 0.4 s, two threads in 2 to 3 s.
    """
    return max(1, min(MAX_CPU_THREADS, len(os.sched_getaffinity(0)) // 2))


class TritonPythonModel:
    """The diagnosis model as Triton calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights and warm up; an exception here keeps the model unavailable."""
        config = json.loads(args["model_config"])
        manifest = Manifest.from_json(config["parameters"]["manifest"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"]
        weights = (folder / "weights.safetensors").read_bytes()
        is_gpu = args["model_instance_kind"] == "GPU" and torch.cuda.is_available()
        self._device = torch.device(f"cuda:{args['model_instance_device_id']}" if is_gpu else "cpu")
        if not is_gpu:
            torch.set_num_threads(_cpu_threads())
        self._network = load_served_diagnosis(weights, manifest).to(
            self._device, memory_format=torch.channels_last
        )
        size = manifest.input.size
        for count in (1, 1, int(config["max_batch_size"]) if is_gpu else 2):
            self._answer(torch.zeros((count, size, size, 3), dtype=torch.uint8))

    @torch.inference_mode()
    def _answer(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda"):
            output = self._network(images.to(self._device))
        return {
            "LOGITS": output.logits.cpu(),
            "EMBEDDING": output.embedding.cpu(),
            "OOD_SCORE": output.ood_score.cpu(),
            "LESION_PROB": output.lesion_prob.cpu(),
        }

    def execute(self, requests: list) -> list:
        """Answer all requests with one forward pass."""
        # DLPack, not numpy: Triton's stub before 24.06 misreads arrays of numpy 2 and sends
        # empty outputs.
        images = [
            torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "IMAGE").to_dlpack())
            for request in requests
        ]
        answers = self._answer(torch.cat(images))
        responses, start = [], 0
        for image in images:
            end = start + len(image)
            # A copy: each response owns its memory, whole and contiguous.
            parts = {name: answer[start:end].clone() for name, answer in answers.items()}
            tensors = [
                pb_utils.Tensor.from_dlpack(name, to_dlpack(part)) for name, part in parts.items()
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start = end
        return responses
