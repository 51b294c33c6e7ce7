"""Dark corners and hair taken out of a dermoscopic image, on a copy and with a record.

Steps 1 and 2 of short-term change detection (PanDerm, Nature Medicine 2025, methods), with guards:
the published steps alone would paint over most of a dark image. What is painted is invented, so
the result serves comparison with a prior only; never give it to the diagnosis model, and show the
original beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocessing import check_image

CORNER_THRESHOLD = 100
"""Grey value that parts the lit field from dark corners (paper)."""
CORNER_RADIUS_SHARE = 0.8
"""Share of the enclosing circle's radius that is kept (paper)."""
CORNER_INPAINT_RADIUS_PX = 10.0
"""Radius of Telea's inpainting (paper)."""
MAX_CIRCLE_SHARE = 0.95
"""Enclosing circles above this share of half the diagonal are the image's own circumcircle, not a
tube's edge: without the guard x0.8 paints over 11 % of an image without dark corners."""
MIN_FIELD_SHARE = 0.25
"""Lit field below this share of the image: the threshold, not a tube, made it."""
MAX_LIT_OUTSIDE = 0.05
"""Share of lit pixels outside the circle above which what lies there is skin, not a dark corner."""
MIN_DARK_CORNERS = 3
"""Of the four corner pixels so many must lie outside the circle and be dark."""
HAIR_KERNEL_PX = 17
"""Side of the black-hat's kernel (paper) on images of ``HAIR_REFERENCE_PX``; smaller images get
a proportionally smaller one, else the lesion's own pattern counts as hair."""
HAIR_REFERENCE_PX = 1024
MIN_HAIR_KERNEL_PX = 7
HAIR_THRESHOLD = 10
"""Black-hat value from which a pixel is hair; usual, not stated in the paper."""
HAIR_INPAINT_RADIUS_PX = 3.0
"""Hairs are thin; the paper states no radius."""
HAIR_LINE_SHARE = 0.11
"""A hair runs straight over this share of the longer side; shorter dark structures are pigment
network, vessels and dots. The published black-hat alone wipes those out, and with them what is to
be compared."""
HAIR_DIRECTIONS = 16
MAX_HAIR_SHARE = 0.3
"""More is no hair: a dark texture, or a beard that hides everything."""

CornerFlag = Literal[
    "removed", "no dark corners", "no lit field", "lit outside the circle", "not corners"
]
HairFlag = Literal["removed", "no hair", "implausible"]


@dataclass(frozen=True, kw_only=True)
class CornersRemoved:
    """Outcome of the search for dark corners."""

    image: NDArray[np.uint8]
    """(H, W, 3) a new array, equal to the original unless ``flag`` is ``removed``."""
    painted: NDArray[np.bool_]
    """(H, W) True where pixels are invented."""
    flag: CornerFlag
    """What was done, or why nothing was."""
    threshold: int
    """Grey value used; another than ``CORNER_THRESHOLD`` when Otsu's took its place."""


@dataclass(frozen=True, kw_only=True)
class HairRemoved:
    """Outcome of the search for hair."""

    image: NDArray[np.uint8]
    """(H, W, 3) a new array, equal to the original unless ``flag`` is ``removed``."""
    painted: NDArray[np.bool_]
    """(H, W) True where pixels are invented."""
    flag: HairFlag
    """What was done, or why nothing was."""


def remove_dark_corners(image: NDArray[np.uint8]) -> CornersRemoved:
    """Paint over the dark corners that a dermatoscope's tube leaves.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB, at most about 1,024 px a side: Telea's time grows with the area.

    Returns
    -------
    CornersRemoved
        Nothing is painted unless a lit disc on a dark ground is found.

    References
    ----------
    PanDerm, Nature Medicine 2025, methods, "Short-term change detection", step 1; Telea, An image
    inpainting technique based on the fast marching method, 2004; Otsu 1979.
    """
    check_image(image)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    found = _lit_field(grey, CORNER_THRESHOLD)
    threshold = CORNER_THRESHOLD
    if found is None:
        # Dark skin or a short exposure: the picture's own histogram says what is lit.
        otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        threshold = int(otsu)
        found = _lit_field(grey, threshold)
    painted = np.zeros(grey.shape, np.bool_)
    if found is None:
        return CornersRemoved(
            image=image.copy(), painted=painted, flag="no lit field", threshold=threshold
        )
    centre, radius = found
    flag, distance = _judge_circle(grey, centre, radius, threshold)
    if flag != "removed":
        return CornersRemoved(image=image.copy(), painted=painted, flag=flag, threshold=threshold)
    painted = distance > CORNER_RADIUS_SHARE * radius
    return CornersRemoved(
        image=_inpaint(image, painted, CORNER_INPAINT_RADIUS_PX),
        painted=painted,
        flag="removed",
        threshold=threshold,
    )


def _lit_field(
    grey: cv2.typing.MatLike, threshold: int
) -> tuple[tuple[float, float], float] | None:
    """Circle around the largest lit contour: ((x, y), radius); None when it is too small."""
    _, lit = cv2.threshold(grey, threshold, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(lit, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea)
    if cv2.contourArea(largest) < MIN_FIELD_SHARE * grey.size:
        return None
    (x, y), radius = cv2.minEnclosingCircle(largest)
    return (float(x), float(y)), float(radius)


def _judge_circle(
    grey: cv2.typing.MatLike, centre: tuple[float, float], radius: float, threshold: int
) -> tuple[CornerFlag, NDArray[np.float64]]:
    """Whether what lies outside the circle are dark corners; with each pixel's distance."""
    height, width = grey.shape
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - centre[1], columns - centre[0])
    if radius >= MAX_CIRCLE_SHARE * np.hypot(height, width) / 2:
        return "no dark corners", distance
    outside = distance > radius
    corners = (slice(None, None, max(height - 1, 1)), slice(None, None, max(width - 1, 1)))
    is_dark_corner = outside[corners] & (np.asarray(grey)[corners] <= threshold)
    if np.count_nonzero(is_dark_corner) < MIN_DARK_CORNERS:
        return "not corners", distance
    if np.mean(np.asarray(grey)[outside] > threshold) > MAX_LIT_OUTSIDE:
        return "lit outside the circle", distance
    return "removed", distance


def remove_hair(image: NDArray[np.uint8]) -> HairRemoved:
    """Paint over dark hair.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.

    References
    ----------
    PanDerm, Nature Medicine 2025, methods, "Short-term change detection", step 2; Lee et al.,
    DullRazor, Computers in Biology and Medicine 27, 1997.

    Notes
    -----
    Light hair on dark skin is not seen by a black-hat and stays.
    """
    check_image(image)
    painted = find_hair(image)
    if not painted.any():
        return HairRemoved(image=image.copy(), painted=painted, flag="no hair")
    if painted.mean() > MAX_HAIR_SHARE:
        nothing = np.zeros_like(painted)
        return HairRemoved(image=image.copy(), painted=nothing, flag="implausible")
    return HairRemoved(
        image=_inpaint(image, painted, HAIR_INPAINT_RADIUS_PX), painted=painted, flag="removed"
    )


def find_hair(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mask of dark, thin structures that run straight for a while, (H, W)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    side = hair_kernel_px(image.shape[:2])
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    dark_detail = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel)
    _, detail = cv2.threshold(dark_detail, HAIR_THRESHOLD, 255, cv2.THRESH_BINARY)
    length = max(side, round(HAIR_LINE_SHARE * max(image.shape[:2])))
    straight = np.zeros_like(detail)
    for step in range(HAIR_DIRECTIONS):
        line = _line_element(length, np.pi * step / HAIR_DIRECTIONS)
        straight = np.maximum(straight, cv2.morphologyEx(detail, cv2.MORPH_OPEN, line))
    # Back to the hair's full width, and over the gaps at its bends.
    near = cv2.dilate(straight, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray((straight > 0) | ((near > 0) & (detail > 0)), np.bool_)


def _line_element(length: int, angle: float) -> NDArray[np.uint8]:
    """Line through the middle of a square, one pixel wide."""
    half = length // 2
    element = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    offset = np.round(half * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    cv2.line(element, tuple(half - offset), tuple(half + offset), 1)
    return element


def hair_kernel_px(shape: tuple[int, ...]) -> int:
    """Side of the black-hat's kernel for an image, odd.

    Examples
    --------
    >>> hair_kernel_px((768, 1024)), hair_kernel_px((192, 256))
    (17, 7)
    """
    side = round(HAIR_KERNEL_PX * max(shape) / HAIR_REFERENCE_PX)
    return max(MIN_HAIR_KERNEL_PX, side - 1 + side % 2)


def _inpaint(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], radius_px: float
) -> NDArray[np.uint8]:
    painted = cv2.inpaint(
        np.ascontiguousarray(image), mask.astype(np.uint8), radius_px, cv2.INPAINT_TELEA
    )
    return np.asarray(painted, np.uint8)
