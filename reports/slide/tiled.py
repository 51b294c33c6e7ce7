"""Multi-frame images in a slide's frame of reference: what Segmentation and map have in common.

Written without a library, since a picture of two dozen frames takes a library of validated items
longer than the model takes for the slide; the tests read it with highdicom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.results import ModelIdentity
from reports.context import ReportContext
from reports.provenance import file_meta, result_uids, series_description, series_number, stamp
from reports.secondary_capture import source_item
from reports.slide.geometry import SlidePlane, decimal
from reports.slide.source import SlideSource

_NOMINAL_THICKNESS_MM = "0.001"  # readers demand it; the section's own thickness is seldom known
_TAGS = {
    "segment": (0x0062000B, 0x0062000A),
    "row": (0x0048021F, 0x0048021A),
    "column": (0x0048021E, 0x0048021A),
}  # Dimension Index Pointer, Functional Group Pointer


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One frame of a tiled image."""

    row: int
    """Row of the grid of frames, 0-based."""
    column: int
    """Column of the grid of frames, 0-based."""
    pixels: NDArray[np.generic]
    """(rows, columns) of a frame; zero beyond the matrix."""


@dataclass(frozen=True, kw_only=True)
class TiledKind:
    """What the images of one kind have in common."""

    sop_class_uid: str
    role: str
    """Role without the slide's number, e.g. ``seg``."""
    series_number_kind: int
    content: str
    """What the series holds, for its description."""
    label: str
    """Content Label."""
    description: str
    """Content Description."""
    frame_px: int
    """Longest side of a frame."""
    dimensions: tuple[str, ...] = ()
    """Dimensions before row and column, all of index 1: ``("segment",)`` for a Segmentation."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an image of a slide is made from."""

    source: SlideSource
    """The finest instance that the model read."""
    plane: SlidePlane
    """That instance on the glass."""
    index: int
    """Number of the slide in the result, 1-based."""
    model: ModelIdentity
    context: ReportContext


def tiled_image(
    kind: TiledKind, matrix: NDArray[np.generic], step_px: float, shared: Dataset, origin: Origin
) -> tuple[Dataset, NDArray[np.generic]]:
    """An image without its pixels, and the pixels.

    Parameters
    ----------
    kind
        SOP Class, series and frames.
    matrix
        (rows, columns) of the whole.
    step_px
        Side of its pixel in pixels of the source.
    shared
        Item of Shared Functional Groups Sequence; gets Pixel Measures.
    origin
        Slide, model and context.

    Returns
    -------
    tuple
        The object with its File Meta Information, and (frames, rows, columns).
    """
    source, context = origin.source, origin.context
    uid, role = result_uids(source, origin.model, context), f"{kind.role}-{origin.index}"
    plane = origin.plane.coarser((step_px, step_px), (matrix.shape[1], matrix.shape[0]))
    tiles = cut_tiles(matrix, kind.frame_px)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = kind.sop_class_uid, uid(role)
    ds.SeriesInstanceUID = uid(f"{role}/series")
    ds.SeriesNumber = series_number(kind.series_number_kind, origin.index)
    ds.SeriesDescription = series_description(f"{kind.content} {origin.index}", context)
    ds.InstanceNumber = 1
    ds.ContentLabel, ds.ContentDescription = kind.label, kind.description
    ds.ContentCreatorName = ""
    ds.LossyImageCompression = "00"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelRepresentation = 0
    stamp(ds, [source], context)
    _add_slide(ds, source, plane)
    ds.SharedFunctionalGroupsSequence = [shared]
    _add_frames(ds, tiles, plane, dimension_uid=uid(f"{role}/dimension"), first=kind.dimensions)
    ds.file_meta = file_meta(ds)
    return ds, np.stack([tile.pixels for tile in tiles])


def cut_tiles(matrix: NDArray[np.generic], largest: int) -> list[Tile]:
    """Cut a matrix into frames and leave out those that are empty, but never all.

    Parameters
    ----------
    matrix
        (H, W) of the whole.
    largest
        Longest side of a frame in pixels; a smaller matrix is one frame of its own size.
    """
    height, width = matrix.shape
    rows, columns = min(height, largest), min(width, largest)
    tiles = []
    for row in range(-(-height // rows)):
        for column in range(-(-width // columns)):
            part = matrix[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            frame = np.zeros((rows, columns), matrix.dtype)
            frame[: part.shape[0], : part.shape[1]] = part
            tiles.append(Tile(row=row, column=column, pixels=frame))
    return [tile for tile in tiles if tile.pixels.any()] or tiles[:1]


def _add_slide(ds: Dataset, source: SlideSource, plane: SlidePlane) -> None:
    """Write frame of reference, specimen and the total pixel matrix.

    Notes
    -----
    Referenced Series Sequence (PS3.3 C.12.2) is left out on purpose. With it OHIF 3.13 takes the
    object for an overlay of a stack of images, and its viewer mode turns wholly black when a user
    opens it; without it OHIF marks the series as not supported. Microscopy viewers find the slide
    by frame of reference and container; the instance is named in Source Image Sequence.

    References
    ----------
    PS3.3 C.7.4.1 (Frame of Reference), C.7.6.22 (Specimen), C.8.12.14 (Microscope Slide Layer
    Tile Organization), 2024c.
    """
    ds.FrameOfReferenceUID = plane.frame_of_reference_uid
    ds.PositionReferenceIndicator = "SLIDE_CORNER"
    if "ContainerIdentifier" in source.header:  # viewers compare it with the slide's own
        ds.ContainerIdentifier = source.container_identifier
        ds.IssuerOfTheContainerIdentifierSequence = []
        ds.ContainerTypeCodeSequence = []
        if source.specimens:
            ds.SpecimenDescriptionSequence = list(source.specimens)
    ds.SourceImageSequence = [source_item(source)]
    ds.ImageOrientationSlide = [decimal(value) for value in plane.orientation]
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = plane.size
    ds.TotalPixelMatrixFocalPlanes = 1
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = decimal(plane.origin_mm[0])
    origin.YOffsetInSlideCoordinateSystem = decimal(plane.origin_mm[1])
    ds.TotalPixelMatrixOriginSequence = [origin]


def _add_frames(
    ds: Dataset, tiles: list[Tile], plane: SlidePlane, *, dimension_uid: str, first: tuple[str, ...]
) -> None:
    """Write frames, their positions and the dimensions, all but the pixels.

    Parameters
    ----------
    ds
        The image; its Shared Functional Groups are the caller's, and get Pixel Measures.
    tiles
        The frames in their order.
    plane
        The matrix that they are cut from.
    dimension_uid
        Dimension Organization UID.
    first
        Dimensions before row and column, all of index 1: ``("segment",)`` for a Segmentation.

    References
    ----------
    PS3.3 C.7.6.16, C.7.6.17 and C.7.6.17.3 (2024c).
    """
    ds.Rows, ds.Columns = (int(side) for side in tiles[0].pixels.shape)
    ds.NumberOfFrames = len(tiles)
    ds.DimensionOrganizationType = "TILED_SPARSE"
    organization = Dataset()
    organization.DimensionOrganizationUID = dimension_uid
    ds.DimensionOrganizationSequence = [organization]
    ds.DimensionIndexSequence = [
        _dimension(name, dimension_uid) for name in (*first, "row", "column")
    ]
    measures = Dataset()
    measures.SliceThickness = _NOMINAL_THICKNESS_MM
    measures.PixelSpacing = [decimal(value) for value in plane.spacing_mm]
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]
    starts = np.array(
        [(t.column * ds.Columns + 0.5, t.row * ds.Rows + 0.5) for t in tiles]
    )  # centre of each frame's first pixel
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(tile, position, (ds.Columns, ds.Rows), len(first))
        for tile, position in zip(tiles, plane.to_mm(starts), strict=True)
    ]


def _dimension(name: str, uid: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = uid
    item.DimensionIndexPointer, item.FunctionalGroupPointer = _TAGS[name]
    return item


def _frame(
    tile: Tile, position_mm: NDArray[np.float64], side: tuple[int, int], constant: int
) -> Dataset:
    content = Dataset()
    content.DimensionIndexValues = [1] * constant + [tile.row + 1, tile.column + 1]
    position = Dataset()
    position.XOffsetInSlideCoordinateSystem = decimal(position_mm[0])
    position.YOffsetInSlideCoordinateSystem = decimal(position_mm[1])
    position.ZOffsetInSlideCoordinateSystem = decimal(position_mm[2])
    position.ColumnPositionInTotalImagePixelMatrix = tile.column * side[0] + 1
    position.RowPositionInTotalImagePixelMatrix = tile.row * side[1] + 1
    groups = Dataset()
    groups.FrameContentSequence = [content]
    groups.PlanePositionSlideSequence = [position]
    return groups
