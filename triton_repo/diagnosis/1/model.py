"""Triton's Python backend for the diagnosis model.

Loads the weights beside it, refuses them unless their digest is the manifest's, and answers all
requests of one call in one forward pass. The network itself lives in ``models``.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from models.manifest import Manifest
from models.weights import load_served_diagnosis

MAX_CPU_THREADS = 4  # beyond this a compact network only takes cores from the other services


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
            torch.set_num_threads(min(MAX_CPU_THREADS, os.cpu_count() or 1))
        self._network = load_served_diagnosis(weights, manifest).to(
            self._device, memory_format=torch.channels_last
        )
        size = manifest.input.size
        for count in (1, 1, int(config["max_batch_size"]) if is_gpu else 2):
            self._answer(np.zeros((count, size, size, 3), np.uint8))

    @torch.inference_mode()
    def _answer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(images).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, self._device.type == "cuda"):
            output = self._network(batch)
        return {
            "LOGITS": output.logits.cpu().numpy(),
            "EMBEDDING": output.embedding.cpu().numpy(),
            "OOD_SCORE": output.ood_score.cpu().numpy(),
            "LESION_PROB": output.lesion_prob.cpu().numpy(),
        }

    def execute(self, requests: list) -> list:
        """Answer all requests with one forward pass."""
        images = [
            pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy() for request in requests
        ]
        answers = self._answer(np.concatenate(images))
        responses, start = [], 0
        for image in images:
            end = start + len(image)
            tensors = [pb_utils.Tensor(name, part[start:end]) for name, part in answers.items()]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start = end
        return responses
