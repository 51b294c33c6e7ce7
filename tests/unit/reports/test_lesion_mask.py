from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace
from typing import Any

import highdicom
import numpy as np
import pytest
import report_builders as builders
from pydicom import Dataset

from reports.encode import ReportContext, encode
from reports.errors import ResultError, SourceError


def segmentation(**header: Any) -> Dataset:
    source = builders.source(builders.header(**header))
    objects = encode(builders.result(builders.assessment()), builders.context(source))
    return next(item.dataset for item in objects if item.role == "seg-1")


def test_mask_is_read_back_bit_for_bit() -> None:
    again = builders.reread(segmentation())
    assert np.array_equal(again.pixel_array.astype(bool), builders.ellipse((96, 128)))


def test_highdicom_reads_a_calibrated_mask() -> None:
    buffer = builders.written(segmentation(spacing=[0.02, 0.02]))
    seg = highdicom.seg.segread(buffer)
    pixels = seg.get_pixels_by_source_instance([f"{builders.STUDY_UID}.1.1"])
    assert np.array_equal(pixels[0, ..., 0].astype(bool), builders.ellipse((96, 128)))


def test_unknown_spacing_is_left_out_and_the_groups_that_ohif_needs_are_there() -> None:
    shared = segmentation().SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert "PixelSpacing" not in measures
    assert "SliceThickness" in measures
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]


def test_known_spacing_is_the_sources() -> None:
    measures = segmentation(spacing=[0.02, 0.03]).SharedFunctionalGroupsSequence[0]
    assert measures.PixelMeasuresSequence[0].PixelSpacing == [0.02, 0.03]


def test_image_in_a_frame_of_reference_keeps_its_place() -> None:
    ds = segmentation(spacing=[0.02, 0.02], geometry=True)
    assert ds.FrameOfReferenceUID == f"{builders.STUDY_UID}.9"
    groups = [ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]]
    assert any("PlanePositionSequence" in group for group in groups)
    assert groups[0].PixelMeasuresSequence[0].PixelSpacing == [0.02, 0.02]


def test_frame_of_reference_without_position_is_not_enough() -> None:
    ds = segmentation(FrameOfReferenceUID="1.2.3", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    assert "PlaneOrientationSequence" in ds.SharedFunctionalGroupsSequence[0]


def test_segment_says_what_it_is_and_who_made_it() -> None:
    (segment,) = segmentation(TrackingID="L7", TrackingUID="1.2.7").SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert (segment.TrackingID, segment.TrackingUID) == ("L7", "1.2.7")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("diagnosis", "1.0.0")
    assert builders.MODEL.digest in algorithm.AlgorithmParameters
    assert len(segment.RecommendedDisplayCIELabValue) == 3


def test_derivation_names_the_source_and_its_alignment() -> None:
    ds = segmentation()
    groups = [ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]]
    derivation = next(g for g in groups if "DerivationImageSequence" in g).DerivationImageSequence
    (source,) = derivation[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == f"{builders.STUDY_UID}.1.1"
    assert source.SpatialLocationsPreserved == "YES"


def test_no_word_of_the_patient_in_any_warning(recwarn: pytest.WarningsRecorder) -> None:
    segmentation(PatientName="Einkomponentig")
    assert not recwarn.list


def test_mask_of_another_size_is_refused() -> None:
    source = builders.source(builders.header(shape=(100, 128)), decoded=False)
    with pytest.raises(SourceError, match="Rows and Columns"):
        encode(builders.result(builders.assessment()), builders.context(source))
    with pytest.raises(ResultError, match="mask"):
        encode(
            builders.result(builders.assessment()),
            builders.context(builders.source(builders.header(shape=(100, 128)))),
        )


@pytest.mark.parametrize("shape", [(1, 3), (7, 5), (3, 4001)])
def test_odd_sizes_are_packed_without_loss(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[:, : shape[1] // 2 + 1] = True
    image = builders.assessment(shape=shape, with_region=False)
    outline = np.array([[0, 0], [0, 1], [0, 2], [0, 0]], float)
    lesion = builders.LesionRegion(
        mask=mask,
        outline=outline,
        area_px=1.0,
        perimeter_px=4.0,
        major_axis_px=2.0,
        minor_axis_px=1.0,
    )
    image = replace(image, region=lesion)
    source = builders.source(builders.header(shape=shape))
    objects = encode(builders.result(image), builders.context(source))
    again = builders.reread(objects[1].dataset)
    assert np.array_equal(again.pixel_array.astype(bool).reshape(shape), mask)


def test_large_image_is_encoded_in_bounded_memory() -> None:
    shape = (4500, 6000)
    image = builders.assessment(shape=shape)
    source = builders.SourceImage(header=builders.header(shape=shape), pixels=None)
    context: ReportContext = builders.context(source)
    tracemalloc.start()
    objects = encode(builders.result(image), context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * shape[0] * shape[1]  # a few copies of the mask, no float image
    buffer = io.BytesIO()
    objects[1].dataset.save_as(buffer, enforce_file_format=True)
    assert len(buffer.getvalue()) < shape[0] * shape[1] / 8 + 10_000
