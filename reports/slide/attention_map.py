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

from models.results import ModelIdentity
from models.slide.attention import percentile_ranks
from models.slide.tiles import SlideGeometry, TileGrid
from reports.context import ReportContext
from reports.provenance import file_meta, series_description, series_number, stamp
from reports.slide import codes
from reports.slide.geometry import SlidePlane
from reports.slide.source import SlideSource
from reports.slide.tiled import add_frames, add_slide, cut_tiles
from reports.uids import result_uid

LEVELS = 10_000
"""Stored value of rank 1; 0 is where there is no tile."""
FRAME_PX = 256
"""Longest side of a frame."""
_SERIES_NUMBER_KIND = 3
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]


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


def attention_parametric_map(
    matrix: NDArray[np.uint16],
    step_px: float,
    *,
    source: SlideSource,
    plane: SlidePlane,
    index: int,
    model: ModelIdentity,
    context: ReportContext,
) -> Dataset:
    """One slide's map.

    Parameters
    ----------
    matrix
        (rows, columns) as ``rank_matrix`` gives it.
    step_px
        Side of its pixel in pixels of the source.
    source
        The finest instance that the model read.
    plane
        That instance on the glass.
    index
        Number of the slide in the result, 1-based.
    model
        The model whose attention it is.
    context
        Time, installation and generation.

    References
    ----------
    PS3.3 A.75 (IOD), C.8.32 (modules), CID 7180 Saliency (2024c).
    """

    def uid(part: str) -> str:
        role = f"map-{index}{part}"
        return result_uid(
            source.study_instance_uid, context.generation, context.analysis, model.digest, role
        )

    rows, columns = matrix.shape
    map_plane = plane.coarser((step_px, step_px), (columns, rows))
    tiles = cut_tiles(matrix, FRAME_PX)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = ParametricMapStorage, uid("")
    ds.SeriesInstanceUID = uid("/series")
    ds.SeriesNumber = series_number(_SERIES_NUMBER_KIND, index)
    ds.SeriesDescription = series_description(f"attention ranks {index}", context)
    ds.InstanceNumber = 1
    ds.Modality = "OT"
    ds.ImageType = _IMAGE_TYPE
    ds.PixelPresentation = "MONOCHROME"
    ds.ContentQualification = "RESEARCH"
    ds.ContentLabel = "ATTENTION_RANK"
    ds.ContentDescription = "Rank of each tile's attention within this slide"
    ds.ContentCreatorName = ""
    ds.BurnedInAnnotation = ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    ds.PresentationLUTShape = "IDENTITY"
    ds.AcquisitionContextSequence = []
    stamp(ds, [source], context)
    add_slide(ds, source, map_plane)
    if "SpecimenDescriptionSequence" not in ds:
        ds.Laterality = ""  # 2C: demanded of whatever is no specimen (PS3.3 C.7.3.1)
    ds.SharedFunctionalGroupsSequence = [_shared()]
    add_frames(ds, tiles, map_plane, dimension_uid=uid("/dimension"), first=())
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.PixelData = np.stack([tile.pixels for tile in tiles]).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = file_meta(ds)
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
    item.MeasurementUnitsCodeSequence = [codes.NO_UNITS.as_item()]
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", LEVELS)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, 1 / LEVELS
    item.QuantityDefinitionSequence = [quantity]
    return item
