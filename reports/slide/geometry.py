"""Where a slide lies: pixels of the total pixel matrix to millimetres on the glass and back.

Viewers and SCOORD3D speak of the slide coordinate system (PS3.3 C.8.12.2), models of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

_PLAUSIBLE_MM = (1e-6, 10.0)  # of a pixel; the coarsest level of a pyramid may be one pixel
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class SlidePlane:
    """A total pixel matrix in the slide coordinate system."""

    frame_of_reference_uid: str
    """The slide's own; shared by every object about it."""
    origin_mm: tuple[float, float, float]
    """Centre of the pixel in the upper left corner."""
    orientation: tuple[float, float, float, float, float, float]
    """Image Orientation (Slide): direction along a row, then down a column; unit vectors."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns (Pixel Spacing)."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    is_placed: bool = True
    """Whether the header states the origin; else (0, 0) is assumed, as slide readers do. Objects
    that begin at the same corner still lie right, and so does nothing else."""

    def to_mm(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Slide coordinates of points of the total pixel matrix.

        Parameters
        ----------
        points
            (N, 2) x and y in pixels; the outer corner of the first pixel is (0, 0), its centre
            (0.5, 0.5).

        Returns
        -------
        ndarray
            (N, 3) x, y, z in mm.

        References
        ----------
        PS3.3 C.7.6.16.2.8 and C.8.12.2 (2024c).
        """
        between_rows, between_columns = self.spacing_mm
        along_row = np.array(self.orientation[:3]) * between_columns
        down_column = np.array(self.orientation[3:]) * between_rows
        from_centre = np.asarray(points, np.float64) - 0.5
        return (
            np.array(self.origin_mm)
            + from_centre[:, :1] * along_row
            + from_centre[:, 1:] * down_column
        )

    def coarser(self, factor: tuple[float, float], size: tuple[int, int]) -> SlidePlane:
        """The matrix of larger pixels that begins at the same outer corner.

        Parameters
        ----------
        factor
            Pixels of this matrix per new pixel, along x and y.
        size
            (width, height) of the new matrix in its pixels.

        Notes
        -----
        The origin is a pixel's centre, so it moves with the size of the pixel.
        """
        centre = np.array([[factor[0] / 2, factor[1] / 2]])
        x, y, z = self.to_mm(centre)[0]
        between_rows, between_columns = self.spacing_mm
        return SlidePlane(
            frame_of_reference_uid=self.frame_of_reference_uid,
            origin_mm=(float(x), float(y), float(z)),
            orientation=self.orientation,
            spacing_mm=(between_rows * factor[1], between_columns * factor[0]),
            size=size,
            is_placed=self.is_placed,
        )


def whole(size: tuple[int, int]) -> NDArray[np.float64]:
    """Outline of a whole matrix of (width, height) pixels: (4, 2), x and y, not closed."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)


def matrix_size(header: Dataset) -> tuple[int, int] | None:
    """(width, height) of the total pixel matrix, None where the header does not say."""
    width, height = header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")
    if not width or not height or min(int(width), int(height)) < 1:
        return None
    return int(width), int(height)


def slide_plane(header: Dataset) -> SlidePlane | None:
    """Read the plane of a slide's image.

    Parameters
    ----------
    header
        Decoded attributes of a VL Whole Slide Microscopy Image.

    Returns
    -------
    SlidePlane or None
        None where frame of reference, orientation, spacing or size is missing or impossible; not
        ``is_placed`` where only the origin is.
    """
    uid, size = header.get("FrameOfReferenceUID"), matrix_size(header)
    origin, orientation = _origin(header), _orientation(header)
    spacing = pixel_spacing_mm(header)
    if not uid or size is None or orientation is None or spacing is None:
        return None
    return SlidePlane(
        frame_of_reference_uid=str(uid),
        origin_mm=origin or (0.0, 0.0, 0.0),
        orientation=orientation,
        spacing_mm=spacing,
        size=size,
        is_placed=origin is not None,
    )


def _first(header: Dataset, keyword: str) -> Dataset | None:
    items: Sequence[Dataset] | None = header.get(keyword)
    return items[0] if items else None


def _numbers(value: object, count: int) -> list[float] | None:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != count:
        return None
    numbers = [float(part) for part in value]
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _origin(header: Dataset) -> tuple[float, float, float] | None:
    item = _first(header, "TotalPixelMatrixOriginSequence")
    if item is None:
        return None
    x, y = item.get("XOffsetInSlideCoordinateSystem"), item.get("YOffsetInSlideCoordinateSystem")
    if x is None or y is None:
        return None
    z = item.get("ZOffsetInSlideCoordinateSystem")  # not part of the standard, written by some
    values = _numbers([x, y, 0.0 if z is None else z], 3)
    return None if values is None else (values[0], values[1], values[2])


def _orientation(header: Dataset) -> tuple[float, float, float, float, float, float] | None:
    values = _numbers(header.get("ImageOrientationSlide"), 6)
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE or abs(row @ column) > _UNIT_TOLERANCE:
        return None
    return (values[0], values[1], values[2], values[3], values[4], values[5])


def pixel_spacing_mm(header: Dataset) -> tuple[float, float] | None:
    """Pixel Spacing of the shared functional groups, else of the first frame; None if neither."""
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = _first(header, keyword)
        measures = None if groups is None else _first(groups, "PixelMeasuresSequence")
        values = None if measures is None else _numbers(measures.get("PixelSpacing"), 2)
        if values is not None:
            low, high = _PLAUSIBLE_MM
            is_plausible = low <= min(values) and max(values) <= high
            return (values[0], values[1]) if is_plausible else None
    return None


def decimal(value: float) -> str:
    """A number as a Decimal String, at most 16 characters (PS3.5 6.2)."""
    return str(format_number_as_ds(float(value)))
