"""Writing SR and SEG beside highdicom, in one run: ``python -m tests.bench.reports``.

The SEG is built by highdicom in both cases; ours adds what viewers need.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import highdicom
import numpy as np
from highdicom.sr import CodedConcept, Comprehensive3DSR
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sr.codedict import codes

from reports import coding
from reports.coding import Concept
from reports.measurement_report import Evaluation, Measurement, MeasurementGroup, measurement_report
from reports.segmentation import lesion_segmentation
from reports.source import Source, select_sources
from reports.tracking import Tracking
from tests.unit.reports import report_builders as builders

LESIONS = 500
POINTS = 24
_MEASUREMENTS = (
    (coding.PROBABILITY_OF_CANCER, coding.PERCENT),
    (coding.AREA, coding.SQUARE_MILLIMETRE),
    (coding.PERIMETER, coding.MILLIMETRE),
    (coding.MAJOR_AXIS, coding.MILLIMETRE),
    (coding.SHORT_AXIS, coding.MILLIMETRE),
    (coding.probability_concept("MEL", "Melanoma"), coding.PERCENT),
    (coding.probability_concept("NV", "Nevus"), coding.PERCENT),
)


def run(rounds: int = 3) -> None:
    """Print the median of several interleaved rounds."""
    header = builders.header(shape=(768, 1024))
    context = builders.context(builders.source(header))
    (source,) = select_sources(context, [str(header.SOPInstanceUID)])
    outline = _outline()
    sr: dict[str, Callable[[], Dataset]] = {
        "lentigo": lambda: _our_sr(source, outline),
        "highdicom": lambda: _their_sr(header, outline),
    }
    mask = builders.ellipse((768, 1024))
    seg: dict[str, Callable[[], Dataset]] = {
        "lentigo": lambda: lesion_segmentation(
            mask,
            source=source,
            tracking=Tracking(identifier="Lesion 1", uid="2.25.1"),
            index=1,
            model=builders.MODEL,
            context=context,
        ),
        "highdicom": lambda: _their_seg(header, mask),
    }
    print(f"\n# reports: build and write, median of {rounds} interleaved rounds")
    _compare(f"SR, {LESIONS} lesions", sr, rounds)
    _compare("SEG, 768 x 1024", seg, rounds)


def _compare(name: str, makers: dict[str, Callable[[], Dataset]], rounds: int) -> None:
    seconds: dict[str, list[float]] = {who: [] for who in makers}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for who, make in makers.items():
            started = time.perf_counter()
            buffer = io.BytesIO()
            dcmwrite(buffer, make(), enforce_file_format=True)
            seconds[who].append(time.perf_counter() - started)
            sizes[who] = len(buffer.getvalue())
    ours, theirs = (float(np.median(seconds[who])) for who in makers)
    print(
        f"{name:16} lentigo {ours:7.3f} s ({sizes['lentigo'] / 1e6:.2f} MB)  highdicom "
        f"{theirs:7.3f} s ({sizes['highdicom'] / 1e6:.2f} MB)  ratio {theirs / ours:.1f}",
        flush=True,
    )


def _outline() -> NDArray[np.float32]:
    angles = np.linspace(0, 2 * np.pi, POINTS)
    ring = np.stack([500 + 90 * np.cos(angles), 380 + 60 * np.sin(angles)], axis=1)
    ring[-1] = ring[0]
    return ring.astype(np.float32)


def _our_sr(source: Source, outline: NDArray[np.float32]) -> Dataset:
    groups = [
        MeasurementGroup(
            source=source,
            tracking=Tracking(identifier=f"Lesion {number}", uid=f"2.25.{number + 1}"),
            region=outline + number % 7,
            finding=coding.LESION,
            measurements=tuple(
                Measurement(name=name, value=number / 7, unit=unit) for name, unit in _MEASUREMENTS
            ),
            evaluations=(Evaluation(name=coding.SUSPICIOUS, value=coding.NO),),
            comments=("AI: malignancy 3.0 %, not suspicious",),
            details="Not suspicious of malignancy. Research use only.",
        )
        for number in range(LESIONS)
    ]
    return measurement_report(
        groups,
        summary=coding.ALL_SUCCEEDED_WITHOUT_FINDINGS,
        model=builders.MODEL,
        context=builders.context(source.image),
    )


def _coded(concept: Concept) -> CodedConcept:
    return CodedConcept(
        value=concept.value, scheme_designator=concept.scheme, meaning=concept.meaning
    )


def _their_sr(header: Dataset, outline: NDArray[np.float32]) -> Dataset:
    sr = highdicom.sr
    device = sr.DeviceObserverIdentifyingAttributes(uid="2.25.9", name="Lentigo")
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    image = sr.SourceImageForRegion(str(header.SOPClassUID), str(header.SOPInstanceUID))
    groups = [
        sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=f"2.25.{number + 1}", identifier=f"Lesion {number}"
            ),
            referenced_region=sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=outline + number % 7,
                source_image=image,
            ),
            finding_type=_coded(coding.LESION),
            algorithm_id=sr.AlgorithmIdentification(
                name="diagnosis", version="1.0.0", family=_coded(coding.ARTIFICIAL_INTELLIGENCE)
            ),
            measurements=[
                sr.Measurement(name=_coded(name), value=number / 7, unit=_coded(unit))
                for name, unit in _MEASUREMENTS
            ],
            qualitative_evaluations=[
                sr.QualitativeEvaluation(name=_coded(coding.SUSPICIOUS), value=_coded(coding.NO))
            ],
        )
        for number in range(LESIONS)
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=_coded(coding.PHOTOGRAPHY_OF_PATIENT),
        imaging_measurements=groups,
    )
    return Comprehensive3DSR(
        evidence=[header],
        content=report,
        series_number=1,
        series_instance_uid="2.25.7",
        sop_instance_uid="2.25.8",
        instance_number=1,
        manufacturer="Lentigo",
    )


def _their_seg(header: Dataset, mask: NDArray[np.bool_]) -> Dataset:
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion 1",
        segmented_property_category=_coded(coding.MORPHOLOGICALLY_ABNORMAL),
        segmented_property_type=_coded(coding.LESION),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="diagnosis", version="1.0.0", family=_coded(coding.ARTIFICIAL_INTELLIGENCE)
        ),
    )
    return highdicom.seg.Segmentation(
        source_images=[header],
        pixel_array=mask.astype(np.uint8)[None],
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid="2.25.7",
        series_number=1,
        sop_instance_uid="2.25.8",
        instance_number=1,
        manufacturer="Lentigo",
        manufacturer_model_name="Lentigo",
        software_versions="1",
        device_serial_number="1",
    )


if __name__ == "__main__":
    run()
