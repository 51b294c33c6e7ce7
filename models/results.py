"""What the analyses say, as typed values: arrays and numbers, no DICOM.

Each class is one *result kind*. ``workers`` makes them, ``reports`` turns them into DICOM objects.
Coordinates are (row, column) in pixels of the source image, the centre of the first pixel at
(0, 0), unless a field says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model spoke, and on what evidence: copied into every report."""

    name: str
    """Model name in the model repository, e.g. ``diagnosis``."""
    version: str
    """Version in the manifest, e.g. ``1.0.0``."""
    digest: str
    """SHA-256 of the weights, 64 hexadecimal digits."""
    evidence_level: Literal["real", "simulated", "none"]
    """What stands behind the weights (``models.manifest.EvidenceLevel``)."""
    evidence: str
    """One sentence: data, number of held-out images, headline figure."""
    licence: str
    """Terms of the weights."""


@dataclass(frozen=True, kw_only=True)
class LabelProbability:
    """One line of a differential."""

    label: str
    """Class of the model's label set, e.g. ``MEL``."""
    probability: float
    """Calibrated probability in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """Whether an image can be assessed, and why not."""

    reasons: tuple[str, ...] = ()
    """Readable reasons against assessing the image; empty when it can be assessed."""
    warnings: tuple[str, ...] = ()
    """Readable remarks that do not stop the assessment."""

    @property
    def is_assessable(self) -> bool:
        """True when nothing speaks against assessing the image."""
        return not self.reasons


@dataclass(frozen=True, kw_only=True)
class LesionRegion:
    """One outlined lesion in one image."""

    mask: NDArray[np.bool_]
    """(H, W) of the source image, True inside the lesion, one connected component, no holes."""
    outline: NDArray[np.float64]
    """(N, 2) closed polygon (first point repeated), (row, column) in pixels, N >= 4."""
    area_px: float
    """Area in square pixels."""
    perimeter_px: float
    """Length of the outline in pixels."""
    major_axis_px: float
    """Longest diameter (maximum Feret diameter) in pixels."""
    minor_axis_px: float
    """Widest extent at right angles to the longest diameter, in pixels."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The diagnoses that a lesion may be, with a promised coverage, or a referral."""

    labels: tuple[str, ...]
    """Most probable first; empty when no label is as probable as true ones are."""
    coverage: float
    """Promised share of such sets that hold the true label, in (0, 1)."""
    largest: int
    """A set of more labels says too little."""

    @property
    def is_referred(self) -> bool:
        """True when the set is empty or too large: a person must decide without it."""
        return not 0 < len(self.labels) <= self.largest


@dataclass(frozen=True, kw_only=True)
class ImageAssessment:
    """The diagnosis of one image, or the reason why there is none."""

    sop_instance_uid: str
    """The source instance."""
    shape: tuple[int, int]
    """(H, W) of the source image in pixels; (0, 0) when it could not be decoded."""
    quality: ImageQuality
    differential: tuple[LabelProbability, ...] = ()
    """All labels, most probable first, summing to 1; empty when not assessed."""
    malignancy_prob: float | None = None
    """Summed probability of the malignant labels; None when not assessed."""
    is_suspicious: bool | None = None
    """Malignancy at or above the manifest's operating point; None when not assessed."""
    region: LesionRegion | None = None
    """The lesion; None when not assessed or no lesion was found."""
    label_set: LabelSet | None = None
    """The diagnoses that the lesion may be; None when not assessed or the model has no sets."""
    is_dermoscopic: bool = True
    """False for a photograph that its header does not mark as dermoscopic."""
    lesion: str = ""
    """What tells the lesion over images (Tracking UID); empty where the source does not say."""

    @property
    def is_assessed(self) -> bool:
        """True when there is a differential."""
        return bool(self.differential)


@dataclass(frozen=True, kw_only=True)
class LesionStatement:
    """What is said of one lesion that several images of the study show."""

    images: tuple[str, ...]
    """SOP Instance UIDs of its images, at least two, in the order of the result."""
    deciding: str | None
    """The image whose assessment stands for the lesion; None when none was assessed."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisResult:
    """Result kind of ``diagnosis``: one assessment for each image of the study."""

    model: ModelIdentity
    labels: dict[str, str]
    """Label -> full name, e.g. ``{"MEL": "Melanoma"}``."""
    malignant_labels: tuple[str, ...]
    """The labels that count towards malignancy."""
    operating_point: float
    """Threshold on ``malignancy_prob`` in [0, 1] above which a lesion is called suspicious."""
    operating_point_meaning: str
    """What the threshold was chosen for, e.g. ``sensitivity 0.90 on validation lesions``."""
    images: tuple[ImageAssessment, ...] = field(default=())
    lesions: tuple[LesionStatement, ...] = ()
    """The lesions that several images show."""

    @property
    def standing(self) -> tuple[ImageAssessment, ...]:
        """The images that stand for their lesion, and those of lesions that no other shows."""
        beside = {
            uid for each in self.lesions for uid in each.images if each.deciding not in (None, uid)
        }
        return tuple(image for image in self.images if image.sop_instance_uid not in beside)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The distinct reasons of the images that were not assessed."""
        return tuple(dict.fromkeys(r for image in self.images for r in image.quality.reasons))
