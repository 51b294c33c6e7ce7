"""Objects of one large slide beside highdicom: seconds to build and write, and bytes.

``python -m tests.bench.slide_reports``. The slide is drawn: 100,000 px a side at 0.25 um/px, so a
tissue mask of 3,125 px a side and an attention map of 195 by 195; the report holds 8 outlines and
16 tiles. Both libraries are given the same arrays and regions, and take turns.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from models.slide.result import SlideAssessment, SlideResult, TopTile
from models.slide.tiles import SlideGeometry, lay_grid
from models.slide.tissue import Tissue, TissueFinding
from reports.encode import ReportContext
from reports.slide.encode import encode_slides, slide_map, slide_mask, slide_report
from reports.slide.slides import Slide, read_slides
from tests.unit.reports.report_builders import written
from tests.unit.reports.slide import slide_builders as builders

SIDE, FACTOR, PARTS, TILES, TURNS = 100_000, 32, 8, 16, 3
_SALIENCY = Code("130404", "DCM", "Saliency")
_TISSUE = Code("85756007", "SCT", "Tissue")
_DEVICE = {
    "manufacturer": "bench",
    "manufacturer_model_name": "bench",
    "software_versions": "1",
    "device_serial_number": "1",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One object's figures."""

    name: str
    ours_s: float
    theirs_s: float
    ours_bytes: int
    theirs_bytes: int


def draw_result() -> tuple[SlideResult, ReportContext]:
    """One large slide with tissue in ``PARTS`` ellipses."""
    side = SIDE // FACTOR
    mask = np.zeros((side, side), np.uint8)
    for part in range(PARTS):
        centre = (side // 8 + (part % 4) * side // 4, side // 4 + (part // 4) * side // 2)
        cv2.ellipse(mask, centre, (side // 10, side // 5), 10 * part, 0, 360, 1, -1)
    edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    tissue = Tissue(
        finding=TissueFinding.TISSUE,
        outer=mask.astype(bool),
        holes=np.zeros_like(mask, bool),
        ink=np.zeros_like(mask, bool),
        outlines=tuple(edge.reshape(-1, 2).astype(np.int32) for edge in edges),
        um_px=0.25 * FACTOR,
        threshold=8,
        is_pale=False,
    )
    geometry = SlideGeometry(um_px=0.25, sizes=((SIDE, SIDE),))
    grid = lay_grid(geometry, tissue)
    rng = np.random.default_rng(0)
    attention = rng.normal(size=len(grid)).astype(np.float32)
    tile = np.zeros((256, 256, 3), np.uint8)
    order = np.argsort(-attention)[:TILES]
    assessment = SlideAssessment(
        sop_instance_uids=(f"{builders.STUDY_UID}.1.1",),
        geometry=geometry,
        overview=np.full((side, side, 3), 230, np.uint8),
        tissue=tissue,
        grid=grid,
        probabilities=builders.assessed().probabilities,
        positive_prob=0.932,
        is_positive=True,
        attention=attention,
        top=tuple(TopTile(number=int(number), pixels=tile) for number in order),
    )
    header = builders.header(size=(SIDE, SIDE), um_px=0.25)
    return builders.result(assessment), builders.context(header)


def source_for_highdicom(size: int, spacing_mm: float) -> Dataset:
    """A header of the object's own size: highdicom takes the geometry from its source."""
    source = builders.header(size=(size, size), um_px=spacing_mm * 1000)
    source.TotalPixelMatrixFocalPlanes = 1
    source.DimensionOrganizationType = "TILED_FULL"
    source.NumberOfOpticalPaths = 1
    source.IssuerOfTheContainerIdentifierSequence = []
    source.ContainerTypeCodeSequence = []
    return source


def highdicom_mask(matrix: np.ndarray) -> Dataset:
    """The tissue mask by highdicom."""
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tissue",
        segmented_property_category=_TISSUE,
        segmented_property_type=_TISSUE,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    return hd.seg.Segmentation(
        source_images=[source_for_highdicom(len(matrix), 0.25 * FACTOR / 1000)],
        pixel_array=matrix[None].astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        tile_pixel_array=True,
        tile_size=(512, 512),
        dimension_organization_type=hd.DimensionOrganizationTypeValues.TILED_SPARSE,
        **_DEVICE,
    )


def highdicom_map(matrix: np.ndarray) -> Dataset:
    """The attention map by highdicom."""
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="Attention rank",
        lut_explanation="Attention rank",
        unit=Code("1", "UCUM", "no units"),
        value_range=(0, 10_000),
        slope=1e-4,
        intercept=0.0,
        quantity_definition=_SALIENCY,
    )
    return hd.pm.ParametricMap(
        source_images=[source_for_highdicom(len(matrix), 0.128)],
        pixel_array=matrix[None, ..., None],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[[mapping]],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=5000, window_width=10_000)],
        tile_pixel_array=True,
        tile_size=(256, 256),
        dimension_organization_type=hd.DimensionOrganizationTypeValues.TILED_SPARSE,
        **_DEVICE,
    )


def highdicom_report(ours: Dataset, slide: Slide) -> Dataset:
    """As many groups, with as many numbers, codes and vertices as ours, by highdicom."""
    (measurements,) = (
        item
        for item in ours.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "126010"
    )
    groups = [_highdicom_group(group) for group in measurements.ContentSequence]
    source = slide.source
    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name="bench")
    specimen = hd.sr.SubjectContextSpecimen(
        uid=source.specimen_uid, identifier="SPEC-1", container_identifier="SLIDE-1"
    )
    observation = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=device,
        ),
        subject_context=hd.sr.SubjectContext(
            subject_class=hd.sr.CodedConcept("121027", "DCM", "Specimen"),
            subject_class_specific_context=specimen,
        ),
    )
    report = hd.sr.MeasurementReport(
        observation_context=observation,
        procedure_reported=hd.sr.CodedConcept("104157003", "SCT", "Light microscopy"),
        imaging_measurements=groups,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[source.image.header],
        content=report,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="bench",
        is_complete=True,
        is_verified=False,
    )


def _concept(item: Dataset) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


def _highdicom_group(group: Dataset) -> Dataset:
    by_type: dict[str, list[Dataset]] = {}
    for item in group.ContentSequence:
        by_type.setdefault(str(item.ValueType), []).append(item)
    (where,) = by_type["SCOORD3D"]
    findings = by_type["CODE"]
    measured = [
        hd.sr.Measurement(
            name=_concept(item.ConceptNameCodeSequence[0]),
            value=float(item.MeasuredValueSequence[0].NumericValue),
            unit=_concept(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]),
        )
        for item in by_type.get("NUM", [])
    ]
    evaluated = [
        hd.sr.QualitativeEvaluation(
            name=_concept(item.ConceptNameCodeSequence[0]),
            value=_concept(item.ConceptCodeSequence[0]),
        )
        for item in findings[3:]
    ]
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="tile"),
        referenced_region=hd.sr.ImageRegion3D(
            graphic_type=hd.sr.GraphicTypeValues3D.POLYGON,
            graphic_data=np.array(where.GraphicData, np.float64).reshape(-1, 3),
            frame_of_reference_uid=where.ReferencedFrameOfReferenceUID,
        ),
        finding_category=_concept(findings[0].ConceptCodeSequence[0]),
        finding_type=_concept(findings[1].ConceptCodeSequence[0]),
        algorithm_id=hd.sr.AlgorithmIdentification(name="bench", version="1"),
        measurements=measured,
        qualitative_evaluations=evaluated,
    )


def _measure(make: Callable[[], Dataset]) -> tuple[float, int]:
    start = time.perf_counter()
    size = len(written(make()).getvalue())
    return time.perf_counter() - start, size


def run() -> list[Row]:
    """Measure and return one row an object, and one for all of ours."""
    result, context = draw_result()
    (slide,) = read_slides(result, context)
    report = slide_report(slide, result, context)
    mask, ranks = slide_mask(slide, result, context), slide_map(slide, result, context)
    assert mask is not None
    assert ranks is not None
    tissue = slide.assessment.tissue
    assert tissue is not None
    matrix = hd.imread(written(ranks)).get_total_pixel_matrix(
        apply_real_world_transform=False, dtype=np.uint16
    )
    pairs: dict[str, tuple[Callable[[], Dataset], Callable[[], Dataset]]] = {
        "report, 24 regions": (
            lambda: slide_report(slide, result, context),
            lambda: highdicom_report(report, slide),
        ),
        "tissue mask, 3,125 px": (
            lambda: slide_mask(slide, result, context) or mask,
            lambda: highdicom_mask(tissue.mask),
        ),
        "attention map, 195 px": (
            lambda: slide_map(slide, result, context) or ranks,
            lambda: highdicom_map(matrix),
        ),
    }
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom comments on names
        for name, (ours, theirs) in pairs.items():
            turns = [(_measure(ours), _measure(theirs)) for _ in range(TURNS)]
            rows.append(
                Row(
                    name=name,
                    ours_s=statistics.median(each[0][0] for each in turns),
                    theirs_s=statistics.median(each[1][0] for each in turns),
                    ours_bytes=turns[0][0][1],
                    theirs_bytes=turns[0][1][1],
                )
            )
    return rows


def main() -> None:
    """Print the figures."""
    print(f"{'object of a 100,000 px slide':28} {'ours':>9} {'highdicom':>10} {'ratio':>7}  bytes")
    for row in run():
        ratio = row.theirs_s / row.ours_s
        print(
            f"{row.name:28} {1000 * row.ours_s:6.0f} ms {1000 * row.theirs_s:7.0f} ms "
            f"{ratio:6.1f}x  {row.ours_bytes:,} / {row.theirs_bytes:,}"
        )
    result, context = draw_result()
    start = time.perf_counter()
    objects = encode_slides(result, context)
    print(f"{'all objects of the slide':28} {1000 * (time.perf_counter() - start):6.0f} ms", end="")
    print(f"  {len(objects)} objects, the picture included")


if __name__ == "__main__":
    main()
