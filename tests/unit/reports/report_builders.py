"""Synthetic sources and results; no patient, no file."""

from __future__ import annotations

import datetime
import io
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from models.results import (
    DiagnosisResult,
    ImageAssessment,
    ImageQuality,
    LabelProbability,
    LesionRegion,
    ModelIdentity,
)
from reports.encode import PredecessorReport, ReportContext, SourceImage

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
STUDY_UID = "1.2.826.0.1.3680043.10.99.1"
LABELS = {
    "MEL": "Melanoma",
    "NV": "Melanocytic nevus",
    "BCC": "Basal cell carcinoma",
    "AKIEC": "Actinic keratosis / intraepithelial carcinoma",
    "BKL": "Benign keratosis",
    "DF": "Dermatofibroma",
    "VASC": "Vascular lesion",
}
CREATED_AT = datetime.datetime(2025, 3, 4, 15, 16, 17, tzinfo=datetime.UTC)
MODEL = ModelIdentity(
    name="diagnosis",
    version="1.0.0",
    digest="0123456789abcdef" * 4,
    evidence_level="real",
    evidence="HAM10000, 1,512 held-out images of 1,120 lesions: balanced accuracy 0.71.",
    licence="CC BY-NC 4.0",
)


def photograph(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Skin with a darker ellipse, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((*shape, 3), np.uint8)
    pixels[:] = (222, 178, 152)
    pixels -= rng.integers(0, 12, (*shape, 1), dtype=np.uint8)
    pixels[ellipse(shape)] = (110, 66, 44)
    return pixels


def ellipse(shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    mask = np.zeros(shape, np.uint8)
    centre, axes = (columns // 2, rows // 2), (columns // 4, rows // 5)
    cv2.ellipse(mask, centre, axes, 20, 0, 360, 1, -1)
    return mask.astype(bool)


def region(mask: np.ndarray) -> LesionRegion:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ring = max(contours, key=len)[:, 0, ::-1].astype(np.float64)
    outline = np.vstack([ring, ring[:1]])
    extent = np.ptp(ring, axis=0)
    return LesionRegion(
        mask=mask,
        outline=outline,
        area_px=float(mask.sum()),
        perimeter_px=float(np.linalg.norm(np.diff(outline, axis=0), axis=1).sum()),
        major_axis_px=float(extent.max()),
        minor_axis_px=float(extent.min()),
    )


def header(
    *,
    number: int = 1,
    sop_class_uid: str = VL_PHOTOGRAPHIC,
    shape: tuple[int, int] = (96, 128),
    spacing: list[float] | None = None,
    geometry: bool = False,
    without: tuple[str, ...] = (),
    **attributes: Any,
) -> Dataset:
    """A source header, written to bytes and read back, as it comes from the spool."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, f"{STUDY_UID}.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, f"{STUDY_UID}.1"
    ds.PatientName, ds.PatientID = "Probe^Paula", "P-4711"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.StudyDate, ds.StudyTime = "20250304", "150000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "S1", "A1", "Ref^Doc"
    ds.StudyDescription = "Dermoscopy"
    ds.Modality = "DMS" if sop_class_uid == DERMOSCOPIC else "XC"
    ds.Manufacturer, ds.ManufacturerModelName = "Scope Works", "D4"
    ds.Rows, ds.Columns = shape
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = 12.5, "ISO_10918_1"
    site = Dataset()
    site.CodeValue, site.CodingSchemeDesignator = "14975008", "SCT"
    site.CodeMeaning = "Forearm"
    ds.AnatomicRegionSequence = [site]
    ds.ImageLaterality = "L"
    if spacing is not None:
        ds.PixelSpacing = spacing
    if geometry:
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{STUDY_UID}.9", ""
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    for keyword in without:
        delattr(ds, keyword)
    return reread(ds)


def reread(ds: Dataset) -> Dataset:
    return dcmread(written(ds), force=True)


def written(ds: Dataset) -> io.BytesIO:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format="SOPInstanceUID" in ds and "SOPClassUID" in ds)
    buffer.seek(0)
    return buffer


def assessment(
    *,
    number: int = 1,
    shape: tuple[int, int] = (96, 128),
    malignant: float = 0.732,
    with_region: bool = True,
    warnings: tuple[str, ...] = (),
) -> ImageAssessment:
    shares = {"MEL": 0.8, "BCC": 0.15, "AKIEC": 0.05}
    benign = {"NV": 0.6, "BKL": 0.3, "DF": 0.06, "VASC": 0.04}
    probs = {label: share * malignant for label, share in shares.items()}
    probs |= {label: share * (1 - malignant) for label, share in benign.items()}
    ranked = sorted(probs.items(), key=lambda pair: -pair[1])
    return ImageAssessment(
        sop_instance_uid=f"{STUDY_UID}.1.{number}",
        shape=shape,
        quality=ImageQuality(warnings=warnings),
        differential=tuple(LabelProbability(label=k, probability=p) for k, p in ranked),
        malignancy_prob=malignant,
        is_suspicious=malignant >= 0.21,
        region=region(ellipse(shape)) if with_region else None,
    )


def not_assessed(
    *, number: int = 1, shape: tuple[int, int] = (96, 128), reasons: tuple[str, ...] = ()
) -> ImageAssessment:
    reasons = reasons or ("The image is out of focus", "The image is too dark")
    return ImageAssessment(
        sop_instance_uid=f"{STUDY_UID}.1.{number}",
        shape=shape,
        quality=ImageQuality(reasons=reasons),
    )


def result(*images: ImageAssessment, **changes: Any) -> DiagnosisResult:
    values: dict[str, Any] = {
        "model": MODEL,
        "labels": LABELS,
        "malignant_labels": ("MEL", "BCC", "AKIEC"),
        "operating_point": 0.21,
        "operating_point_meaning": "sensitivity 0.90 on validation lesions",
        "images": images,
    }
    return DiagnosisResult(**(values | changes))


def source(source_header: Dataset, *, decoded: bool = True) -> SourceImage:
    shape = (int(source_header.Rows), int(source_header.Columns)) if decoded else (0, 0)
    return SourceImage(header=source_header, pixels=photograph(shape) if decoded else None)


def context(*sources: SourceImage, **changes: Any) -> ReportContext:
    values: dict[str, Any] = {
        "sources": sources,
        "generation": 1,
        "analysis": "diagnosis",
        "created_at": CREATED_AT,
        "software_version": "0.1.0",
        "device_serial": "installation-1",
    }
    return ReportContext(**(values | changes))


PREDECESSOR = PredecessorReport(
    study_instance_uid=STUDY_UID,
    series_instance_uid="2.25.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
    sop_instance_uid="2.25.2",
)
