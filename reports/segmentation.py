"""A lesion mask as a binary Segmentation that viewers can lay over a photograph."""

from __future__ import annotations

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.seg import Segmentation as HighdicomSegmentation
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, VLPhotographicImageStorage

from models.results import ModelIdentity
from reports import coding
from reports.coding import Concept, shorten
from reports.context import ReportContext
from reports.errors import SourceError
from reports.provenance import (
    MANUFACTURER,
    MODEL_NAME,
    file_meta,
    result_uids,
    series_description,
    series_number,
    stamp,
)
from reports.source import Source
from reports.tracking import Tracking

LESION_COLOUR_RGB = (0, 229, 255)  # cyan: no skin, lesion, ink or glove has it
_LESION_COLOUR_CIELAB = (54773, 23527, 26336)  # the same, CIELab scaled as in PS3.3 C.10.7.1.1
_NOMINAL_THICKNESS_MM = 1  # a photograph has no thickness; OHIF needs the attribute to be there
_SERIES_NUMBER_KIND = 1
_READ_BY_HIGHDICOM = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Rows",
    "Columns",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
_GEOMETRY = (
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
)


def lesion_segmentation(
    mask: NDArray[np.bool_],
    *,
    source: Source,
    tracking: Tracking,
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """One lesion as a Segmentation with one segment.

    Parameters
    ----------
    mask
        (H, W) of the source image, True inside the lesion.
    source
        The image that was segmented.
    tracking
        The lesion's identity, as in the measurement report.
    index
        Number of the image in the result, 1-based.
    model
        The model that segmented.
    context
        Time, installation and generation.

    Raises
    ------
    SourceError
        When the mask does not have the source's rows and columns.

    Notes
    -----
    A photograph mostly has neither a Frame of Reference nor a Pixel Spacing. The Segmentation is
    then aligned pixel by pixel with the image it is derived from (PS3.3 A.51.3), and gets the two
    functional groups without which OHIF goes black: Pixel Measures, whose Pixel Spacing is left
    out where it is unknown, and a nominal Plane Orientation.
    """
    header = source.header
    if mask.shape != (header.get("Rows"), header.get("Columns")):
        raise SourceError(f"a mask of shape {mask.shape} does not fit Rows and Columns")
    uid, role = result_uids(source, model, context), f"seg-{index}"
    ds = HighdicomSegmentation(
        source_images=[_source_image(source)],
        pixel_array=mask[None].view(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(source, tracking, model)],
        series_instance_uid=uid(f"{role}/series"),
        series_number=series_number(_SERIES_NUMBER_KIND, index),
        sop_instance_uid=uid(role),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=context.software_version,
        device_serial_number=context.device_serial,
        content_label="LESION",
        content_description="Lesion mask",
        series_description=series_description(f"lesion mask {index}", context),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    stamp(ds, [source], context)
    ds.PatientOrientation = ""
    _add_geometry(ds, source)
    _fix_references(ds, source)
    _fix_dimension_uid(ds, uid(f"{role}/dimension"))
    ds.file_meta = file_meta(ds)
    return ds


def _source_image(source: Source) -> Dataset:
    """The header that highdicom reads: no patient, and no geometry unless all of it is there.

    highdicom quotes names that look odd to it in warnings; ``stamp`` writes the patient. It knows
    some SOP Classes only and asks more of multi-frame ones, so it is shown a plain photograph.
    """
    keywords = _READ_BY_HIGHDICOM + (_GEOMETRY if source.has_patient_geometry else ())
    header = Dataset()
    header.SOPClassUID = VLPhotographicImageStorage  # corrected by ``_fix_references``
    for keyword in keywords:
        if keyword in source.header:
            header.add(source.header[keyword])
    for keyword in _PATIENT_AND_STUDY:
        setattr(header, keyword, "")
    if source.has_patient_geometry:
        header.SliceThickness = _NOMINAL_THICKNESS_MM
    return header


def _segment(source: Source, tracking: Tracking, model: ModelIdentity) -> SegmentDescription:
    algorithm = AlgorithmIdentificationSequence(
        name=shorten(model.name, 64) or "unknown",
        family=_coded(coding.ARTIFICIAL_INTELLIGENCE),
        version=shorten(model.version, 64) or "unknown",
        source=MANUFACTURER,
        parameters={"weights SHA-256": model.digest},
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Lesion (AI)",
        segmented_property_category=_coded(coding.MORPHOLOGICALLY_ABNORMAL),
        segmented_property_type=_coded(coding.LESION),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking.uid,
        tracking_id=tracking.identifier,
    )
    segment.RecommendedDisplayCIELabValue = list(_LESION_COLOUR_CIELAB)
    return segment


def _coded(concept: Concept) -> CodedConcept:
    return CodedConcept(
        value=concept.value, scheme_designator=concept.scheme, meaning=concept.meaning
    )


def _add_geometry(ds: Dataset, source: Source) -> None:
    """Pixel Measures and Plane Orientation for every source, Frame of Reference if it has one."""
    if source.has_patient_geometry:
        return
    shared = ds.SharedFunctionalGroupsSequence[0]
    measures = Dataset()
    measures.SliceThickness = _NOMINAL_THICKNESS_MM
    if source.pixel_spacing_mm is not None:
        measures.PixelSpacing = source.header.PixelSpacing
    shared.PixelMeasuresSequence = [measures]
    orientation = Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [orientation]


def _fix_references(ds: Dataset, source: Source) -> None:
    """The source's own SOP Class, and the frame of a multi-frame source, wherever it is named."""
    groups = (*ds.SharedFunctionalGroupsSequence, *ds.PerFrameFunctionalGroupsSequence)
    derivations = [item for group in groups for item in group.get("DerivationImageSequence") or ()]
    references = [*(ds.get("SourceImageSequence") or ())]
    for derivation in derivations:
        references += derivation.SourceImageSequence
    for reference in references:
        reference.ReferencedSOPClassUID = source.sop_class_uid
        if source.frame_number is not None:
            reference.ReferencedFrameNumber = source.frame_number
    for series in ds.ReferencedSeriesSequence:
        for reference in series.ReferencedInstanceSequence:
            reference.ReferencedSOPClassUID = source.sop_class_uid


def _fix_dimension_uid(ds: Dataset, uid: str) -> None:
    """Replace the random Dimension Organization UID: a re-run writes the same bytes."""
    for item in ds.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = uid
    for item in ds.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid
