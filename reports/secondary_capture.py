"""A picture as a Secondary Capture in colour, which every viewer shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from models.results import ModelIdentity
from reports import coding
from reports.context import ReportContext
from reports.provenance import file_meta, series_description, series_number, stamp
from reports.source import Source
from reports.uids import result_uid

_SERIES_NUMBER_KIND = 2


def secondary_capture(
    picture: NDArray[np.uint8],
    *,
    source: Source,
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """One picture of one source image; the pictures of a result share a series.

    Parameters
    ----------
    picture
        (H, W, 3) RGB, lossless from here on.
    source
        The image that the picture shows.
    index
        Number of the image in the result, 1-based.
    model
        The model whose result is drawn.
    context
        Time, installation and generation.

    References
    ----------
    PS3.3 A.8.1 (IOD), C.8.6 (SC modules), C.7.6.1 (General Image).
    """

    def uid(role: str) -> str:
        return result_uid(
            source.study_instance_uid, context.generation, context.analysis, model.digest, role
        )

    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = uid(f"overview-{index}")
    ds.SeriesInstanceUID = uid("overview/series")
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, 1)
    ds.SeriesDescription = series_description("overview", context)
    ds.InstanceNumber = index
    ds.Modality = "OT"
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "YES"
    ds.PatientOrientation = ""
    ds.DerivationDescription = "Lesion outline and result of an AI model drawn beside the image"
    ds.SourceImageSequence = [_source_reference(source)]
    # 2C, and forbidden beside an unpaired Body Part Examined, so that one is not written.
    ds.Laterality = source.laterality or ""
    _add_compression_history(ds, source)
    stamp(ds, [source], context)
    _add_pixels(ds, picture)
    ds.file_meta = file_meta(ds)
    return ds


def _source_reference(source: Source) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    if source.frame_number is not None:
        reference.ReferencedFrameNumber = source.frame_number
    reference.PurposeOfReferenceCodeSequence = [coding.SOURCE_IMAGE.as_item()]
    return reference


def _add_compression_history(ds: Dataset, source: Source) -> None:
    """What was lost in the source stays lost (PS3.3 C.7.6.1.1.5)."""
    if source.header.get("LossyImageCompression") != "01":
        ds.LossyImageCompression = "00"
        return
    for keyword in (
        "LossyImageCompression",
        "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    ):
        if keyword in source.header:
            setattr(ds, keyword, source.header[keyword].value)


def _add_pixels(ds: Dataset, picture: NDArray[np.uint8]) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = int(picture.shape[0]), int(picture.shape[1])
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    data = np.ascontiguousarray(picture).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)  # even length, PS3.5 7.1.1
