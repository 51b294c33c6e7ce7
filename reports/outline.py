"""A lesion's outline and size in the units and coordinates of DICOM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.results import LesionRegion
from reports import coding
from reports.coding import Concept
from reports.errors import ResultError

MAX_VERTICES = 800
"""Graphic Data is FL, whose explicit length field holds 8191 points (PS3.5 7.1.2); viewers draw
every vertex on every mouse move, and a few hundred follow the finest border to half a pixel."""

_TOLERANCE_PX = 0.25  # half the step of a traced outline: invisible, and removes collinear points
_ISOTROPY = 1e-3  # spacings closer than this are one spacing: device files round to 3 or 4 digits


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of a lesion."""

    name: Concept
    value: float
    unit: Concept


def graphic_data(region: LesionRegion) -> NDArray[np.float32]:
    """The outline as SCOORD Graphic Data.

    Parameters
    ----------
    region
        Its outline is (N, 2) closed, (row, column), first pixel's centre at (0, 0).

    Returns
    -------
        (M, 2) closed polygon, (column, row), M <= ``MAX_VERTICES``; the top left corner of the
        first pixel is at (0, 0), its centre at (0.5, 0.5) (PS3.3 C.18.6.1.1). A border longer
        than that is simplified (Douglas-Peucker) with the least tolerance that is enough.

    Raises
    ------
    ResultError
        When the outline is not a closed polygon of finite points.
    """
    outline = np.asarray(region.outline, dtype=np.float64)
    if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 4:
        raise ResultError(f"outline has shape {outline.shape}, expected (N, 2) with N >= 4")
    if not np.isfinite(outline).all() or not np.array_equal(outline[0], outline[-1]):
        raise ResultError("outline is not a closed polygon of finite points")
    ring = outline[:-1, ::-1].astype(np.float32) + np.float32(0.5)
    rows, columns = region.mask.shape
    ring = ring.clip((0, 0), (columns, rows)).astype(np.float32)
    simple, tolerance = _simplified(ring, _TOLERANCE_PX), _TOLERANCE_PX
    while len(simple) > MAX_VERTICES - 1:
        tolerance *= 1.5
        simple = _simplified(ring, tolerance)
    if len(simple) < 3:
        simple = ring[:3]
    return np.vstack([simple, simple[:1]])


def _simplified(ring: NDArray[np.float32], tolerance: float) -> NDArray[np.float32]:
    curve = cv2.approxPolyDP(ring.reshape(-1, 1, 2), tolerance, True)
    return np.asarray(curve, dtype=np.float32).reshape(-1, 2)


def image_rectangle(shape: tuple[int, int] | None) -> NDArray[np.float32]:
    """The whole image as a closed polygon, (5, 2), (column, row).

    Parameters
    ----------
    shape
        (rows, columns); None if unknown, and then the first pixel alone is outlined: the one
        region that every image has.
    """
    rows, columns = shape or (1, 1)
    corners = [(0, 0), (columns, 0), (columns, rows), (0, rows), (0, 0)]
    return np.asarray(corners, dtype=np.float32)


def margin_mark(shape: tuple[int, int] | None) -> NDArray[np.float32]:
    """A small closed rectangle at the left margin, (5, 2), (column, row).

    For what concerns the image as a whole. OHIF writes the lines of a group to the right of its
    region: those of the whole image's rectangle would lie beyond the window. The mark lies above
    the lower left corner, where the viewer's own lines and most lesions are not.

    Parameters
    ----------
    shape
        (rows, columns); None if unknown, and then as ``image_rectangle``.
    """
    if shape is None:
        return image_rectangle(None)
    rows, columns = shape
    left, right = 0.01 * columns, 0.03 * columns
    top, bottom = 0.72 * rows, 0.86 * rows
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.asarray(corners, dtype=np.float32)


def lesion_sizes(
    region: LesionRegion, pixel_spacing_mm: tuple[float, float] | None
) -> tuple[Size, Size, Size, Size]:
    """Major axis, short axis, area and perimeter.

    Parameters
    ----------
    region
        The lesion, measured in pixels.
    pixel_spacing_mm
        (between rows, between columns) in mm; None if unknown, and then sizes stay in pixels: a
        spacing is never assumed.
    """
    if pixel_spacing_mm is None:
        length, area = coding.PIXELS, coding.PIXELS
        values = (region.major_axis_px, region.minor_axis_px, region.area_px, region.perimeter_px)
    else:
        length, area = coding.MILLIMETRE, coding.SQUARE_MILLIMETRE
        values = _calibrated(region, pixel_spacing_mm)
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ResultError("a size of the lesion is negative or not finite")
    return (
        Size(name=coding.MAJOR_AXIS, value=values[0], unit=length),
        Size(name=coding.SHORT_AXIS, value=values[1], unit=length),
        Size(name=coding.AREA, value=values[2], unit=area),
        Size(name=coding.PERIMETER, value=values[3], unit=length),
    )


def _calibrated(
    region: LesionRegion, spacing_mm: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Major axis, minor axis, area, perimeter in mm and mm2."""
    row_mm, column_mm = spacing_mm
    area = region.area_px * row_mm * column_mm
    if math.isclose(row_mm, column_mm, rel_tol=_ISOTROPY):
        mm = math.sqrt(row_mm * column_mm)
        return region.major_axis_px * mm, region.minor_axis_px * mm, area, region.perimeter_px * mm
    # Pixels that are not square: lengths depend on direction, so measure the outline in mm.
    outline = np.asarray(region.outline, dtype=np.float64) * (row_mm, column_mm)
    perimeter = float(np.linalg.norm(np.diff(outline, axis=0), axis=1).sum())
    major, minor = _feret_diameters(outline)
    return major, minor, area, perimeter


def _feret_diameters(points: NDArray[np.float64]) -> tuple[float, float]:
    """The longest diameter of a point set, and its extent at right angles to it."""
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    differences = hull[:, None, :] - hull[None, :, :]
    distances = np.linalg.norm(differences, axis=2)
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)
    major = float(distances[first, second])
    if major == 0.0:
        return 0.0, 0.0
    direction = differences[first, second] / major
    across = hull @ np.array([-direction[1], direction[0]])
    return major, float(across.max() - across.min())
