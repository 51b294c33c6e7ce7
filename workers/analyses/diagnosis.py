"""``diagnosis``: dermoscopic and clinical photographs, one assessment for each image. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.store.values import InstanceRow
from models.diagnosis import DiagnosisManifest, interpret
from models.errors import OutputError
from models.preprocessing import prepare_image
from models.quality import assess_quality
from models.results import DiagnosisResult, ImageAssessment
from workers.analysis import Conclusion, Match, PreparedImage
from workers.errors import BadModelOutput
from workers.ports import Tensors

# PS3.4 Table B.5-1
_DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"
_VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# Secondary captures hold anything; these modalities say photograph of the skin (PS3.3 C.7.3.1.1.1:
# dermoscopy, external-camera photography).
_SKIN_MODALITIES = ("DMS", "XC")

_OUTPUTS = ("LOGITS", "OOD_SCORE", "LESION_PROB")


class Diagnosis:
    """Differential diagnosis, malignancy and lesion outline; see ``models.diagnosis``."""

    name = "diagnosis"
    batch_size = 32

    def match(self, instances: Sequence[InstanceRow]) -> Match:
        """Return the dermoscopic and clinical photographs of a study."""
        selected = tuple(instance for instance in instances if _applies_to(instance))
        if not selected:
            return Match(
                instances=(),
                reason="no dermoscopic or photographic image (secondary captures only with "
                "modality DMS or XC)",
            )
        dermoscopic = sum(each.sop_class_uid == _DERMOSCOPIC_PHOTOGRAPHY for each in selected)
        return Match(
            instances=selected,
            reason=f"{dermoscopic} dermoscopic and {len(selected) - dermoscopic} other photographs",
        )

    def prepare(self, sop_instance_uid: str, pixels: NDArray[np.uint8]) -> PreparedImage:
        """Assess the quality of an image and squash it to the model's input."""
        quality = assess_quality(pixels)
        return PreparedImage(
            sop_instance_uid=sop_instance_uid,
            shape=(pixels.shape[0], pixels.shape[1]),
            quality=quality,
            inputs={"IMAGE": prepare_image(pixels)} if quality.is_assessable else {},
        )

    def interpret(
        self, image: PreparedImage, outputs: Tensors, manifest: DiagnosisManifest
    ) -> ImageAssessment:
        """Turn the model's outputs for one image into its assessment."""
        missing = [name for name in _OUTPUTS if name not in outputs]
        if missing:
            raise BadModelOutput(f"the model diagnosis sent no {', '.join(missing)}")
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
        )

    def conclude(
        self, images: Sequence[ImageAssessment], manifest: DiagnosisManifest
    ) -> Conclusion:
        """Put the images together; the headline is that of the most suspicious image."""
        result = DiagnosisResult(
            model=manifest.identity(),
            labels=manifest.labels,
            malignant_labels=manifest.malignant_labels,
            operating_point=manifest.operating_point,
            operating_point_meaning=manifest.operating_point_meaning,
            images=tuple(images),
        )
        assessed = [image for image in images if image.differential]
        skipped = len(images) - len(assessed)
        summary: dict[str, Any] = {"images": len(images), "not_assessed": skipped}
        if assessed:
            worst = max(assessed, key=lambda image: image.malignancy_prob or 0.0)
            top = worst.differential[0]
            summary |= {
                "label": top.label,
                "name": manifest.labels[top.label],
                "probability": round(top.probability, 4),
                "malignancy": round(worst.malignancy_prob or 0.0, 4),
                "suspicious": any(image.is_suspicious for image in assessed),
            }
        reason = ""
        if skipped:
            share = "not assessed" if not assessed else f"{skipped} of {len(images)} not assessed"
            reason = f"{share}: {'; '.join(result.reasons)}"
        return Conclusion(result=result, is_assessed=bool(assessed), reason=reason, summary=summary)


def _applies_to(instance: InstanceRow) -> bool:
    if instance.sop_class_uid == _SECONDARY_CAPTURE:
        return instance.modality.strip().upper() in _SKIN_MODALITIES
    return instance.sop_class_uid in (_DERMOSCOPIC_PHOTOGRAPHY, _VL_PHOTOGRAPHIC)


ANALYSIS = Diagnosis()
