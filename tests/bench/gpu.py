"""``make bench-gpu``: what Triton makes of a GPU, as a share of what the GPU can do.

Three rates in one run: bfloat16 matrix products (the device's own limit), the bare forward pass of
ViT-L (PanDerm Large's shape, random weights) and the same network behind Triton, images sent as
uint8. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.architectures.panderm import PandermEncoder
from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from models.shapes import EncoderShape
from tests.lentigo import running_triton
from training.export import Provenance
from training.recipes.encoder_export import export
from workers.adapters.triton import TritonModels
from workers.settings import TritonSettings

VIT_L = EncoderShape(dim=1024, depth=24, heads=16)
GFLOP_AN_IMAGE = 123.1
"""Of ViT-L/16 at 224 pixels, two for each multiply-add: 790 TFLOP/s are 6,417 images/s."""
BATCH, SECONDS, IN_FLIGHT = 64, 10.0, 8


def matrix_tflops(side: int = 8192) -> float:
    """Rate of bfloat16 products of square matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    per_call = 2 * side**3 / 1e12
    return _rate(lambda: torch.mm(a, b)) * per_call


def _rate(step: Callable[[], object]) -> float:
    """Calls a second once warm."""
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        calls += 10
    return calls / (time.perf_counter() - started)


def write_vit_l(folder: Path) -> EncoderManifest:
    """Put a ViT-L of random weights into a model repository, by way of a PanDerm-like file."""
    torch.manual_seed(0)
    state = {
        name.removeprefix("encoder."): value
        for name, value in PandermEncoder(VIT_L).state_dict().items()
    }
    torch.save(state, folder / "vit-l.pth")
    provenance = Provenance(
        version="0.0.1",
        training_command="none: random weights",
        evaluation_command="none",
        git_commit="0" * 40,
        created="2026-01-01",
    )
    return export(None, folder / "repository", provenance, panderm=folder / "vit-l.pth")


def bare_images_s(folder: Path, manifest: EncoderManifest) -> float:
    """Images a second of the network itself, its input on the device already."""
    weights = (folder / "repository" / "encoder" / "1" / "weights.safetensors").read_bytes()
    network = load_served_encoder(weights, manifest).to("cuda")
    images = torch.randint(0, 256, (BATCH, 224, 224, 3), dtype=torch.uint8, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        return _rate(lambda: network(images)) * BATCH


def triton_images_s(folder: Path) -> float:
    """Images a second through the real server, several requests in flight."""
    with running_triton(folder, repository=folder / "repository", models=("encoder",)) as url:
        clients = [TritonModels(TritonSettings(url=url)) for _ in range(IN_FLIGHT)]
        images = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), np.uint8)
        counts = [0] * IN_FLIGHT
        for client in clients:
            client.infer("encoder", {"IMAGE": images})
        deadline = time.perf_counter() + SECONDS

        def ask(slot: int) -> None:
            while time.perf_counter() < deadline:
                clients[slot].infer("encoder", {"IMAGE": images})
                counts[slot] += BATCH

        threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(IN_FLIGHT)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        passed = time.perf_counter() - started
        for client in clients:
            client.close()
    return sum(counts) / passed


def main() -> int:
    """Measure, or say why not."""
    if not torch.cuda.is_available():
        print("no GPU here: the figures of bench-gpu stay open")
        return 0
    name = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    print(f"# {name or torch.cuda.get_device_name()}")
    tflops = matrix_tflops()
    limit = tflops * 1000 / GFLOP_AN_IMAGE
    print(f"bf16 matrix products {tflops:.0f} TFLOP/s: at most {limit:.0f} images/s of ViT-L")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        manifest = write_vit_l(folder)
        bare = bare_images_s(folder, manifest)
        print(f"bare forward pass    {bare:.0f} images/s, {bare / limit:.0%} of the limit")
        served = triton_images_s(folder)
        print(f"through Triton       {served:.0f} images/s, {served / limit:.0%} of the limit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
