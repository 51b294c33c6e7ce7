"""From a lesion map to one outlined, measured lesion."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocessing import restore_lesion_mask
from models.results import LesionRegion

MIN_AREA_FRACTION = 0.001
"""Smallest lesion as a fraction of the image. The smallest of 4,580 HAM10000 masks covers 0.003;
what is smaller than a third of that is a speck of the map."""
MIN_AREA_PX = 12
"""Smallest lesion in pixels: fewer leave no outline to speak of."""
MAX_OUTLINE_POINTS = 200
"""A contour of more points says no more, but bloats every report that carries it."""


def find_lesion(
    lesion_prob: NDArray[np.uint8], shape: tuple[int, int], threshold: float
) -> LesionRegion | None:
    """Outline the lesion of an image.

    Parameters
    ----------
    lesion_prob
        (h, w) uint8, lesion probability times 255, of the squashed image.
    shape
        (H, W) of the source image in pixels.
    threshold
        Probability in (0, 1) from which a pixel belongs to the lesion.

    Returns
    -------
    LesionRegion or None
        The largest connected part with its holes filled; None when it is too small to be one.

    Raises
    ------
    ImageError
        If the map or the shape is none.
    """
    mask = largest_part(restore_lesion_mask(lesion_prob, shape, threshold))
    if mask is None or mask.sum() < max(MIN_AREA_PX, MIN_AREA_FRACTION * mask.size):
        return None
    return measure_region(mask)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Largest part of a mask, its holes filled.

    Parameters
    ----------
    mask
        (H, W) bool.

    Returns
    -------
    ndarray or None
        (H, W) bool, connected over edges (not corners); None when the mask is empty.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    if count < 2:
        return None
    number = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    part = (labels == number).astype(np.uint8)
    outer, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = cv2.drawContours(np.zeros_like(part), outer, -1, 1, thickness=cv2.FILLED)
    return np.asarray(filled, np.bool_)


def measure_region(mask: NDArray[np.bool_]) -> LesionRegion | None:
    """Measure a connected mask without holes.

    Parameters
    ----------
    mask
        (H, W) bool, one connected part.

    Returns
    -------
    LesionRegion or None
        None when the mask is a line or a point, which has no outline.

    Notes
    -----
    The outline runs through the centres of the border pixels, so a filled disc of diameter d
    pixels measures d - 1 across. The area counts pixels.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)
    outline = _simplify(contour)
    if outline is None:
        return None
    major, minor = _diameters(cv2.convexHull(contour).reshape(-1, 2).astype(np.float64))
    closed = np.vstack([outline, outline[:1]])
    return LesionRegion(
        mask=mask,
        outline=closed,
        area_px=float(np.count_nonzero(mask)),
        perimeter_px=float(np.linalg.norm(np.diff(closed, axis=0), axis=1).sum()),
        major_axis_px=major,
        minor_axis_px=minor,
    )


def _simplify(contour: cv2.typing.MatLike) -> NDArray[np.float64] | None:
    """Outline of at most ``MAX_OUTLINE_POINTS`` (row, column) points, open; None for a line.

    Douglas and Peucker 1973, with a tolerance that starts at half a pixel, below which no edge
    of the mask moves.
    """
    if cv2.contourArea(contour) == 0:
        return None
    tolerance = 0.5
    simplified = cv2.approxPolyDP(contour, tolerance, closed=True)
    while len(simplified) > MAX_OUTLINE_POINTS:
        tolerance *= 1.5
        simplified = cv2.approxPolyDP(contour, tolerance, closed=True)
    if len(simplified) < 3:
        simplified = contour
    return simplified.reshape(-1, 2)[:, ::-1].astype(np.float64)


def _diameters(hull: NDArray[np.float64]) -> tuple[float, float]:
    """Maximum Feret diameter of a convex hull, and its extent at right angles to that."""
    best, axis = 0.0, np.array([1.0, 0.0])
    for index, point in enumerate(hull):  # one row at a time: hulls of large lesions are long
        offsets = hull[index + 1 :] - point
        if not len(offsets):
            break
        lengths = np.einsum("ij,ij->i", offsets, offsets)
        farthest = int(np.argmax(lengths))
        if lengths[farthest] > best:
            best, axis = float(lengths[farthest]), offsets[farthest]
    major = float(np.sqrt(best))
    across = hull @ (np.array([-axis[1], axis[0]]) / (major or 1.0))
    return major, float(np.ptp(across))
