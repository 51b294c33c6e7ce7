"""Encoder and slide model for tests: small, deterministic, and with real attention pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures.abmil import GatedAbmil
from models.embedding import EncoderManifest
from models.manifest import HeldOutFigure, InputSpec
from models.shapes import EfficientNetLiteShape
from models.slide.tiles import AbmilShape, SlideManifest
from workers.ports import ManifestKind, ServedModel, Tensors

ENCODER_DIGEST, SLIDE_DIGEST = "cd" * 32, "ef" * 32
DIM = 16
_WHAT = {
    "data": "drawn",
    "licence": "CC0",
    "citation": "none",
    "intended_use": "tests",
    "training_command": "none",
    "git_commit": "0" * 40,
    "created": "2026-01-02",
    "evidence_level": "simulated",
    "evidence": "No evidence: made for tests.",
    "figures": (
        HeldOutFigure(
            metric="accuracy",
            data="nothing",
            value=0.5,
            low=None,
            high=None,
            n=1,
            groups=1,
            command="none",
        ),
    ),
}


def encoder_manifest() -> EncoderManifest:
    return EncoderManifest(
        name="encoder",
        version="1.0.0",
        digest=ENCODER_DIGEST,
        input=InputSpec(
            size=224,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            interpolation="bilinear-antialiased",
            framing="whole image",
        ),
        backbone=EfficientNetLiteShape(),
        dim=DIM,
        **_WHAT,
    )


def slide_manifest(**changes: Any) -> SlideManifest:
    values: dict[str, Any] = {
        "name": "slide_classification",
        "version": "1.2.3",
        "digest": SLIDE_DIGEST,
        "labels": {"normal": "No tumour", "tumour": "Tumour", "other": "Something else"},
        "positive_labels": ("tumour", "other"),
        "architecture": AbmilShape(features=DIM, width=12, attention=6, labels=3),
        "encoder_digest": ENCODER_DIGEST,
        "tile_px": 256,
        "tile_um_px": 0.5,
        "tissue_preset": "bwh_biopsy",
        "temperature": 0.8,
        "decision_threshold": 0.4,
        "decision_threshold_meaning": "tests",
        "min_tiles": 4,
    }
    return (
        SlideManifest(**values, **_WHAT)
        if not changes
        else SlideManifest(**{**values, **changes}, **_WHAT)
    )


class SlideModels:
    """A model server with an encoder and a slide model."""

    def __init__(self, manifest: SlideManifest | None = None) -> None:
        self.manifest = manifest or slide_manifest()
        torch.manual_seed(0)
        self.network = GatedAbmil(self.manifest.architecture).eval()
        self._mix = np.random.default_rng(0).normal(size=(12, DIM)).astype(np.float32)
        self.encoded = 0
        self.bags: list[int] = []
        self.fails_after: int | None = None
        self.change: dict[str, NDArray[Any]] = {}

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        manifest = encoder_manifest() if model == "encoder" else self.manifest
        assert isinstance(manifest, kind)
        return ServedModel(name=model, digest=manifest.digest, manifest=manifest)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        if model == "encoder":
            return {"EMBEDDING": self._embed(inputs["IMAGE"])}
        assert not is_batched
        self.bags.append(len(inputs["FEATURES"]))
        with torch.inference_mode():
            output = self.network(torch.from_numpy(np.asarray(inputs["FEATURES"])))
        answer = {"LOGITS": output.logits.numpy(), "ATTENTION_RAW": output.attention_raw.numpy()}
        return {**answer, **self.change}

    def _embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (224, 224, 3)
        if self.fails_after is not None and self.encoded + len(images) > self.fails_after:
            raise Crash
        self.encoded += len(images)
        quarters = images.reshape(len(images), 2, 112, 2, 112, 3).mean(axis=(2, 4))
        return np.asarray((quarters.reshape(len(images), 12) / 255) @ self._mix, np.float32)


class Crash(Exception):
    """The worker dies."""
