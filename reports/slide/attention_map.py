"""Attention of a slide's tiles as a Parametric Map: one pixel a tile, in the slide's own place.

Stored are ranks within the slide as 16-bit integers, since PACS fail to serve the frames of
floating point maps. A map of a slide of 100,000 pixels a side is 195 by 195.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage

from models.slide.attention import percentile_ranks
from models.slide.tiles import SlideGeometry, TileGrid
from reports import coding
from reports.slide import codes
from reports.slide.tiled import Origin, TiledKind, tiled_image

LEVELS = 10_000
"""Stored value of rank 1; 0 is where there is no tile."""
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
_KIND = TiledKind(
    sop_class_uid=ParametricMapStorage,
    role="map",
    series_number_kind=3,
    content="attention ranks",
    label="ATTENTION_RANK",
    description="Rank of each tile's attention within this slide",
    frame_px=256,
)


def rank_matrix(
    grid: TileGrid, geometry: SlideGeometry, attention: NDArray[np.floating]
) -> tuple[NDArray[np.uint16], float]:
    """Ranks on the grid of tiles.

    Parameters
    ----------
    grid
        The tiles.
    geometry
        The slide's pyramid.
    attention
        (N,) raw attention.

    Returns
    -------
    tuple
        (rows, columns) uint16 with ``LEVELS`` for the highest rank and 0 where there is no tile,
        and the side of its pixel in pixels of level 0.
    """
    step = grid.tile_px * grid.plan.um_px / geometry.um_px
    cells = np.rint(grid.coordinates / step).astype(np.int64)
    width, height = grid.slide_size
    columns = max(1, math.floor(width / step + 0.5), int(cells[:, 0].max(initial=0)) + 1)
    rows = max(1, math.floor(height / step + 0.5), int(cells[:, 1].max(initial=0)) + 1)
    matrix = np.zeros((rows, columns), np.uint16)
    stored = np.maximum(1, np.rint(percentile_ranks(attention) * LEVELS)).astype(np.uint16)
    matrix[cells[:, 1], cells[:, 0]] = stored
    return matrix, step


def attention_parametric_map(matrix: NDArray[np.uint16], step_px: float, origin: Origin) -> Dataset:
    """One slide's map.

    Parameters
    ----------
    matrix
        (rows, columns) as ``rank_matrix`` gives it.
    step_px
        Side of its pixel in pixels of the source.
    origin
        The slide, the model whose attention it is, and the context.

    References
    ----------
    PS3.3 A.75 (IOD), C.8.32 (modules), CID 7180 Saliency (2024c).
    """
    ds, pixels = tiled_image(_KIND, matrix, step_px, _shared(), origin)
    ds.Modality = "OT"
    ds.ImageType = _IMAGE_TYPE
    ds.PixelPresentation = "MONOCHROME"
    ds.ContentQualification = "RESEARCH"
    ds.BurnedInAnnotation = ds.RecognizableVisualFeatures = "NO"
    ds.PresentationLUTShape = "IDENTITY"
    ds.AcquisitionContextSequence = []
    if "SpecimenDescriptionSequence" not in ds:
        ds.Laterality = ""  # 2C: demanded of whatever is no specimen (PS3.3 C.7.3.1)
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _shared() -> Dataset:
    shared = Dataset()
    frame_type = Dataset()
    frame_type.FrameType = _IMAGE_TYPE
    shared.ParametricMapFrameTypeSequence = [frame_type]
    window = Dataset()
    window.WindowCenter, window.WindowWidth = LEVELS // 2, LEVELS
    shared.FrameVOILUTSequence = [window]
    identity = Dataset()
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = 0, 1, "US"
    shared.PixelValueTransformationSequence = [identity]
    shared.RealWorldValueMappingSequence = [_mapping()]
    return shared


def _mapping() -> Dataset:
    """Stored values as ranks in 0 to 1; no tile has rank 0, which is where there is none."""
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = [codes.QUANTITY.as_item()]
    quantity.ConceptCodeSequence = [codes.SALIENCY.as_item()]
    item = Dataset()
    item.LUTLabel = "Attention rank"
    item.LUTExplanation = "Attention rank within this slide, 1 the highest, 0 no tile"
    item.MeasurementUnitsCodeSequence = [coding.NO_UNITS.as_item()]
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", LEVELS)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, 1 / LEVELS
    item.QuantityDefinitionSequence = [quantity]
    return item
