"""Loading the served network from its weight file, strictly and only if the digest agrees."""

from __future__ import annotations

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors

from models.architectures.diagnosis import ServedDiagnosis
from models.errors import ManifestError, WeightsError
from models.manifest import Manifest


def digest_of(weights: bytes) -> str:
    """SHA-256 of a weight file, 64 hexadecimal digits."""
    return hashlib.sha256(weights).hexdigest()


def load_served_diagnosis(weights: bytes, manifest: Manifest) -> ServedDiagnosis:
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
    found = digest_of(weights)
    if found != manifest.digest:
        raise ManifestError(f"weights have digest {found}, the manifest says {manifest.digest}")
    try:
        tensors = parse_safetensors(weights)
    except (SafetensorError, ValueError) as exc:
        raise WeightsError(f"weights {found} are not a safetensors file") from exc
    network = ServedDiagnosis(
        manifest.shape(),
        mean=manifest.input.mean,
        std=manifest.input.std,
        flips=manifest.architecture.flips,
    )
    not_finite = sorted(
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    )
    if not_finite:
        raise WeightsError(f"weights {found} hold values that are not finite: {not_finite[:3]}")
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as exc:
        raise WeightsError(f"weights {found} do not fit the manifest's shape: {exc}") from exc
    return network.eval()
