"""The images of lesions, read, judged and outlined by the diagnosis model. Pure over its ports."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gateway.store.values import InstanceRow
from models.change.result import NotAssessed, Reason
from models.diagnosis import DiagnosisManifest, Interpretation, interpret
from models.errors import OutputError
from models.preprocessing import prepare_image
from models.quality import assess_quality
from models.results import ImageQuality, LesionRegion
from reports.context import SourceImage
from workers.analysis import Tools
from workers.errors import BadModelOutput, InstanceMissing, Undecodable
from workers.photographs import read_photograph
from workers.ports import ServedModel

MODEL = "diagnosis"
BATCH = 16
_OUTPUTS = ("LOGITS", "OOD_SCORE", "LESION_PROB")


@dataclass(frozen=True, kw_only=True)
class LesionImage:
    """One image of a lesion, ready to be compared, or the reason why it is not."""

    instance: InstanceRow
    source: SourceImage | None
    """None when not even its header can be read."""
    quality: ImageQuality = field(default_factory=ImageQuality)
    region: LesionRegion | None = None
    malignancy_prob: float | None = None
    is_suspicious: bool | None = None
    problem: NotAssessed | None = None

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB; None when they cannot be decoded."""
        return None if self.source is None else self.source.pixels

    @property
    def spacing_mm(self) -> float | None:
        """Millimetres a pixel (PS3.3 10.7.1.3); None where the image is not calibrated."""
        spacing = None if self.source is None else self.source.header.get("PixelSpacing")
        try:
            row, column = (float(value) for value in spacing or ())
        except (TypeError, ValueError):
            return None
        size = math.sqrt(row * column) if row > 0 and column > 0 else 0.0
        return size if 0 < size < math.inf else None


def read_images(
    instances: Sequence[InstanceRow],
    judge: ServedModel[DiagnosisManifest],
    tools: Tools,
    *,
    own: Collection[str],
) -> dict[str, LesionImage]:
    """Read, judge and outline images; by SOP Instance UID.

    Parameters
    ----------
    own
        SOP Instance UIDs of the study's images. Of an earlier one the file may be gone, since
        studies are kept for a limited time.

    Raises
    ------
    InstanceMissing
        The file of one of the study's images is gone.
    BadModelOutput, ModelUnavailable, StorageUnavailable
        From the model and the ports.
    """
    found: dict[str, LesionImage] = {}
    for first in range(0, len(instances), BATCH):
        loaded = [_load(each, tools, own) for each in instances[first : first + BATCH]]
        found |= {each.instance.sop_instance_uid: each for each in loaded}
        usable = [each for each in loaded if each.problem is None]
        for image, outputs in zip(usable, _infer(usable, tools), strict=True):
            found[image.instance.sop_instance_uid] = _judged(image, outputs, judge, tools)
    return found


def _load(instance: InstanceRow, tools: Tools, own: Collection[str]) -> LesionImage:
    tools.checkpoint()
    try:
        photograph = read_photograph(instance, tools.source)
    except Undecodable as exc:
        problem = NotAssessed(reason=Reason.UNDECODABLE, text=str(exc))
        return LesionImage(instance=instance, source=None, problem=problem)
    except InstanceMissing:
        if instance.sop_instance_uid in own:
            raise
        problem = NotAssessed(reason=Reason.UNDECODABLE, text="its file is gone")
        return LesionImage(instance=instance, source=None, problem=problem)
    pixels = photograph.pixels
    if pixels is None:
        return LesionImage(
            instance=instance,
            source=SourceImage(header=photograph.header, pixels=None),
            problem=NotAssessed(reason=Reason.UNDECODABLE, text=photograph.reason),
        )
    quality = assess_quality(pixels)
    text = "; ".join(quality.reasons)
    return LesionImage(
        instance=instance,
        source=SourceImage(header=photograph.header, pixels=tools.scratch.keep(pixels)),
        quality=quality,
        problem=NotAssessed(reason=Reason.QUALITY, text=text) if text else None,
    )


def _infer(images: Sequence[LesionImage], tools: Tools) -> list[dict[str, NDArray[np.generic]]]:
    """Return the model's outputs for each image, without the batch axis."""
    prepared = [prepare_image(each.pixels) for each in images if each.pixels is not None]
    if not prepared:
        return []
    outputs = tools.models.infer(MODEL, {"IMAGE": np.stack(prepared)})
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
        raise BadModelOutput(f"the model {MODEL} sent no {', '.join(missing)}")
    return [
        {name: np.asarray(outputs[name][number]) for name in _OUTPUTS}
        for number in range(len(prepared))
    ]


def _judged(
    image: LesionImage,
    outputs: dict[str, NDArray[np.generic]],
    judge: ServedModel[DiagnosisManifest],
    tools: Tools,
) -> LesionImage:
    assert image.pixels is not None, "only decoded images are judged"
    shape = (image.pixels.shape[0], image.pixels.shape[1])
    verdict = _interpret(outputs, shape, image.quality, judge.manifest)
    if not verdict.quality.is_assessable:
        text = "; ".join(verdict.quality.reasons)
        return replace(image, problem=NotAssessed(reason=Reason.QUALITY, text=text))
    region = verdict.region
    problem = None
    if region is None:
        problem = NotAssessed(reason=Reason.NO_LESION, text="no lesion could be outlined")
    else:
        region = replace(region, mask=tools.scratch.keep(region.mask))
    return replace(
        image,
        region=region,
        malignancy_prob=verdict.malignancy_prob,
        is_suspicious=verdict.is_suspicious,
        problem=problem,
    )


def _interpret(
    outputs: dict[str, NDArray[np.generic]],
    shape: tuple[int, int],
    quality: ImageQuality,
    manifest: DiagnosisManifest,
) -> Interpretation:
    scores = np.asarray(outputs["OOD_SCORE"]).ravel()
    if scores.size != 1:
        raise BadModelOutput(f"the model diagnosis sent {scores.size} scores for one image")
    try:
        return interpret(
            logits=outputs["LOGITS"],  # type: ignore[arg-type]
            lesion_prob=outputs["LESION_PROB"],  # type: ignore[arg-type]
            ood_score=float(scores[0]),
            shape=shape,
            quality=quality,
            manifest=manifest,
        )
    except OutputError as exc:
        raise BadModelOutput(f"the model diagnosis broke its contract: {exc}") from exc
