"""``diagnosis``: dermoscopic and clinical photographs, one assessment for each image. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, config
from pydicom.uid import UID

from gateway.store.values import InstanceRow
from models.diagnosis import DiagnosisManifest, interpret, state_lesions
from models.errors import OutputError
from models.preprocessing import prepare_image
from models.quality import Remark, assess_quality
from models.results import DiagnosisResult, ImageAssessment, ImageQuality
from reports.context import SourceImage
from reports.uids import tracking_uid
from workers.analysis import Conclusion, Limits, Match, Tools
from workers.errors import BadModelOutput, NothingDecodable
from workers.photographs import DERMOSCOPIC_PHOTOGRAPHY, photographs, read_photograph
from workers.ports import Tensors
from workers.study import Study
from workers.tbp.detect import tile_instances

BATCH = 32
"""Most images in one request to the model."""
DERMOSCOPY = "DMS"
"""Modality of dermoscopic images (PS3.3 C.7.3.1.1.1)."""
_OUTPUTS = ("LOGITS", "OOD_SCORE", "LESION_PROB")


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One photograph on its way through the model."""

    source: SourceImage
    sop_instance_uid: str
    is_dermoscopic: bool
    lesion: str
    """Tracking UID; empty where the source does not say."""
    shape: tuple[int, int]
    quality: ImageQuality
    prepared: NDArray[np.uint8] | None
    """(S, S, 3); None when the image is not to be assessed."""


class Diagnosis:
    """Differential diagnosis, malignancy and lesion outline; see ``models.diagnosis``."""

    name = "diagnosis"
    manifest_type = DiagnosisManifest
    limits = Limits(time_s=900, memory_bytes=4 * 2**30, concurrency=64, priority=9)

    def match(self, study: Study) -> Match:
        """Return the dermoscopic and clinical photographs of a study, without lesion tiles."""
        tiles = set(tile_instances(study))
        found = photographs(study.instances)
        selected = tuple(each for each in found if each not in tiles)
        if not selected:
            return Match(
                instances=(),
                reason="every photograph is a lesion tile of total body photography"
                if found
                else "no dermoscopic or photographic image (secondary captures only with "
                "modality DMS or XC)",
            )
        dermoscopic = sum(each.sop_class_uid == DERMOSCOPIC_PHOTOGRAPHY for each in selected)
        return Match(
            instances=selected,
            reason=f"{dermoscopic} dermoscopic and {len(selected) - dermoscopic} other photographs",
        )

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Assess every photograph.

        Images go through in chunks, so that a study of hundreds of them needs the memory of a
        few; what the report needs later waits in the scratch folder.
        """
        manifest: DiagnosisManifest = tools.served.manifest
        selected = self.match(study).instances
        images: list[_Image] = []
        assessments: list[ImageAssessment] = []
        for first in range(0, len(selected), BATCH):
            chunk = []
            for instance in selected[first : first + BATCH]:
                tools.checkpoint()
                chunk.append(_load(instance, tools))
            assessments += _assess(chunk, manifest, tools)
            images += [replace(image, prepared=None) for image in chunk]
        if all(image.source.pixels is None for image in images):
            reasons = dict.fromkeys(r for image in images for r in image.quality.reasons)
            raise NothingDecodable(
                "; ".join(reasons) or "the study holds no image for this analysis"
            )
        return _conclude(assessments, tuple(image.source for image in images), manifest)


def _load(instance: InstanceRow, tools: Tools) -> _Image:
    """Read and prepare one photograph; what cannot be decoded is prepared as not assessed."""
    photograph = read_photograph(instance, tools.source)
    pixels = photograph.pixels
    is_dermoscopic = _is_dermoscopic(instance)
    image = _Image(
        source=SourceImage(header=photograph.header, pixels=None),
        sop_instance_uid=instance.sop_instance_uid,
        is_dermoscopic=is_dermoscopic,
        lesion=_lesion(photograph.header),
        shape=(0, 0),
        quality=ImageQuality(reasons=(photograph.reason,)),
        prepared=None,
    )
    if pixels is None:
        return image
    quality = assess_quality(pixels)
    if quality.is_assessable and not is_dermoscopic:
        quality = replace(quality, warnings=(*quality.warnings, Remark.NOT_DERMOSCOPIC))
    return replace(
        image,
        source=replace(image.source, pixels=tools.scratch.keep(pixels)),
        shape=(pixels.shape[0], pixels.shape[1]),
        quality=quality,
        prepared=prepare_image(pixels) if quality.is_assessable else None,
    )


def _is_dermoscopic(instance: InstanceRow) -> bool:
    is_marked = instance.modality.strip().upper() == DERMOSCOPY
    return is_marked or instance.sop_class_uid == DERMOSCOPIC_PHOTOGRAPHY


def _lesion(header: Dataset) -> str:
    """UID of the lesion an image shows: its Tracking UID, else one for its Tracking ID.

    A Tracking ID tells lesions within one patient (PS3.3 C.8.12.13), so the UID made for it
    names the patient too.
    """
    given = UID(str(header.get("TrackingUID") or ""), validation_mode=config.IGNORE)
    if given.is_valid:
        return str(given)
    identifier = str(header.get("TrackingID") or "").strip()
    if not identifier:
        return ""
    issuer = str(header.get("IssuerOfPatientID") or "")
    return tracking_uid(issuer, str(header.get("PatientID") or ""), "", identifier)


def _assess(
    images: Sequence[_Image], manifest: DiagnosisManifest, tools: Tools
) -> Iterator[ImageAssessment]:
    """Yield the assessment of every image of a chunk, in order; one request to the model."""
    inputs = [image.prepared for image in images if image.prepared is not None]
    outputs: Tensors = {}
    if inputs:
        outputs = tools.models.infer(tools.served.name, {"IMAGE": np.stack(inputs)})
        missing = [name for name in _OUTPUTS if name not in outputs]
        if missing:
            raise BadModelOutput(f"the model diagnosis sent no {', '.join(missing)}")
    index = 0
    for image in images:
        if image.prepared is None:
            yield ImageAssessment(
                sop_instance_uid=image.sop_instance_uid,
                shape=image.shape,
                quality=image.quality,
                is_dermoscopic=image.is_dermoscopic,
                lesion=image.lesion,
            )
            continue
        own = {name: tensor[index] for name, tensor in outputs.items()}
        index += 1
        assessment = _interpret(image, own, manifest)
        if assessment.region is not None:
            mask = tools.scratch.keep(assessment.region.mask)
            assessment = replace(assessment, region=replace(assessment.region, mask=mask))
        yield assessment


def _interpret(image: _Image, outputs: Tensors, manifest: DiagnosisManifest) -> ImageAssessment:
    """Turn the outputs for one image (no batch axis) into its assessment."""
    scores = np.asarray(outputs["OOD_SCORE"]).ravel()
    if scores.size != 1:
        raise BadModelOutput(f"the model diagnosis sent {scores.size} scores for one image")
    try:
        found = interpret(
            logits=outputs["LOGITS"],
            lesion_prob=outputs["LESION_PROB"],
            ood_score=float(scores[0]),
            shape=image.shape,
            quality=image.quality,
            manifest=manifest,
        )
    except OutputError as exc:
        raise BadModelOutput(f"the model diagnosis broke its contract: {exc}") from exc
    return ImageAssessment(
        sop_instance_uid=image.sop_instance_uid,
        shape=image.shape,
        quality=found.quality,
        differential=found.differential,
        malignancy_prob=found.malignancy_prob,
        is_suspicious=found.is_suspicious,
        region=found.region,
        label_set=found.label_set,
        is_dermoscopic=image.is_dermoscopic,
        lesion=image.lesion,
    )


def _conclude(
    images: Sequence[ImageAssessment],
    sources: tuple[SourceImage, ...],
    manifest: DiagnosisManifest,
) -> Conclusion:
    """Put the images together; the headline is that of the most suspicious lesion."""
    result = DiagnosisResult(
        model=manifest.identity(),
        labels=manifest.labels,
        malignant_labels=manifest.malignant_labels,
        operating_point=manifest.operating_point,
        operating_point_meaning=manifest.operating_point_meaning,
        images=tuple(images),
        lesions=state_lesions(images),
    )
    assessed = [image for image in images if image.is_assessed]
    standing = [image for image in result.standing if image.is_assessed]
    skipped = len(images) - len(assessed)
    summary: dict[str, Any] = {"images": len(images), "not_assessed": skipped}
    if assessed:
        worst = max(standing, key=lambda image: image.malignancy_prob or 0.0)
        top = worst.differential[0]
        summary |= {
            "label": top.label,
            "name": manifest.labels[top.label],
            "probability": round(top.probability, 4),
            "malignancy": round(worst.malignancy_prob or 0.0, 4),
            "suspicious": any(image.is_suspicious for image in standing),
            "referred": sum(
                image.label_set is not None and image.label_set.is_referred for image in standing
            ),
        }
    reason = ""
    if skipped:
        share = "not assessed" if not assessed else f"{skipped} of {len(images)} not assessed"
        reason = f"{share}: {'; '.join(result.reasons)}"
    return Conclusion(
        result=result,
        sources=sources,
        is_assessed=bool(assessed),
        reason=reason,
        summary=summary,
    )


ANALYSIS = Diagnosis()
