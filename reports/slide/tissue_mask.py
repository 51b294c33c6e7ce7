"""The tissue of a slide as a binary Segmentation at the overview's resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from models.results import ModelIdentity
from models.slide.tissue import Tissue
from reports import coding
from reports.coding import shorten
from reports.context import ReportContext
from reports.provenance import (
    MANUFACTURER,
    file_meta,
    series_description,
    series_number,
    stamp,
)
from reports.slide import codes
from reports.slide.geometry import SlidePlane, decimal
from reports.slide.source import SlideSource
from reports.slide.tiled import add_frames, add_slide, cut_tiles
from reports.tracking import Tracking
from reports.uids import result_uid

FRAME_PX = 512
"""Longest side of a frame."""
_SERIES_NUMBER_KIND = 1
_COLOUR_CIELAB = (54773, 23527, 26336)  # cyan, which no common stain has (PS3.3 C.10.7.1.1)


def tissue_matrix(tissue: Tissue, size: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
    """The tissue mask on pixels that are a whole number of level-0 pixels.

    Parameters
    ----------
    tissue
        On an overview of any resolution.
    size
        (width, height) of level 0 in pixels.

    Returns
    -------
    tuple
        (rows, columns) bool, and the side of its pixel in pixels of level 0.

    Notes
    -----
    The microscopy viewer rounds the ratio of two resolutions to an integer: a mask at 31.7 level-0
    pixels would drift by 1 % of the slide.
    """
    mask = tissue.mask
    factor = max(1, round(size[0] / mask.shape[1]))
    columns, rows = -(-size[0] // factor), -(-size[1] // factor)
    if (rows, columns) == mask.shape and size[0] % factor == size[1] % factor == 0:
        return mask, factor
    # Points of the new pixels' centres on the overview.
    x = ((np.arange(columns) + 0.5) * factor * mask.shape[1] / size[0]).astype(np.int64)
    y = ((np.arange(rows) + 0.5) * factor * mask.shape[0] / size[1]).astype(np.int64)
    x, y = np.minimum(x, mask.shape[1] - 1), np.minimum(y, mask.shape[0] - 1)
    return mask[np.ix_(y, x)], factor


def tissue_segmentation(
    matrix: NDArray[np.bool_],
    factor: int,
    *,
    source: SlideSource,
    plane: SlidePlane,
    tracking: Tracking,
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """One slide's tissue as a Segmentation with one segment, holes left out.

    Parameters
    ----------
    matrix
        (rows, columns) as ``tissue_matrix`` gives it.
    factor
        Side of its pixel in pixels of the source.
    source
        The finest instance that the model read.
    plane
        That instance on the glass.
    tracking
        The tissue's identity, as in the measurement report.
    index
        Number of the slide in the result, 1-based.
    model
        The model that was run on the tissue.
    context
        Time, installation and generation.

    References
    ----------
    PS3.3 A.51 (IOD), C.8.20 (modules), 2024c.
    """

    def uid(part: str) -> str:
        role = f"seg-{index}{part}"
        return result_uid(
            source.study_instance_uid, context.generation, context.analysis, model.digest, role
        )

    rows, columns = matrix.shape
    mask_plane = plane.coarser((factor, factor), (columns, rows))
    tiles = cut_tiles(matrix.astype(np.uint8), FRAME_PX)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SegmentationStorage, uid("")
    ds.SeriesInstanceUID = uid("/series")
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, index)
    ds.SeriesDescription = series_description(f"tissue {index}", context)
    ds.InstanceNumber = 1
    ds.Modality = "SEG"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel = "TISSUE"
    ds.ContentDescription = "Tissue that was assessed"
    ds.ContentCreatorName = ""
    ds.LossyImageCompression = "00"
    ds.SegmentationType = "BINARY"
    ds.SegmentSequence = [_segment(tracking, model)]
    ds.PatientOrientation = ""
    stamp(ds, [source], context)
    add_slide(ds, source, mask_plane)
    shared = Dataset()
    identification = Dataset()
    identification.ReferencedSegmentNumber = 1
    shared.SegmentIdentificationSequence = [identification]
    orientation = Dataset()  # demanded where no Derivation Image is (PS3.3 A.51.5)
    orientation.ImageOrientationPatient = [decimal(value) for value in plane.orientation]
    shared.PlaneOrientationSequence = [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    add_frames(ds, tiles, mask_plane, dimension_uid=uid("/dimension"), first=("segment",))
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.PixelRepresentation = 0
    packed = np.packbits(np.stack([tile.pixels for tile in tiles]), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    ds["PixelData"].VR = "OB"
    ds.file_meta = file_meta(ds)
    return ds


def _segment(tracking: Tracking, model: ModelIdentity) -> Dataset:
    """The one segment; the tissue was found by a fixed procedure, not by the weights."""
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [coding.ARTIFICIAL_INTELLIGENCE.as_item()]
    algorithm.AlgorithmName = shorten(f"{model.name} tissue detection", 64)
    algorithm.AlgorithmVersion = shorten(model.version, 64) or "unknown"
    algorithm.AlgorithmSource = MANUFACTURER
    segment = Dataset()
    segment.SegmentNumber = 1
    segment.SegmentLabel = "Tissue (AI)"
    segment.SegmentAlgorithmType = "AUTOMATIC"
    segment.SegmentAlgorithmName = algorithm.AlgorithmName
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    segment.SegmentedPropertyCategoryCodeSequence = [codes.TISSUE.as_item()]
    segment.SegmentedPropertyTypeCodeSequence = [codes.TISSUE.as_item()]
    segment.RecommendedDisplayCIELabValue = list(_COLOUR_CIELAB)
    segment.TrackingID = tracking.identifier
    segment.TrackingUID = tracking.uid
    return segment
