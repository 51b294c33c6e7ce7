"""A study in the PACS with the results of ``diagnosis``, made without a model."""

import datetime
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread

from gateway.demo.samples import Kind, render, sample_set
from gateway.sending.wrap import Kind as WrapKind
from gateway.sending.wrap import wrap
from models.results import (
    DiagnosisResult,
    ImageAssessment,
    ImageQuality,
    LabelProbability,
    LabelSet,
    LesionRegion,
    ModelIdentity,
)
from reports.encode import ReportContext, SourceImage, encode
from tests.browser.driver import Picture
from tests.servers import Orthanc

MALIGNANCY = 0.732
_MODEL = ModelIdentity(
    name="diagnosis",
    version="1.0.0",
    digest="0123456789abcdef" * 4,
    evidence_level="real",
    evidence="None: these figures were made up for a test.",
    licence="Apache-2.0",
)
_LABELS = {
    "MEL": "Melanoma",
    "NV": "Melanocytic nevus",
    "BCC": "Basal cell carcinoma",
    "AKIEC": "Actinic keratosis / intraepithelial carcinoma",
    "BKL": "Benign keratosis",
    "DF": "Dermatofibroma",
    "VASC": "Vascular lesion",
}
_MALIGNANT = ("MEL", "BCC", "AKIEC")
_DIFFERENTIAL = tuple(
    LabelProbability(label=label, probability=probability)
    for label, probability in (
        ("MEL", 0.602),
        ("NV", 0.180),
        ("BCC", 0.110),
        ("BKL", 0.060),
        ("AKIEC", 0.020),
        ("DF", 0.018),
        ("VASC", 0.010),
    )
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A picture in the PACS, with the results that belong to it."""

    study_instance_uid: str
    pixels: Picture
    lesion: LesionRegion | None
    objects: dict[str, Dataset]
    """Role -> object."""

    def series_number(self, role: str) -> int:
        """Series Number of the object with this role."""
        return int(self.objects[role].SeriesNumber)


def lesion_of(pixels: Picture) -> LesionRegion:
    """Outline what is darker than the skin."""
    grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 6)
    dark = (grey < np.median(grey) - 25).astype(np.uint8)
    contours, _ = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    mask = cv2.drawContours(np.zeros_like(dark), [largest], -1, 1, cv2.FILLED)
    ring = largest[:, 0, ::-1].astype(np.float64)
    _, (width, height), _ = cv2.minAreaRect(largest)
    return LesionRegion(
        mask=mask.astype(bool),
        outline=np.vstack([ring, ring[:1]]),
        area_px=float(mask.sum()),
        perimeter_px=float(cv2.arcLength(largest, closed=True)),
        major_axis_px=float(max(width, height)),
        minor_axis_px=float(min(width, height)),
    )


def _assess(sop_instance_uid: str, pixels: Picture, lesion: LesionRegion | None) -> ImageAssessment:
    """Call the lesion suspicious; without a lesion, call the image out of focus."""
    shape = (pixels.shape[0], pixels.shape[1])
    if lesion is None:
        return ImageAssessment(
            sop_instance_uid=sop_instance_uid,
            shape=shape,
            quality=ImageQuality(reasons=("The image is out of focus",)),
        )
    return ImageAssessment(
        sop_instance_uid=sop_instance_uid,
        shape=shape,
        quality=ImageQuality(),
        differential=_DIFFERENTIAL,
        malignancy_prob=MALIGNANCY,
        is_suspicious=True,
        region=lesion,
        label_set=LabelSet(labels=("MEL", "NV"), coverage=0.9, largest=3),
    )


def store_study(
    pacs: Orthanc,
    folder: Path,
    *,
    assessed: bool = True,
    wrap_kind: WrapKind = WrapKind.DERMOSCOPY,
) -> Study:
    """Wrap a picture, make its results and store everything.

    Parameters
    ----------
    pacs
        Where everything is stored.
    folder, assessed, wrap_kind
        As for ``make_study``.
    """
    instance, study = make_study(folder, assessed=assessed, wrap_kind=wrap_kind)
    for body in (instance, *(_as_bytes(each) for each in study.objects.values())):
        pacs.store(body)
    return study


def make_study(
    folder: Path, *, assessed: bool = True, wrap_kind: WrapKind = WrapKind.DERMOSCOPY
) -> tuple[bytes, Study]:
    """Wrap a picture and make its results; returns the instance and the study.

    Parameters
    ----------
    folder
        Where the picture is written.
    assessed
        A suspicious melanoma, else a picture out of focus that is not assessed.
    wrap_kind
        Dermoscopic Photography or VL Photographic.
    """
    kind = Kind.MELANOMA if assessed else Kind.OUT_OF_FOCUS
    seed = next(sample.seed for sample in sample_set() if sample.kind is kind)
    path = folder / f"{kind}.jpg"
    Image.fromarray(render(kind, seed)).save(path, quality=92)
    instance = _as_bytes(wrap(path, wrap_kind))
    header = dcmread(BytesIO(instance), stop_before_pixels=True)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    lesion = lesion_of(pixels) if assessed else None
    result = DiagnosisResult(
        model=_MODEL,
        labels=_LABELS,
        malignant_labels=_MALIGNANT,
        operating_point=0.21,
        operating_point_meaning="chosen for a test",
        images=(_assess(str(header.SOPInstanceUID), pixels, lesion),),
    )
    context = ReportContext(
        sources=(SourceImage(header=header, pixels=pixels),),
        generation=1,
        analysis="diagnosis",
        created_at=datetime.datetime(2025, 3, 4, 15, 16, 17, tzinfo=datetime.UTC),
        software_version="0.1.0",
        device_serial="test",
    )
    objects = encode(result, context)
    return instance, Study(
        study_instance_uid=str(header.StudyInstanceUID),
        pixels=pixels,
        lesion=lesion,
        objects={each.role: each.dataset for each in objects},
    )


def _as_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
