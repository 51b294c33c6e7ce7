"""The diagnosis model's manifest, and from its outputs to what is said of one image. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.calibration import calibrate
from models.conformal import ConformalSpec, label_set
from models.errors import OutputError
from models.manifest import InputSpec, Manifest
from models.quality import Reason, Remark
from models.results import (
    ImageAssessment,
    ImageQuality,
    LabelProbability,
    LabelSet,
    LesionRegion,
    LesionStatement,
)
from models.segmentation import find_lesion
from models.shapes import BackboneShape, DiagnosisShape, EfficientNetLiteShape

REFUSAL_FACTOR = 1.25
"""Times the manifest's threshold from which an image is not assessed; between the two it is warned.

The threshold is passed by 1 % of the validation images by construction, and by 1 to 5 % of sharp
dermoscopic images of other hospitals: too many to refuse. At 1.25 times it (weights 2.0.0) none of
275 images of HAM10000, ISIC UDA-1, PH2 and ISIC 2017 is refused, and about nine in ten H&E tiles
and all noise are.
"""


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """The numbers that rebuild the network, and how it is run."""

    backbone: BackboneShape
    """What turns an image into features."""
    decoder_width: int
    """Channels of the lesion decoder."""
    flips: bool
    """Whether the outputs are averaged over the four mirror images of the input."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisManifest(Manifest):
    """What travels with the weights of one version of the diagnosis model."""

    labels: dict[str, str]
    """Label -> full name, in the order of the logits."""
    malignant_labels: tuple[str, ...]
    """Labels that count towards malignancy."""
    input: InputSpec
    architecture: ArchitectureSpec
    temperature: float
    """Divides the logits before the softmax, positive."""
    lesion_threshold: float
    """Probability in (0, 1) from which a pixel belongs to the lesion."""
    operating_point: float
    """Malignancy in (0, 1) from which a lesion is called suspicious."""
    operating_point_meaning: str
    """What the operating point was chosen for."""
    ood_threshold: float
    """Out-of-distribution score above which an image is remarked on, and refused from a multiple
    of it (``REFUSAL_FACTOR``)."""
    ood_threshold_meaning: str
    """What the threshold was chosen for."""
    conformal: ConformalSpec | None = None
    """Sets of labels with a promised coverage; None: none were fitted, and reports give none."""

    def shape(self) -> DiagnosisShape:
        """Return the shape of the network."""
        return DiagnosisShape(
            backbone=self.architecture.backbone,
            num_labels=len(self.labels),
            decoder_width=self.architecture.decoder_width,
        )

    def _extra_checks(self) -> dict[str, Callable[[], bool]]:
        labels, malignant = self.labels, self.malignant_labels
        return {
            "labels": lambda: (
                len(labels) >= 2
                and all(label.strip() and name.strip() for label, name in labels.items())
                and len(set(labels.values())) == len(labels)
            ),
            "malignant_labels": lambda: (
                0 < len(malignant) < len(labels)
                and len(set(malignant)) == len(malignant)
                and set(malignant) <= set(labels)
            ),
            "architecture": self._has_shape,
            "temperature": lambda: 0 < self.temperature < math.inf,
            "lesion_threshold": lambda: 0 < self.lesion_threshold < 1,
            "operating_point": lambda: 0 < self.operating_point < 1,
            "ood_threshold": lambda: 0 < self.ood_threshold < math.inf,
            "conformal": lambda: (
                self.conformal is None
                or (
                    self.conformal.largest_set < len(labels)
                    and set(self.conformal.thresholds) == set(labels)
                )
            ),
        }

    def _has_shape(self) -> bool:
        backbone = self.architecture.backbone
        if isinstance(backbone, EfficientNetLiteShape):
            fits = self.input.size % 32 == 0
        else:
            fits = self.input.size == backbone.encoder.image_size
        return fits and self.architecture.decoder_width > 0


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """What is said of one image; its fields are those of ``ImageAssessment``."""

    quality: ImageQuality
    """The given quality, with a reason more when the image is out of distribution."""
    differential: tuple[LabelProbability, ...] = ()
    """All labels, most probable first; empty when not assessed."""
    malignancy_prob: float | None = None
    """Summed probability of the malignant labels; None when not assessed."""
    is_suspicious: bool | None = None
    """Malignancy at or above the operating point; None when not assessed."""
    region: LesionRegion | None = None
    """The lesion; None when not assessed or not found."""
    label_set: LabelSet | None = None
    """The diagnoses that the lesion may be; None when not assessed or the model has no sets."""


def interpret(
    *,
    logits: NDArray[np.floating],
    lesion_prob: NDArray[np.uint8],
    ood_score: float,
    shape: tuple[int, int],
    quality: ImageQuality,
    manifest: DiagnosisManifest,
) -> Interpretation:
    """Interpret the model's outputs for one image.

    Parameters
    ----------
    logits
        (C,) uncalibrated, in the order of ``manifest.labels``.
    lesion_prob
        (S, S) uint8, lesion probability times 255.
    ood_score
        Distance of the image to the training data.
    shape
        (H, W) of the source image in pixels.
    quality
        Verdict of ``assess_quality`` on the source image.
    manifest
        Manifest of the model that answered.

    Returns
    -------
    Interpretation
        Without a differential when the quality or the distance to the training data forbids one.

    Raises
    ------
    OutputError
        If an output has the wrong shape or type, or is not finite.
    """
    _check_outputs(logits, lesion_prob, ood_score, manifest)
    quality = _add_distance(quality, ood_score, manifest.ood_threshold)
    if not quality.is_assessable:
        return Interpretation(quality=quality)
    differential, malignancy = rank_labels(logits, manifest)
    region = find_lesion(lesion_prob, shape, manifest.lesion_threshold)
    if region is None:
        quality = ImageQuality(warnings=(*quality.warnings, Remark.NO_LESION))
    return Interpretation(
        quality=quality,
        differential=differential,
        malignancy_prob=malignancy,
        is_suspicious=malignancy >= manifest.operating_point,
        region=region,
        label_set=_label_set(logits, manifest),
    )


def _label_set(logits: NDArray[np.floating], manifest: DiagnosisManifest) -> LabelSet | None:
    """Return the labels of the promised coverage, and whether they are too many or none."""
    spec = manifest.conformal
    if spec is None:
        return None
    names = tuple(manifest.labels)
    thresholds = np.array([spec.thresholds[name] for name in names])
    numbers = label_set(calibrate(logits, manifest.temperature), thresholds, spec.method)
    return LabelSet(
        labels=tuple(names[number] for number in numbers),
        coverage=spec.coverage,
        largest=spec.largest_set,
    )


def _add_distance(quality: ImageQuality, ood_score: float, threshold: float) -> ImageQuality:
    """Say of an image far from the training data that it is, or refuse it."""
    if ood_score > REFUSAL_FACTOR * threshold:
        return ImageQuality(
            reasons=(*quality.reasons, Reason.OUT_OF_DISTRIBUTION), warnings=quality.warnings
        )
    if ood_score > threshold:
        return ImageQuality(
            reasons=quality.reasons, warnings=(*quality.warnings, Remark.FAR_FROM_TRAINING)
        )
    return quality


def rank_labels(
    logits: NDArray[np.floating], manifest: DiagnosisManifest
) -> tuple[tuple[LabelProbability, ...], float]:
    """Calibrated differential, most probable first, and the summed malignant probability.

    Labels of equal probability keep the manifest's order.
    """
    probabilities = calibrate(logits, manifest.temperature)
    lines = [
        LabelProbability(label=label, probability=float(probability))
        for label, probability in zip(manifest.labels, probabilities, strict=True)
    ]
    malignancy = sum(x.probability for x in lines if x.label in manifest.malignant_labels)
    lines.sort(key=lambda line: -line.probability)
    return tuple(lines), min(malignancy, 1.0)


def state_lesions(images: Sequence[ImageAssessment]) -> tuple[LesionStatement, ...]:
    """State for each lesion that several images show which of them stands for it.

    Only assessed images can. A dermoscopic image goes before a clinical one, since the model is
    made for dermoscopic images; among images of one kind the one of the highest malignancy
    stands, so that no suspicion is averaged away. The other images are seen beside it.
    """
    by_lesion: dict[str, list[ImageAssessment]] = {}
    for image in images:
        if image.lesion:
            by_lesion.setdefault(image.lesion, []).append(image)
    return tuple(_state_lesion(own) for own in by_lesion.values() if len(own) > 1)


def _state_lesion(images: Sequence[ImageAssessment]) -> LesionStatement:
    assessed = [image for image in images if image.is_assessed]
    best = max(
        assessed,
        key=lambda image: (image.is_dermoscopic, image.malignancy_prob or 0.0),
        default=None,
    )
    return LesionStatement(
        images=tuple(image.sop_instance_uid for image in images),
        deciding=None if best is None else best.sop_instance_uid,
    )


def _check_outputs(
    logits: NDArray[np.floating],
    lesion_prob: NDArray[np.uint8],
    ood_score: float,
    manifest: DiagnosisManifest,
) -> None:
    if logits.shape != (len(manifest.labels),):
        raise OutputError(f"logits have shape {logits.shape}, not ({len(manifest.labels)},)")
    size = manifest.input.size
    if lesion_prob.shape != (size, size) or lesion_prob.dtype != np.uint8:
        raise OutputError(f"the lesion map is {lesion_prob.shape} {lesion_prob.dtype}")
    if not np.isfinite(logits).all() or not np.isfinite(ood_score):
        raise OutputError("logits or out-of-distribution score are not finite")
