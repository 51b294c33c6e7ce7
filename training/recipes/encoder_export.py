"""The encoder that the heads of several analyses share, as a model of the repository.

Without a run it is EfficientNet-Lite with its ImageNet weights; with a diagnosis run it is the
backbone of that run.
"""

from __future__ import annotations

from pathlib import Path

import torch

from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.pyramid import EfficientNetPyramid
from models.embedding import EncoderManifest
from models.manifest import InputSpec
from models.preprocessing import FRAMING, INPUT_SIZE, INTERPOLATION, MEAN, STD
from models.weights import digest_of, encode_weights
from training.errors import RunError
from training.export import Provenance, TensorSpec, export_model
from training.pretrained import LICENCE, load_compact
from training.recipes.diagnosis import load_run

MAX_BATCH_SIZE = 64


def export(run: Path | None, repository: Path, provenance: Provenance) -> EncoderManifest:
    """Write the encoder into ``<repository>/encoder``.

    Parameters
    ----------
    run
        Folder of a diagnosis run with an EfficientNet-Lite backbone, or None for the ImageNet
        weights as they are.

    Raises
    ------
    RunError
        If the run cannot be read or has another backbone.
    PretrainedError
        If the ImageNet weights are not installed.
    """
    encoder = load_compact() if run is None else _backbone_of(run)
    weights = encode_weights(
        {f"encoder.{name}": value for name, value in encoder.state_dict().items()}, half=True
    )
    manifest = EncoderManifest(
        name="encoder",
        version=provenance.version,
        digest=digest_of(weights),
        data="ImageNet-1k" if run is None else "ImageNet-1k, then the data of the diagnosis run",
        licence=LICENCE,
        citation="Tan M, Le QV. EfficientNet: rethinking model scaling for convolutional neural "
        "networks. ICML 2019.",
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
        backbone=encoder.shape,
        dim=encoder.dim,
    )
    export_model(
        repository,
        manifest,
        weights,
        backend="models.backends.encoder:EncoderBackend",
        inputs=(TensorSpec(name="IMAGE", kind="UINT8", dims=(INPUT_SIZE, INPUT_SIZE, 3)),),
        outputs=(TensorSpec(name="EMBEDDING", kind="FP32", dims=(encoder.dim,)),),
        max_batch_size=MAX_BATCH_SIZE,
    )
    return manifest


@torch.no_grad()
def _backbone_of(run: Path) -> EfficientNetLite:
    _, network, _ = load_run(run)
    if not isinstance(network.backbone, EfficientNetPyramid):
        raise RunError(f"{run} has no EfficientNet-Lite backbone")
    return network.backbone.encoder
