"""Twins for the tests of change detection: three models, a spool of drawn pictures, lesions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.demo.samples import Kind, render
from gateway.store.values import EarlierImage, InstanceRow
from models.change.pair import ChangeManifest
from models.change.result import ChangeResult
from models.diagnosis import DiagnosisManifest
from models.embedding import EncoderManifest
from tests.unit.workers.fakes import (
    FakeDocuments,
    FakeEmbeddings,
    FakePriors,
    InMemory,
    generation_row,
    instance_row,
    manifest,
)
from tests.unit.workers.instance_builder import instance
from workers.analyses.change_detection import ANALYSIS
from workers.analysis import Conclusion, Tools
from workers.encoding import Encoder
from workers.errors import InstanceMissing, Undecodable
from workers.ports import ServedModel, Tensors
from workers.study import Study

REPOSITORY = Path(__file__).resolve().parents[4] / "triton_repo"
SIZE = (320, 240)
LESION = "2.25.4711"


@functools.cache
def lesion(seed: int = 1) -> NDArray[np.uint8]:
    """A drawn nevus."""
    return np.asarray(render(Kind.NEVUS, seed, SIZE))


def moved(picture: NDArray[np.uint8], degrees: float = 8.0) -> NDArray[np.uint8]:
    """The same lesion, photographed with the camera turned."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


def row(number: int, **changes: Any) -> InstanceRow:
    """One tracked photograph; higher numbers are later."""
    values = {"tracking_uid": LESION, "acquired_at": f"2025{number:02d}01100000"}
    return instance_row(number, **{**values, **changes})


def earlier(number: int, linkage: str = "tracking_uid", **changes: Any) -> EarlierImage:
    """One earlier photograph of another study."""
    return EarlierImage(
        instance=row(number, **changes), study_instance_uid=f"2.25.9{number}", linkage=linkage
    )


class Spool:
    """Pictures by number of the instance; an exception is what reading the pixels raises."""

    def __init__(self, pictures: Mapping[int, NDArray[np.uint8] | Exception | None]) -> None:
        self._pictures = pictures
        self.spacing: dict[int, list[float]] = {}

    def header(self, path: str) -> Dataset:
        number = int(path.removesuffix(".dcm"))
        if number not in self._pictures:
            raise InstanceMissing("a received file is not in the spool any more")
        if self._pictures[number] is None:
            raise Undecodable("the file is no DICOM instance")
        header = instance()
        del header.PixelData
        header.SOPInstanceUID = f"1.2.826.0.1.3680043.10.511.8.{number}"
        header.StudyInstanceUID = f"2.25.9{number}"
        header.SeriesInstanceUID = f"2.25.8{number}"
        picture = self._pictures[number]
        if isinstance(picture, np.ndarray):
            header.Rows, header.Columns = picture.shape[:2]
        if number in self.spacing:
            header.PixelSpacing = self.spacing[number]
        return header

    def pixels(self, path: str) -> NDArray[np.uint8]:
        found = self._pictures[int(path.removesuffix(".dcm"))]
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found


@dataclass(kw_only=True)
class Models:
    """Diagnosis, encoder and head; the lesion is what is dark."""

    change_logits: list[float] = field(default_factory=lambda: [3.0])
    """By pair, in the order of the pairs; the last one stays."""
    has_lesion: bool = True
    melanoma_logits: list[float] = field(default_factory=lambda: [-5.0])
    """By image; the last one stays."""
    answers: dict[str, Any] = field(default_factory=dict)
    """Outputs that replace those of the head."""
    pairs: int = 0

    def identify(self, model: str, kind: type[Any]) -> ServedModel[Any]:
        if kind is DiagnosisManifest:
            found: Any = manifest()
        else:
            assert kind in (ChangeManifest, EncoderManifest)
            found = kind.from_json((REPOSITORY / model / "manifest.json").read_text())
        return ServedModel(name=model, digest=found.digest, manifest=found)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        if model == "diagnosis":
            return self._judge(inputs["IMAGE"])
        if model == "encoder":
            means = inputs["IMAGE"].reshape(len(inputs["IMAGE"]), -1).mean(axis=1)
            return {"EMBEDDING": np.tile(means[:, None], (1, 1280)).astype(np.float32)}
        assert model == "change_detection"
        count = len(inputs["EMBEDDING_BEFORE"])
        self.pairs += count
        logits = (self.change_logits + [self.change_logits[-1]] * count)[:count]
        return {"CHANGE_LOGIT": np.array(logits, np.float32)[:, None], **self.answers}

    def _judge(self, images: NDArray[np.uint8]) -> Tensors:
        logits = np.zeros((len(images), 7), np.float32)
        for number in range(len(images)):
            logit = self.melanoma_logits[min(number, len(self.melanoma_logits) - 1)]
            logits[number] = [-9, -9, 0, 0, logit, 5, 0]
        grey = images.mean(axis=3)
        dark = (grey < np.median(grey, axis=(1, 2), keepdims=True) - 25) & self.has_lesion
        return {
            "LOGITS": logits,
            "OOD_SCORE": np.ones((len(images), 1), np.float32),
            "LESION_PROB": dark.astype(np.uint8) * 255,
        }


def run(
    pictures: Mapping[int, NDArray[np.uint8] | Exception | None],
    *current: InstanceRow,
    before: Mapping[int, tuple[EarlierImage, ...]] | None = None,
    models: Models | None = None,
    priors: FakePriors | None = None,
    spool: Spool | None = None,
) -> Conclusion:
    """Run the analysis on a study of these images, with what is earlier by instance number."""
    models = models or Models()
    source = spool or Spool(pictures)
    of = {
        instance_row(number).sop_instance_uid: images for number, images in (before or {}).items()
    }
    tools = Tools(
        served=models.identify("change_detection", ChangeManifest),
        models=models,
        encoder=Encoder(models, FakeEmbeddings()),
        source=source,
        priors=priors or FakePriors(of),
        scratch=InMemory(),
        checkpoint=lambda: None,
    )
    study = Study(generation_row(*current), source, FakeDocuments())
    return ANALYSIS.run(study, tools)


def result(conclusion: Conclusion) -> ChangeResult:
    assert isinstance(conclusion.result, ChangeResult)
    return conclusion.result
