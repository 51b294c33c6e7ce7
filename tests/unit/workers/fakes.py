"""Twins of the worker's ports, in memory."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.demo.samples import Kind, render
from gateway.store.values import (
    Claim,
    DeliveryRow,
    EarlierImage,
    GenerationRow,
    Hint,
    InstanceRow,
    NewObject,
    PriorReport,
)
from models.diagnosis import ArchitectureSpec, DiagnosisManifest
from models.manifest import EvidenceLevel, HeldOutFigure, InputSpec
from models.shapes import EfficientNetLiteShape
from tests.unit.workers.instance_builder import instance
from workers.errors import Undecodable
from workers.ports import (
    Checkpoint,
    Document,
    EarlierImages,
    InstanceSource,
    ManifestKind,
    Scalar,
    ServedModel,
    Tensors,
    WrittenFile,
)
from workers.study import Study

DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
DIGEST = "ab" * 32
LABELS = {
    "AKIEC": "Actinic keratosis",
    "BCC": "Basal cell carcinoma",
    "BKL": "Benign keratosis",
    "DF": "Dermatofibroma",
    "MEL": "Melanoma",
    "NV": "Nevus",
    "VASC": "Vascular lesion",
}
STUDY_UID = "1.2.826.0.1.3680043.10.511.9.2"


def manifest(digest: str = DIGEST, evidence_level: EvidenceLevel = "real") -> DiagnosisManifest:
    return DiagnosisManifest(
        name="diagnosis",
        version="1.2.3",
        digest=digest,
        labels=LABELS,
        malignant_labels=("AKIEC", "BCC", "MEL"),
        input=InputSpec(
            size=224,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            interpolation="bilinear-antialiased",
            framing="whole image",
        ),
        architecture=ArchitectureSpec(
            backbone=EfficientNetLiteShape(), decoder_width=16, flips=False
        ),
        temperature=1.0,
        lesion_threshold=0.5,
        operating_point=0.3,
        operating_point_meaning="sensitivity 0.90 on validation lesions",
        ood_threshold=10.0,
        ood_threshold_meaning="99 % of validation images are below",
        data="synthetic",
        licence="CC0",
        citation="none",
        intended_use="tests",
        training_command="none",
        git_commit="0" * 40,
        created="2026-01-02",
        evidence_level=evidence_level,
        evidence="No evidence: made for tests.",
        figures=(
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
    )


def instance_row(number: int, **changes: Any) -> InstanceRow:
    values: dict[str, Any] = {
        "sop_instance_uid": f"1.2.826.0.1.3680043.10.511.8.{number}",
        "sop_class_uid": DERMOSCOPIC,
        "series_instance_uid": "1.2.826.0.1.3680043.10.511.9.3",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "modality": "DMS",
        "path": f"{number}.dcm",
        "size_bytes": 1000,
    }
    return InstanceRow(**{**values, **changes})


def generation_row(*instances: InstanceRow, number: int = 1) -> GenerationRow:
    return GenerationRow(
        id=5,
        study_id=3,
        number=number,
        closed_at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
        instances=instances,
    )


def study(
    *instances: InstanceRow,
    source: InstanceSource | None = None,
    documents: tuple[Document, ...] = (),
) -> Study:
    return Study(generation_row(*instances), source or FakeInstances(), FakeDocuments(*documents))


class FakeDocuments:
    """The documents of a study, in memory."""

    def __init__(self, *documents: Document) -> None:
        self.documents = documents

    def of(self, generation: GenerationRow) -> tuple[Document, ...]:
        return self.documents


def claim(*instances: InstanceRow, **changes: Any) -> Claim:
    now = dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC)
    values: dict[str, Any] = {
        "work_item_id": 7,
        "token": "t" * 32,
        "step": "analyse",
        "analysis": "diagnosis",
        "model_digest": DIGEST,
        "attempt": 1,
        "created_at": now,
        "expires_at": now + dt.timedelta(seconds=30),
        "generation": generation_row(*(instances or (instance_row(1),))),
    }
    return Claim(**{**values, **changes})


@functools.cache
def skin_picture() -> NDArray[np.uint8]:
    """Return a picture that every quality check lets pass."""
    return np.asarray(render(Kind.NEVUS, 1, (320, 240)))


class FakeInstances:
    """A spool that holds a picture for each path, or the reason why it cannot be decoded."""

    def __init__(self, content: dict[str, NDArray[np.uint8] | Exception] | None = None) -> None:
        self._content = content or {}
        self.decoded: list[str] = []

    def header(self, path: str) -> Dataset:
        number = path.removesuffix(".dcm")
        found = self._content.get(path, skin_picture())
        header = instance()
        if isinstance(found, np.ndarray):
            header.Rows, header.Columns = found.shape[:2]
        del header.PixelData
        header.SOPInstanceUID = f"1.2.826.0.1.3680043.10.511.8.{number}"
        return header

    def pixels(self, path: str) -> NDArray[np.uint8]:
        found = self._content.get(path, skin_picture())
        if isinstance(found, Exception):
            raise found
        self.decoded.append(path)
        return found


@dataclass(kw_only=True)
class FakeModels:
    """A model server whose one model answers with melanoma in the middle of the image."""

    digests: list[str] = field(default_factory=lambda: [DIGEST])
    """One is taken at each ``identify``; the last one stays."""
    logits: Callable[[int], NDArray[np.float32]] | None = None
    ood_score: float = 1.0
    evidence_level: EvidenceLevel = "real"
    change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]] = lambda outputs: outputs
    error: Exception | None = None
    batches: list[int] = field(default_factory=list)

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        if self.error is not None:
            raise self.error
        digest = self.digests.pop(0) if len(self.digests) > 1 else self.digests[0]
        served = manifest(digest, self.evidence_level)
        assert isinstance(served, kind), f"no {kind.__name__} here"
        return ServedModel(name=model, digest=digest, manifest=served)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        if self.error is not None:
            raise self.error
        images = inputs["IMAGE"]
        assert images.dtype == np.uint8
        assert images.shape[1:] == (224, 224, 3)
        self.batches.append(len(images))
        one = np.array([0, 0, 0, 0, 5, 0, 0], np.float32)
        lesion = np.zeros((224, 224), np.uint8)
        lesion[60:160, 70:170] = 255
        return self.change(
            {
                "LOGITS": np.stack([one] * len(images)),
                "EMBEDDING": np.zeros((len(images), 8), np.float32),
                "OOD_SCORE": np.full((len(images), 1), self.ood_score, np.float32),
                "LESION_PROB": np.stack([lesion] * len(images)),
            }
        )


class FakePriors:
    """Earlier images in memory, or the reason why nobody could be asked."""

    def __init__(
        self,
        of: Mapping[str, tuple[EarlierImage, ...]] | None = None,
        *,
        unknown: str = "",
        error: Exception | None = None,
    ) -> None:
        self._of, self._unknown, self._error = dict(of or {}), unknown, error

    def earlier(
        self, study_id: int, instances: Sequence[InstanceRow], checkpoint: Checkpoint
    ) -> EarlierImages:
        if self._error is not None:
            raise self._error
        found = {each.sop_instance_uid: () for each in instances} | self._of
        return EarlierImages(of=found, unknown=self._unknown)


class FakeFiles:
    """A results folder in memory."""

    def __init__(self) -> None:
        self.written: dict[str, Dataset] = {}

    def write(self, study_instance_uid: str, name: str, dataset: Dataset) -> WrittenFile:
        path = f"{study_instance_uid}/{name}"
        self.written[path] = dataset
        return WrittenFile(
            path=path, sha256=hashlib.sha256(path.encode()).hexdigest(), size_bytes=1
        )


class FakeEmbeddings:
    """Embeddings in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], NDArray[np.float32]] = {}

    def get(self, encoder_digest: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found = {key: self.kept.get((encoder_digest, key)) for key in keys}
        return {key: vector for key, vector in found.items() if vector is not None}

    def put(self, encoder_digest: str, found: Mapping[str, NDArray[np.float32]]) -> None:
        self.kept |= {(encoder_digest, key): vector for key, vector in found.items()}


class InMemory:
    """Keeps arrays as they are."""

    def keep(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        return array


@dataclass(kw_only=True)
class FakeRecord:
    """What pipeline and delivery read and write of the record."""

    prior: PriorReport | None = None
    deliveries: list[DeliveryRow] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)

    def prior_report(self, claim: Claim) -> PriorReport | None:
        return self.prior

    def installation_serial(self) -> str:
        return "0123456789abcdef"

    def load_deliveries(self, claim: Claim) -> list[DeliveryRow]:
        return list(self.deliveries)

    def mark_delivery(
        self,
        claim: Claim,
        delivery_id: int,
        *,
        state: str,
        status: int | None = None,
        reason: str = "",
        confirmed_by: str = "",
    ) -> None:
        self.marks.append((delivery_id, state))
        self.deliveries = [
            replace(each, state=state) if each.id == delivery_id else each
            for each in self.deliveries
        ]


class FakeQueue:
    """Remembers what was announced."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def announce(self, hint: Hint) -> None:
        self.hints.append(hint)


def undecodable(reason: str = "its pixel data ends early") -> Exception:
    return Undecodable(reason)


def roles(objects: Sequence[NewObject]) -> list[str]:
    return [each.role for each in objects]
