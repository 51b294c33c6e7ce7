"""Reading a checkpoint file into tensors by key, without running anything that it contains.

It unwraps and renames; what the keys must be is decided by whoever builds the network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import WeightsError

WRAPPERS = ("model", "state_dict", "module")
"""Entries of a nested checkpoint under which the tensors lie."""
ENCODER_PREFIX = "encoder."
PARALLEL_PREFIX = "module."  # torch.nn.parallel.DistributedDataParallel
BESIDE_ENCODER = ("rd_pos_embed", "mask_token", "regresser.", "decoder.", "teacher.", "head.")
"""Keys of pretraining that an encoder does not need; ``regresser`` is upstream's spelling."""

_CHUNK_BYTES = 1 << 22
_MAX_NESTING = 4
_NAMED = 3  # keys spelt out in a message; the rest is counted
# What the unpickler and the zip reader raise on damaged files.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ImportError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    pickle.PickleError,
    struct.error,
    zipfile.BadZipFile,
    SafetensorError,
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits, read piece by piece.

    Raises
    ------
    WeightsError
        If the file is missing, a folder, empty or not readable.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise WeightsError(f"{path.name}: the file is empty")
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as exc:
        raise WeightsError(f"{path}: {exc.strerror or exc}") from exc
    return digest.hexdigest()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a checkpoint file under plain names.

    Known layouts: flat; nested under ``model``, ``state_dict`` or ``module``, with an
    ``argparse.Namespace`` and an optimiser beside; keys prefixed ``module.``; encoder keys
    prefixed ``encoder.`` with the other parts of pretraining beside. Written by ``torch.save``
    (either format) or as safetensors.

    Parameters
    ----------
    path
        The file. Tensors stay on disk where the format allows it and are read when used, so
        a caller that copies them one by one holds the weights once.

    Returns
    -------
    tuple
        Key -> tensor on the CPU, and the SHA-256 of the file.

    Raises
    ------
    WeightsError
        If the file is missing, not a checkpoint, damaged, or changes while it is read; if an
        entry is not a tensor, or two keys become one.
    """
    path = Path(path)
    digest = file_digest(path)
    before = _identity(path)
    content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    if _identity(path) != before:
        raise WeightsError(f"{path.name}: the file changed while it was read")
    return plain_keys(_unwrap(content, path.name), path.name), digest


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise WeightsError(f"{path}: {exc.strerror or exc}") from exc
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_safetensors(path: Path) -> bool:
    """Tell by content: a length in 8 bytes, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> object:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except UNREADABLE as exc:
        raise WeightsError(f"{path.name}: damaged safetensors file ({exc})") from exc


def _read_pickle(path: Path) -> object:
    is_zip = zipfile.is_zipfile(path)  # only torch's newer format can be mapped into memory
    try:
        # Nested files of PanDerm carry their command line; any other class is refused.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except UNREADABLE as exc:
        reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
        raise WeightsError(f"{path.name}: not a readable checkpoint ({reason})") from exc


def _unwrap(content: object, name: str) -> Mapping[object, object]:
    """Follow the wrappers down to the mapping that holds the tensors."""
    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            return content
        content = inner[0]
    raise WeightsError(f"{name}: no mapping from keys to tensors, but {type(content).__name__}")


def plain_keys(entries: Mapping[object, object], name: str) -> dict[str, Tensor]:
    """Strip prefixes and leave out the parts of pretraining.

    Parameters
    ----------
    entries
        Key -> tensor as found in the file.
    name
        Name of the file for messages.

    Raises
    ------
    WeightsError
        If there is no entry, one is not a tensor, two keys become one, or a file whose encoder
        keys are prefixed holds something else unknown.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in entries.items():
        if not isinstance(key, str):
            raise WeightsError(f"{name}: a key is {type(key).__name__}, not text")
        plain = key.removeprefix(PARALLEL_PREFIX)
        if not isinstance(value, Tensor):
            raise WeightsError(f"{name}: {key} is {type(value).__name__}, not a tensor")
        if plain in tensors:
            raise WeightsError(f"{name}: {plain} is there with and without {PARALLEL_PREFIX}")
        tensors[plain] = value
    if not tensors:
        raise WeightsError(f"{name}: holds no tensor")
    if not any(key.startswith(ENCODER_PREFIX) for key in tensors):
        return tensors
    others = [key for key in tensors if not key.startswith((ENCODER_PREFIX, *BESIDE_ENCODER))]
    if others:
        raise WeightsError(f"{name}: unexpected beside the encoder: {name_some(others)}")
    return {
        key.removeprefix(ENCODER_PREFIX).removeprefix(PARALLEL_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(ENCODER_PREFIX)
    }


def name_some(keys: Iterable[str]) -> str:
    """First few keys in order, and how many more there are."""
    ordered = sorted(keys)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def copy_float32(tensor: Tensor, key: str, name: str) -> Tensor:
    """Copy of a weight as float32 in its own memory, off the file.

    Raises
    ------
    WeightsError
        If it is not a dense tensor of real numbers, or a value is not finite.
    """
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_quantized:
        raise WeightsError(f"{name}: {key} has type {tensor.dtype}, not real numbers")
    copied = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(copied).all():
        raise WeightsError(f"{name}: {key} holds values that are not finite")
    return copied
