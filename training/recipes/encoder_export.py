"""The encoder that the heads of several analyses share, as a model of the repository.

Without a run it is EfficientNet-Lite with its ImageNet weights; with a diagnosis run it is the
backbone of that run; with a PanDerm file it is that. Heads are tied to the encoder that they were
trained on: with another one in service they must be trained and exported again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import load_encoder
from models.architectures.pyramid import EfficientNetPyramid
from models.embedding import EncoderManifest
from models.manifest import InputSpec
from models.preprocessing import FRAMING, INPUT_SIZE, INTERPOLATION, MEAN, STD
from models.shapes import EfficientNetLiteShape, PandermShape
from models.weights import digest_of, encode_weights
from training.errors import RunError
from training.export import Provenance, TensorSpec, export_model
from training.pretrained import LICENCE, load_compact
from training.recipes.diagnosis import load_run
from training.runs import Progress

MAX_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """An encoder and where it comes from."""

    encoder: nn.Module
    shape: EfficientNetLiteShape | PandermShape
    dim: int
    data: str
    licence: str
    citation: str


def export_options(options: argparse.Namespace, _report: Progress) -> dict[str, Any]:
    """Keyword arguments of ``export`` from the command line."""
    return {"panderm": options.panderm}


def export(
    run: Path | None, repository: Path, provenance: Provenance, *, panderm: Path | None = None
) -> EncoderManifest:
    """Write the encoder into ``<repository>/encoder``.

    Parameters
    ----------
    run
        Folder of a diagnosis run with an EfficientNet-Lite backbone, or None for the ImageNet
        weights as they are.
    panderm
        The site's own PanDerm file, in place of both.

    Raises
    ------
    RunError
        If the run cannot be read or has another backbone, or a file is given beside a run.
    WeightsError
        If the file is none that PanDerm publishes.
    PretrainedError
        If the ImageNet weights are not installed.
    """
    if run is not None and panderm is not None:
        raise RunError("an encoder comes from a run or from a PanDerm file, not from both")
    origin = _of_panderm(panderm) if panderm is not None else _of_compact(run)
    # Cloned: the blocks of a fine-tuned file may share their index of positions.
    tensors = {
        f"encoder.{name}": each.clone() for name, each in origin.encoder.state_dict().items()
    }
    weights = encode_weights(tensors, half=True)
    manifest = EncoderManifest(
        name="encoder",
        version=provenance.version,
        digest=digest_of(weights),
        data=origin.data,
        licence=origin.licence,
        citation=origin.citation,
        intended_use="Features for the heads of other models; says nothing by itself.",
        training_command=provenance.training_command,
        git_commit=provenance.git_commit,
        created=provenance.created,
        evidence_level="none",
        evidence="features only; each head that reads them carries its own evidence",
        figures=(),
        input=InputSpec(
            size=INPUT_SIZE, mean=MEAN, std=STD, interpolation=INTERPOLATION, framing=FRAMING
        ),
        backbone=origin.shape,
        dim=origin.dim,
    )
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.encoder:EncoderBackend",
        inputs=(TensorSpec(name="IMAGE", kind="UINT8", dims=(INPUT_SIZE, INPUT_SIZE, 3)),),
        outputs=(TensorSpec(name="EMBEDDING", kind="FP32", dims=(origin.dim,)),),
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest


def _of_compact(run: Path | None) -> _Origin:
    encoder = load_compact() if run is None else _backbone_of(run)
    return _Origin(
        encoder=encoder,
        shape=encoder.shape,
        dim=encoder.dim,
        data="ImageNet-1k" if run is None else "ImageNet-1k, then the data of the diagnosis run",
        licence=LICENCE,
        citation="Tan M, Le QV. EfficientNet: rethinking model scaling for convolutional neural "
        "networks. ICML 2019.",
    )


def _of_panderm(path: Path) -> _Origin:
    encoder = load_encoder(path)
    encoder.head = nn.Identity()  # a classifier in the file is not an encoder's
    return _Origin(
        encoder=encoder,
        shape=PandermShape(encoder=encoder.shape, is_fine_tuned=encoder.is_fine_tuned),
        dim=encoder.dim,
        data=f"PanDerm's, as its authors state; file with SHA-256 {encoder.digest}",
        licence="CC BY-NC-ND 4.0 (PanDerm); not to be passed on in this form",
        citation="Yan S, et al. A multimodal vision foundation model for clinical dermatology. "
        "Nature Medicine 2025.",
    )


@torch.no_grad()
def _backbone_of(run: Path) -> EfficientNetLite:
    _, network, _ = load_run(run)
    if not isinstance(network.backbone, EfficientNetPyramid):
        raise RunError(f"{run} has no EfficientNet-Lite backbone")
    return network.backbone.encoder
