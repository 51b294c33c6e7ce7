"""Pictures as Secondary Captures in colour, which every viewer shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from models.results import ModelIdentity
from reports import coding
from reports.context import ReportContext
from reports.provenance import file_meta, result_uids, series_description, series_number, stamp
from reports.source import Source


@dataclass(frozen=True, kw_only=True)
class CaptureKind:
    """What the captures of one series have in common."""

    sop_class_uid: str
    role: str
    """Role of the first without its number, e.g. ``overview``."""
    series_number_kind: int
    content: str
    """What the series holds, for its description."""
    derivation: str
    """Derivation Description."""


_OVERVIEW = CaptureKind(
    sop_class_uid=SecondaryCaptureImageStorage,
    role="overview",
    series_number_kind=2,
    content="overview",
    derivation="Lesion outline and result of an AI model drawn beside the image",
)


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
    return capture(picture, _OVERVIEW, sources=[source], index=index, model=model, context=context)


def capture(
    pictures: NDArray[np.uint8],
    kind: CaptureKind,
    *,
    sources: Sequence[Source],
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """A capture of any kind; what only multi-frame kinds have is the caller's.

    Parameters
    ----------
    pictures
        (H, W, 3) or (N, H, W, 3) RGB.
    kind
        SOP Class and series.
    sources
        The images that it shows; patient, study and side are those of the first.
    index
        Number in the series, 1-based.
    model
        The model whose result is drawn.
    context
        Time, installation and generation.
    """
    uid = result_uids(sources[0], model, context)
    ds = Dataset()
    ds.SOPClassUID = kind.sop_class_uid
    ds.SOPInstanceUID = uid(f"{kind.role}-{index}")
    ds.SeriesInstanceUID = uid(f"{kind.role}/series")
    ds.SeriesNumber = series_number(kind.series_number_kind, 1)
    ds.SeriesDescription = series_description(kind.content, context)
    ds.InstanceNumber = index
    ds.Modality = "OT"
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "YES"
    ds.PatientOrientation = ""
    ds.DerivationDescription = kind.derivation
    ds.SourceImageSequence = [source_item(source) for source in sources]
    # 2C, and forbidden beside an unpaired Body Part Examined, so that one is not written.
    ds.Laterality = sources[0].laterality or ""
    _add_compression_history(ds, sources)
    stamp(ds, list(sources), context)
    _add_pixels(ds, pictures)
    ds.file_meta = file_meta(ds)
    return ds


def source_item(source: Source) -> Dataset:
    """Item of Source Image Sequence (PS3.3 C.7.6.1)."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    if source.frame_number is not None:
        item.ReferencedFrameNumber = source.frame_number
    item.PurposeOfReferenceCodeSequence = [coding.SOURCE_IMAGE.as_item()]
    return item


def _add_compression_history(ds: Dataset, sources: Sequence[Source]) -> None:
    """What was lost in a source stays lost (PS3.3 C.7.6.1.1.5)."""
    lossy = [s.header for s in sources if s.header.get("LossyImageCompression") == "01"]
    ds.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if lossy and keyword in lossy[0]:
            setattr(ds, keyword, lossy[0][keyword].value)


def _add_pixels(ds: Dataset, pictures: NDArray[np.uint8]) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = (int(side) for side in pictures.shape[-3:-1])
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    data = np.ascontiguousarray(pictures).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)  # even length, PS3.5 7.1.1
