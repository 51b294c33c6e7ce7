"""Pluggable encoders: whatever turns normalised images into embeddings, under one call.

``compact:PATH`` is the network that ships, ``panderm:PATH`` a site's own PanDerm file,
``onnx:PATH`` and ``export:PATH`` any network in those formats. An exported program is code: load
only files whose origin is known.
"""

from __future__ import annotations

import importlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.architectures.checkpoint import UNREADABLE, copy_float32, file_digest, read_checkpoint
from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import load_encoder
from models.errors import ImageError, OutputError, WeightsError
from models.preprocessing import INPUT_SIZE
from models.shapes import EFFICIENTNET_LITE_SCALES, EfficientNetLiteShape

PROBE_BATCH = 2
"""Images of the call that tries a backbone when it is loaded."""

_ONNX_FAULTS = (
    *("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NoModel"),
    *("NotImplemented", "RuntimeException", "EPFail", "ModelLoaded"),
)


class Backbone(Protocol):
    """What every encoder offers."""

    dim: int
    """Width D of an embedding."""
    digest: str
    """SHA-256 of the file that filled it, 64 hexadecimal digits."""

    def __call__(self, images: Tensor) -> Tensor:
        """Embed (B, 3, 224, 224) normalised float32 images as (B, D)."""
        ...


class ForeignBackbone(nn.Module):
    """A network of another format behind the common call, with its output checked at each.

    Parameters
    ----------
    call
        (B, 3, 224, 224) float32 on any device -> (B, D).
    batch_size
        Images that every call must have, where the file fixes them; None for any number.
    name
        Name of the file for messages.
    digest
        SHA-256 of the file.
    """

    def __init__(
        self, call: Callable[[Tensor], object], *, batch_size: int | None, name: str, digest: str
    ) -> None:
        super().__init__()
        self._call = call
        self._batch_size = batch_size
        self._name = name
        self.digest = digest
        self.dim = 0
        self.dim = self._probe()

    def _probe(self) -> int:
        """Width of the embedding, from a first call.

        Raises
        ------
        OutputError
            If the output is no finite (B, D) of floating type.
        """
        count = self._batch_size or PROBE_BATCH
        with torch.inference_mode():
            return int(self(torch.zeros(count, 3, INPUT_SIZE, INPUT_SIZE)).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Raises
        ------
        ImageError
            If the images have another shape or type.
        OutputError
            If the network fails on the batch, or answers anything but finite (B, D).
        """
        if images.shape[1:] != (3, INPUT_SIZE, INPUT_SIZE) or images.dtype != torch.float32:
            raise ImageError(
                f"{self._name} takes (B, 3, {INPUT_SIZE}, {INPUT_SIZE}) float32, "
                f"not {tuple(images.shape)} {images.dtype}"
            )
        fixed = self._batch_size
        if not len(images):
            return images.new_zeros((0, self.dim))
        if fixed is None or len(images) == fixed:
            return self._checked(images)
        parts = []
        for start in range(0, len(images), fixed):
            part = images[start : start + fixed]
            padding = part[-1:].expand(fixed - len(part), -1, -1, -1)
            parts.append(self._checked(torch.cat([part, padding]))[: len(part)])
        return torch.cat(parts)

    def _checked(self, images: Tensor) -> Tensor:
        found = self._call(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OutputError(f"{self._name} answers {shape}, not ({len(images)}, D)")
        if not found.is_floating_point() or not found.shape[1]:
            raise OutputError(f"{self._name} answers {tuple(found.shape)} {found.dtype}")
        if self.dim not in (0, found.shape[1]):
            raise OutputError(f"{self._name} answers width {found.shape[1]}, not {self.dim}")
        if not torch.isfinite(found).all():
            raise OutputError(f"{self._name} answers values that are not finite")
        return found.to(images.device, torch.float32)


def load_backbone(spec: str) -> tuple[nn.Module, str]:
    """Load an encoder and try it once.

    Parameters
    ----------
    spec
        ``compact:PATH`` (EfficientNet-Lite of any size), ``panderm:PATH``, ``onnx:PATH`` or
        ``export:PATH`` (a ``.pt2`` file of ``torch.export.save``).

    Returns
    -------
    tuple
        The ``Backbone``, in evaluation mode and frozen, and the SHA-256 of its file.

    Raises
    ------
    WeightsError
        If the kind is unknown, the file cannot be loaded, or its input is another one.
    OutputError
        If its output is not finite (B, D).

    Notes
    -----
    The file decides what it is fed: every backbone here takes pixels normalised by
    ``models.preprocessing.normalise_pixels``. An ONNX or exported network trained on another
    normalisation must undo it itself, as ``EfficientNetLite`` does.
    """
    kind, separator, place = spec.partition(":")
    loaders: dict[str, Callable[[Path], nn.Module]] = {
        "compact": load_compact_file,
        "panderm": _load_panderm,
        "onnx": load_onnx,
        "export": load_exported,
    }
    if kind not in loaders or not separator or not place:
        kinds = ", ".join(f"{name}:PATH" for name in loaders)
        raise WeightsError(f"no backbone {spec!r}; there are {kinds}")
    backbone: Any = loaders[kind](Path(place).expanduser())
    return backbone, backbone.digest


def _load_panderm(path: Path) -> nn.Module:
    encoder = load_encoder(path)
    if encoder.shape.image_size != INPUT_SIZE:
        raise WeightsError(
            f"{path.name}: made for {encoder.shape.image_size} px images, not {INPUT_SIZE}"
        )
    return encoder


def load_compact_file(path: Path) -> EfficientNetLite:
    """Load EfficientNet-Lite of the size that its file holds.

    Parameters
    ----------
    path
        Safetensors (or ``torch.save``) file with the network's own keys; half precision is
        widened.

    Raises
    ------
    WeightsError
        If the file cannot be read, fits no size, or holds values that are not finite.
    """
    tensors, digest = read_checkpoint(path)
    for variant in EFFICIENTNET_LITE_SCALES:
        with torch.device("meta"):
            network = EfficientNetLite(EfficientNetLiteShape(variant=variant))
        expected = network.state_dict()
        if {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in tensors.items()}:
            break
    else:
        raise WeightsError(f"{path.name}: keys or shapes of no EfficientNet-Lite")
    network = EfficientNetLite(EfficientNetLiteShape(variant=variant))  # with its constants
    network.load_state_dict(
        {
            key: copy_float32(value, key, path.name) if value.is_floating_point() else value.clone()
            for key, value in tensors.items()
        },
        assign=True,
    )
    network.digest = digest  # type: ignore[assignment]
    return network.eval().requires_grad_(False)


def load_onnx(path: Path) -> ForeignBackbone:
    """Load an ONNX network for ``onnxruntime``, on the GPU where its build can.

    Parameters
    ----------
    path
        One input, (B, 3, 224, 224) float32 or float16, B free or fixed; the first output is the
        embedding.

    Raises
    ------
    WeightsError
        If the file cannot be read, ``onnxruntime`` is not installed, or the input differs.
    OutputError
        If the output is not finite (B, D).
    """
    digest = file_digest(path)
    runtime = _import_onnxruntime()
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    faults = _onnx_faults(runtime)
    try:
        session = runtime.InferenceSession(str(path), providers=providers)
    except faults as exc:
        raise WeightsError(f"{path.name}: no readable ONNX network ({_line(exc)})") from exc
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise WeightsError(f"{path.name}: {len(inputs)} inputs, not 1")
    batch_size = _fixed_batch(inputs[0].shape, path.name)
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if inputs[0].type not in types:
        raise WeightsError(f"{path.name}: takes {inputs[0].type}, not float images")
    kind, feed, output = types[inputs[0].type], inputs[0].name, session.get_outputs()[0].name

    def call(images: Tensor) -> object:
        array = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=kind)
        try:
            found = session.run([output], {feed: array})[0]
        except faults as exc:
            raise OutputError(f"{path.name} fails on {tuple(images.shape)} ({_line(exc)})") from exc
        return torch.from_numpy(found) if isinstance(found, np.ndarray) else found

    return ForeignBackbone(call, batch_size=batch_size, name=path.name, digest=digest).eval()


def _import_onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise WeightsError("onnx:PATH needs the package onnxruntime, which is missing") from exc


def _onnx_faults(runtime: Any) -> tuple[type[Exception], ...]:
    """Exceptions of the runtime, which have no common base below ``Exception``."""
    state = runtime.capi.onnxruntime_pybind11_state
    own = [getattr(state, name) for name in _ONNX_FAULTS if hasattr(state, name)]
    return (*own, RuntimeError, ValueError, OSError)


def _fixed_batch(sizes: list[Any], name: str) -> int | None:
    """Batch size that a file fixes, or None; the other axes must fit the input."""
    wanted = (3, INPUT_SIZE, INPUT_SIZE)
    fits = len(sizes) == 4 and all(
        not isinstance(found, int) or found == size
        for found, size in zip(sizes[1:], wanted, strict=True)
    )
    if not fits:
        raise WeightsError(f"{name}: takes {tuple(sizes)}, not (B, 3, {INPUT_SIZE}, {INPUT_SIZE})")
    return sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else None


def load_exported(path: Path) -> ForeignBackbone:
    """Load a program of ``torch.export``.

    Parameters
    ----------
    path
        File of ``torch.export.save`` with one image input, (B, 3, 224, 224) float32, B free or
        fixed, and one output. It runs on the device on which it was exported.

    Raises
    ------
    WeightsError
        If the file cannot be read or the input differs.
    OutputError
        If the output is not finite (B, D).
    """
    digest = file_digest(path)
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path.name}: no exported program")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own loader, about its own formats
            program = torch.export.load(path)
            module = program.module()
    except UNREADABLE as exc:
        raise WeightsError(f"{path.name}: no readable exported program ({_line(exc)})") from exc
    names = program.graph_signature.user_inputs
    values = [
        n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names
    ]
    if len(values) != 1 or not isinstance(values[0], Tensor):
        raise WeightsError(f"{path.name}: takes {len(names)} inputs, not one batch of images")
    batch_size = _fixed_batch(list(values[0].shape), path.name)
    place = values[0].device

    def call(images: Tensor) -> object:
        try:
            with torch.no_grad():
                return module(images.to(place, values[0].dtype))
        except (RuntimeError, ValueError, AssertionError, TypeError) as exc:
            raise OutputError(f"{path.name} fails on {tuple(images.shape)} ({_line(exc)})") from exc

    return ForeignBackbone(call, batch_size=batch_size, name=path.name, digest=digest).eval()


def _line(exc: BaseException) -> str:
    """First line of a message, short enough for one line of a log."""
    return (str(exc).strip().partition("\n")[0] or type(exc).__name__)[:200]
