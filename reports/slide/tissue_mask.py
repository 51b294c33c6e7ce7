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
from reports.provenance import MANUFACTURER
from reports.slide import codes
from reports.slide.geometry import decimal
from reports.slide.tiled import Origin, TiledKind, tiled_image
from reports.tracking import Tracking

_COLOUR_CIELAB = (54773, 23527, 26336)  # cyan, which no common stain has (PS3.3 C.10.7.1.1)
_KIND = TiledKind(
    sop_class_uid=SegmentationStorage,
    role="seg",
    series_number_kind=1,
    content="tissue",
    label="TISSUE",
    description="Tissue that was assessed",
    frame_px=512,
    dimensions=("segment",),
)


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
    matrix: NDArray[np.bool_], factor: int, tracking: Tracking, origin: Origin
) -> Dataset:
    """One slide's tissue as a Segmentation with one segment, holes left out.

    Parameters
    ----------
    matrix
        (rows, columns) as ``tissue_matrix`` gives it.
    factor
        Side of its pixel in pixels of the source.
    tracking
        The tissue's identity, as in the measurement report.
    origin
        The slide, the model that was run on the tissue, and the context.

    References
    ----------
    PS3.3 A.51 (IOD), C.8.20 (modules), 2024c.
    """
    shared = Dataset()
    identification = Dataset()
    identification.ReferencedSegmentNumber = 1
    shared.SegmentIdentificationSequence = [identification]
    orientation = Dataset()  # demanded where no Derivation Image is (PS3.3 A.51.5)
    orientation.ImageOrientationPatient = [decimal(value) for value in origin.plane.orientation]
    shared.PlaneOrientationSequence = [orientation]
    ds, pixels = tiled_image(_KIND, matrix.astype(np.uint8), factor, shared, origin)
    ds.Modality = "SEG"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SegmentationType = "BINARY"
    ds.SegmentSequence = [_segment(tracking, origin.model)]
    ds.PatientOrientation = ""
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    packed = np.packbits(pixels.astype(np.uint8), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    ds["PixelData"].VR = "OB"
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
