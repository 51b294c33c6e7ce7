"""Weight files: safetensors, read strictly and only if the digest agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as serialise_safetensors
from torch import Tensor, nn

from models.architectures.diagnosis import ServedDiagnosis
from models.diagnosis import DiagnosisManifest
from models.errors import ManifestError, WeightsError


def digest_of(weights: bytes) -> str:
    """SHA-256 of a weight file, 64 hexadecimal digits."""
    return hashlib.sha256(weights).hexdigest()


def stored(tensor: Tensor) -> Tensor:
    """A tensor as half-precision files hold it: float16 matrices and kernels, vectors as they are.

    Vectors (biases, norms) cost nothing, and a rounding there counts most.
    """
    return tensor.half() if tensor.ndim >= 2 and tensor.is_floating_point() else tensor


def encode_weights(tensors: Mapping[str, Tensor], *, half: bool) -> bytes:
    """Bytes of a safetensors file.

    Parameters
    ----------
    tensors
        Name -> tensor on any device.
    half
        Whether matrices and kernels are stored in float16; export figures are then measured with
        the rounded weights.
    """
    plain = {
        name: (stored(tensor) if half else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    return bytes(serialise_safetensors(plain))


def read_tensors(weights: bytes, digest: str) -> dict[str, Tensor]:
    """Read a weight file, widening float16 to float32.

    Parameters
    ----------
    weights
        Content of the safetensors file.
    digest
        SHA-256 that the manifest names.

    Raises
    ------
    ManifestError
        If the digest differs: other weights than those the manifest speaks of.
    WeightsError
        If the file cannot be read, or a value is not finite.
    """
    found = digest_of(weights)
    if found != digest:
        raise ManifestError(f"weights have digest {found}, the manifest says {digest}")
    try:
        tensors = parse_safetensors(weights)
    except (SafetensorError, ValueError) as exc:
        raise WeightsError(f"weights {found} are not a safetensors file") from exc
    not_finite = sorted(
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    )
    if not_finite:
        raise WeightsError(f"weights {found} hold values that are not finite: {not_finite[:3]}")
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in tensors.items()
    }


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a network strictly.

    Raises
    ------
    WeightsError
        If a key is missing or unexpected, or a shape differs; the message names it.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as exc:
        raise WeightsError(f"the weights do not fit the network: {exc}") from exc


def load_served_diagnosis(weights: bytes, manifest: DiagnosisManifest) -> ServedDiagnosis:
    """Rebuild the network of a manifest and fill it.

    Parameters
    ----------
    weights
        Content of the safetensors file.
    manifest
        Manifest that names the file's digest.

    Returns
    -------
    ServedDiagnosis
        In evaluation mode, float32, on the CPU.

    Raises
    ------
    ManifestError
        If the digest differs: other weights than those the manifest speaks of.
    WeightsError
        If the file cannot be read, or a key, a shape or a value does not fit.
    """
    tensors = read_tensors(weights, manifest.digest)
    network = ServedDiagnosis(
        manifest.shape(),
        mean=manifest.input.mean,
        std=manifest.input.std,
        flips=manifest.architecture.flips,
    )
    fill(network, tensors)
    return network.eval()
