"""Drawn slides: headers as scanners write them, and results as the analysis makes them."""

from __future__ import annotations

import datetime
import functools
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import JPEGBaseline8Bit

from models.results import LabelProbability, ModelIdentity
from models.slide.result import SlideAssessment, SlideResult, TopTile
from models.slide.tiles import SlideGeometry, lay_grid
from models.slide.tissue import PRESETS, find_tissue
from reports.encode import ReportContext, SourceImage
from tests.unit.reports.report_builders import reread

STUDY_UID = "1.2.826.0.1.3680043.10.99.7"
FRAME_OF_REFERENCE_UID = f"{STUDY_UID}.9"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SIZE = (12_288, 8_192)
UM_PX = 0.5
FACTOR = 16
ORIGIN_MM = (23.449873, 25.691574)
TURNED = (0, -1, 0, -1, 0, 0)
"""Image Orientation (Slide) of most scanners: columns run along -y, rows along -x."""
CREATED_AT = datetime.datetime(2026, 3, 4, 15, 16, 17, tzinfo=datetime.UTC)
MODEL = ModelIdentity(
    name="slide_classification",
    version="1.0.0",
    digest="0123456789abcdef" * 4,
    evidence_level="real",
    evidence="140 held-out slides of 120 patients: AUROC 0.91.",
    licence="CC BY-NC 4.0",
)
ENCODER = replace(MODEL, name="encoder", version="2.0.0", digest="fedcba9876543210" * 4)
DEMONSTRATION = replace(
    MODEL, evidence_level="simulated", evidence="Simulated slides: AUROC 0.71 (0.50 to 0.90)."
)


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def header(
    *,
    number: int = 1,
    slide: int = 1,
    size: tuple[int, int] = SIZE,
    um_px: float | None = UM_PX,
    orientation: tuple[float, ...] | None = TURNED,
    origin: tuple[float, float] | None = ORIGIN_MM,
    without: tuple[str, ...] = (),
    **attributes: Any,
) -> Dataset:
    """The header of one instance of a slide, written to bytes and read back."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = WHOLE_SLIDE, f"{STUDY_UID}.{slide}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, f"{STUDY_UID}.{slide}"
    ds.PatientName, ds.PatientID = "Probe^Paula", "P-4711"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20260304", "150000", "S1"
    ds.AccessionNumber, ds.ReferringPhysicianName = "A1", "Ref^Doc"
    ds.StudyDescription, ds.Modality = "Histopathology", "SM"
    ds.Manufacturer, ds.ManufacturerModelName = "Scanner Works", "S2"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.Rows = ds.Columns = 256
    ds.NumberOfFrames = -(-size[0] // 256) * -(-size[1] // 256)
    ds.FrameOfReferenceUID = f"{FRAME_OF_REFERENCE_UID}.{slide}"
    ds.PositionReferenceIndicator = "SLIDE_CORNER"
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = size
    if origin is not None:
        place = Dataset()
        place.XOffsetInSlideCoordinateSystem, place.YOffsetInSlideCoordinateSystem = origin
        ds.TotalPixelMatrixOriginSequence = [place]
    if orientation is not None:
        ds.ImageOrientationSlide = list(orientation)
    shared = Dataset()
    if um_px is not None:
        measures = Dataset()
        measures.PixelSpacing, measures.SliceThickness = [um_px / 1000, um_px / 1000], 0.001
        shared.PixelMeasuresSequence = [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = 15.0, "ISO_10918_1"
    ds.ContainerIdentifier = f"SLIDE-{slide}"
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = f"SPEC-{slide}", f"{STUDY_UID}.{slide}.99"
    specimen.SpecimenPreparationSequence = []
    specimen.PrimaryAnatomicStructureSequence = [code_item("39937001", "SCT", "Skin")]
    ds.SpecimenDescriptionSequence = [specimen]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    for keyword in without:
        delattr(ds, keyword)
    return reread(ds)


@functools.cache
def draw_overview(size: tuple[int, int] = SIZE, *, kind: str = "tissue") -> np.ndarray:
    """The whole slide at ``FACTOR``: two pieces of tissue with a hole, and a stroke of ink."""
    width, height = size[0] // FACTOR, size[1] // FACTOR
    rng = np.random.default_rng(7)
    pixels = np.full((height, width, 3), (243, 241, 244), np.uint8)
    if kind == "tissue":
        tissue = np.zeros((height, width), np.uint8)
        centre = (round(0.36 * width), round(0.5 * height))
        cv2.ellipse(tissue, centre, (round(0.26 * width), round(0.36 * height)), 15, 0, 360, 1, -1)
        side = (round(0.78 * width), round(0.32 * height))
        cv2.ellipse(tissue, side, (round(0.12 * width), round(0.2 * height)), -20, 0, 360, 1, -1)
        cv2.circle(tissue, centre, round(0.1 * height), 0, -1)
        stained = np.clip(rng.normal((208, 138, 186), 14, (height, width, 3)), 0, 255)
        pixels[tissue > 0] = stained[tissue > 0].astype(np.uint8)
        nest = np.zeros_like(tissue)
        place = (round(0.24 * width), round(0.36 * height))
        cv2.ellipse(nest, place, (width // 14, height // 10), 30, 0, 360, 1, -1)
        dark = np.clip(rng.normal((120, 62, 150), 12, (height, width, 3)), 0, 255)
        pixels[(nest & tissue) > 0] = dark[(nest & tissue) > 0].astype(np.uint8)
    if kind != "blank":
        low, high = (round(0.7 * width), round(0.86 * height)), (round(0.95 * width), height - 24)
        cv2.line(pixels, low, high, (20, 30, 170), 14)
    return pixels


def geometry(size: tuple[int, int] = SIZE, um_px: float = UM_PX) -> SlideGeometry:
    levels = [(size[0] // factor, size[1] // factor) for factor in (1, 4, 16)]
    return SlideGeometry(um_px=um_px, sizes=tuple(levels))


@functools.cache
def assessed(
    *,
    slide: int = 1,
    size: tuple[int, int] = SIZE,
    um_px: float = UM_PX,
    positive: float = 0.932,
    warnings: tuple[str, ...] = (),
    top: int = 6,
) -> SlideAssessment:
    """A slide whose attention lies on the dark nest."""
    overview = draw_overview(size)
    pyramid = geometry(size, um_px)
    tissue = find_tissue(overview, um_px=um_px * FACTOR, preset=PRESETS["bwh_biopsy"])
    grid = lay_grid(pyramid, tissue)
    centres = (grid.coordinates + grid.side / 2) / size
    distance = np.hypot((centres[:, 0] - 0.24) * size[0], (centres[:, 1] - 0.36) * size[1])
    attention = (-distance / 1000).astype(np.float32)
    order = np.argsort(-attention, kind="stable")[:top]
    return SlideAssessment(
        sop_instance_uids=tuple(f"{STUDY_UID}.{slide}.{number}" for number in (1, 2)),
        warnings=warnings,
        geometry=pyramid,
        overview=overview,
        tissue=tissue,
        grid=grid,
        probabilities=(
            LabelProbability(label="tumour", probability=positive),
            LabelProbability(label="normal", probability=1 - positive),
        ),
        positive_prob=positive,
        is_positive=positive >= 0.5,
        attention=attention,
        top=tuple(
            TopTile(number=int(number), pixels=_tile_pixels(overview, grid, int(number)))
            for number in order
        ),
    )


def _tile_pixels(overview: np.ndarray, grid: Any, number: int) -> np.ndarray:
    x, y = grid.coordinates[number] // FACTOR
    side = max(1, grid.side // FACTOR)
    part = overview[y : y + side, x : x + side]
    return np.asarray(cv2.resize(part, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8)


def not_assessed(*, slide: int = 1, kind: str = "blank", **changes: Any) -> SlideAssessment:
    """A slide that was read but holds no tissue."""
    overview = draw_overview(kind=kind)
    values: dict[str, Any] = {
        "sop_instance_uids": tuple(f"{STUDY_UID}.{slide}.{number}" for number in (1, 2)),
        "reasons": ("No tissue was found on the slide",),
        "geometry": geometry(),
        "overview": overview,
        "tissue": find_tissue(overview, um_px=UM_PX * FACTOR, preset=PRESETS["bwh_biopsy"]),
    }
    return SlideAssessment(**(values | changes))


def unreadable(*, slide: int = 1) -> SlideAssessment:
    return SlideAssessment(
        sop_instance_uids=(f"{STUDY_UID}.{slide}.1",),
        reasons=("The slide does not state its pixel spacing",),
    )


def result(*slides: SlideAssessment, **changes: Any) -> SlideResult:
    values: dict[str, Any] = {
        "model": MODEL,
        "encoder": ENCODER,
        "labels": {"normal": "Normal tissue", "tumour": "Metastasis"},
        "positive_labels": ("tumour",),
        "threshold": 0.5,
        "threshold_meaning": "sensitivity 0.90 on calibration slides",
        "slides": slides,
    }
    return SlideResult(**(values | changes))


def headers(slide: int = 1, **changes: Any) -> list[Dataset]:
    """Two levels of one slide."""
    second = dict(changes)
    if changes.get("um_px", UM_PX) is not None:
        second["um_px"] = 4 * changes.get("um_px", UM_PX)
    return [
        header(slide=slide, number=1, **changes),
        header(slide=slide, number=2, size=(SIZE[0] // 4, SIZE[1] // 4), **second),
    ]


def context(*sources: Dataset, **changes: Any) -> ReportContext:
    values: dict[str, Any] = {
        "sources": tuple(SourceImage(header=source, pixels=None) for source in sources),
        "generation": 1,
        "analysis": "slide_classification",
        "created_at": CREATED_AT,
        "software_version": "0.4.0",
        "device_serial": "installation-1",
    }
    return ReportContext(**(values | changes))
