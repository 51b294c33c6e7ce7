"""Embeddings of image files by the encoder that serves, kept on disk for the next start.

Heads of several analyses are trained on the very numbers they will see: the encoder's weights are
rounded as the model repository stores them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.architectures.served_encoder import load_served_encoder
from models.embedding import EncoderManifest
from models.preprocessing import INPUT_SIZE, prepare_image
from models.weights import digest_of, encode_weights, fill, read_tensors
from training.augment import normalise
from training.cohorts import read_image
from training.errors import CohortError, RunError
from training.pretrained import load_compact
from training.runs import Progress, device, write_atomically

BLOCK = 128  # images of one file of the cache: what a kill loses at most


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """An encoder with its name."""

    network: nn.Module
    """Takes (B, S, S, 3) uint8 RGB, gives (B, D)."""
    digest: str
    """SHA-256 of its weights as the model repository stores them."""
    dim: int
    """Features D of an embedding."""
    size: int = INPUT_SIZE
    """Side S of its input in pixels."""

    @torch.inference_mode()
    def embed(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:
        """Embeddings (N, D) float32 of prepared images (N, S, S, 3) uint8."""
        place = next(self.network.parameters()).device
        found = [
            self.network(torch.from_numpy(images[start : start + batch_size]).to(place))
            for start in range(0, len(images), batch_size)
        ]
        if not found:
            return np.empty((0, self.dim), np.float32)
        return np.asarray(torch.cat(found).float().cpu().numpy())


class _Compact(nn.Module):
    """The compact encoder behind the normalisation of serving."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = normalise(images.permute(0, 3, 1, 2).float() / 255)
        found: torch.Tensor = self.encoder(pixels.contiguous(memory_format=torch.channels_last))
        return found


def load_embedder(folder: Path | None = None) -> Embedder:
    """Load the encoder whose embeddings the heads read.

    Parameters
    ----------
    folder
        E.g. ``triton_repo/encoder``: the version in service is taken. None for EfficientNet-Lite
        with its ImageNet weights, rounded as the repository stores it.

    Raises
    ------
    RunError
        If the folder cannot be read.
    PretrainedError
        If the ImageNet weights are not installed.
    """
    if folder is not None:
        try:
            manifest = EncoderManifest.from_json((folder / "manifest.json").read_text("utf-8"))
            files = [path.read_bytes() for path in sorted(folder.glob("*/weights.safetensors"))]
        except OSError as exc:
            raise RunError(f"{folder} holds no encoder: {exc.strerror}") from exc
        named = [weights for weights in files if digest_of(weights) == manifest.digest]
        if not named:
            raise RunError(f"{folder} lacks the weights that its manifest names")
        served: nn.Module = load_served_encoder(named[0], manifest)
        return _on_device(served, manifest.digest, manifest.dim, manifest.input.size)
    encoder = load_compact()
    weights = encode_weights(
        {f"encoder.{name}": value for name, value in encoder.state_dict().items()}, half=True
    )
    network = _Compact(encoder)
    fill(network, read_tensors(weights, digest_of(weights)))
    return _on_device(network, digest_of(weights), encoder.dim)


def _on_device(network: nn.Module, digest: str, dim: int, size: int = INPUT_SIZE) -> Embedder:
    network = network.to(device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Embedder(network=network.eval(), digest=digest, dim=dim, size=size)


def embed_files(
    embedder: Embedder, paths: Sequence[Path], cache: Path, report: Progress, text: str
) -> NDArray[np.float32]:
    """Embed image files, a block at a time, reading back the blocks that are there already.

    Parameters
    ----------
    embedder
        Encoder.
    paths
        N files.
    cache
        Folder for the blocks, made when missing; a block's name holds the digests of the encoder
        and of the files' contents.
    report
        Told of the progress under ``text``.

    Returns
    -------
    ndarray
        (N, D) float32.

    Raises
    ------
    CohortError
        If a file is missing or cannot be decoded.
    """
    cache.mkdir(parents=True, exist_ok=True)
    blocks = [np.empty((0, embedder.dim), np.float32)]
    for start in range(0, len(paths), BLOCK):
        part = paths[start : start + BLOCK]
        kept = cache / f"{_block_digest(embedder, part)}.npy"
        if kept.is_file():
            blocks.append(np.load(kept, allow_pickle=False))
        else:
            images = np.stack([prepare_image(read_image(path), embedder.size) for path in part])
            blocks.append(embedder.embed(images))
            content = io.BytesIO()
            np.save(content, blocks[-1], allow_pickle=False)
            write_atomically(kept, content.getvalue())
        report(text, start + len(part), len(paths))
    return np.concatenate(blocks)


def _block_digest(embedder: Embedder, paths: Sequence[Path]) -> str:
    found = hashlib.sha256(embedder.digest.encode())
    for path in paths:
        try:
            found.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as exc:
            raise CohortError(f"{path.name}: {exc.strerror}") from exc
    return found.hexdigest()[:32]
