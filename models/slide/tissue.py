"""Where the tissue of a slide lies, seen on a small overview of it.

The steps and presets are those of CLAM (Lu et al., Data-efficient and weakly supervised
computational pathology on whole-slide images, Nature Biomedical Engineering 5, 2021): saturation,
median, threshold, closing, contours with area filters. Before the threshold come guards of our
own against what saturation takes for tissue (tinted glass, pen, black scanner background), after
it one against what it overlooks (pale tissue).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import SlideError
from models.preprocessing import check_image

OVERVIEW_UM_PX = 8.0
"""Resolution of the overview; CLAM's downsample of 32 on a 40x slide."""
REFERENCE_UM = 128.0
"""Side of CLAM's reference square, 512 px of a 40x slide. In micrometres, so that the same tissue
meets the same area filter whatever the scanner."""
MAX_AREA_DEMAND = 0.005
"""The area filter never demands more than this share of the overview: a preset made for whole
resections would leave nothing of a small region."""

GLASS_PERCENTILE = 95.0  # the brightest pixels are glass wherever a slide has any
MAX_GLASS_SATURATION = 25  # beyond it the brightest pixels are pale tissue, not tinted glass
MIN_GLASS_LEVEL = 150
MIN_THRESHOLD = 4  # saturation of JPEG noise on glass stays below
MIN_TISSUE_SHARE = 0.0005  # of the overview; less is dust
CLOSE_TO_BLACK, NEUTRAL_CHROMA = 40, 20  # scanner background: dark and without colour
DARK_INK, DARK_INK_CHROMA = 90, 18  # black pen; nuclei and melanin keep some colour
GREEN_HUES = (35, 95)  # OpenCV's half degrees; no common stain is green
BLUE_HUES, BLUE_SATURATION = (96, 124), 125  # haematoxylin alone is paler than a pen
RED_HUES, RED_SATURATION, RED_VALUE = (6, 174), 195, 110  # outside this range; blood is paler
GREEN_SATURATION = 60
MIN_INK_MM2 = 0.01  # pen strokes are a millimetre wide, debris is not
INK_GROWTH_PX = 3  # a stroke's faded rim
MAX_INK_SHARE = 0.4  # of a part; beyond it the part is the rest of a stroke


@dataclass(frozen=True, kw_only=True)
class TissuePreset:
    """Parameters of the segmentation, named as in CLAM's preset files."""

    saturation_threshold: int
    """``sthresh``: saturation in 0 to 255 above which a pixel is tissue."""
    median_px: int
    """``mthresh``: side of the median filter, odd."""
    close_px: int
    """``close``: side of the closing's square; 0 for none."""
    min_area: float
    """``a_t``: smallest part in reference squares."""
    min_hole_area: float
    """``a_h``: smallest hole in reference squares."""
    max_holes: int
    """``max_n_holes``: holes kept in one part, largest first."""
    use_otsu: bool
    """Whether Otsu's threshold takes the place of the fixed one."""

    def __post_init__(self) -> None:
        """Refuse values that no filter can have."""
        if self.median_px < 1 or self.median_px % 2 == 0:
            raise ValueError(f"median_px {self.median_px} must be odd and positive")
        if not 0 <= self.saturation_threshold <= 255:
            raise ValueError("saturation_threshold must lie in 0 to 255")
        if min(self.close_px, self.min_area, self.min_hole_area, self.max_holes) < 0:
            raise ValueError("sizes and areas cannot be negative")


def _preset(sthresh: int, mthresh: int, close: int, a_t: int, a_h: int, holes: int) -> TissuePreset:
    return TissuePreset(
        saturation_threshold=sthresh,
        median_px=mthresh,
        close_px=close,
        min_area=a_t,
        min_hole_area=a_h,
        max_holes=holes,
        use_otsu=False,
    )


PRESETS: Mapping[str, TissuePreset] = MappingProxyType(
    {
        "default": _preset(8, 7, 4, 100, 16, 8),
        "bwh_biopsy": _preset(15, 11, 2, 1, 1, 2),
        "bwh_resection": _preset(15, 11, 4, 100, 16, 8),
        "tcga": _preset(8, 7, 4, 16, 4, 8),
    }
)
"""CLAM's presets."""


class TissueFinding(StrEnum):
    """What the overview shows."""

    TISSUE = "tissue"
    BLANK = "blank slide"
    INK_ONLY = "ink only, no tissue"
    DARK = "almost entirely black"


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """Tissue of one slide on its overview of (H, W) pixels."""

    finding: TissueFinding
    outer: NDArray[np.bool_]
    """(H, W) inside the outlines of the parts, holes included."""
    holes: NDArray[np.bool_]
    """(H, W) inside the holes that were kept."""
    ink: NDArray[np.bool_]
    """(H, W) pen or marking dye, its rim included."""
    outlines: tuple[NDArray[np.int32], ...]
    """(P, 2) outline of each part, x and y in pixels of the overview, largest part first."""
    um_px: float
    """Resolution of the overview in micrometres per pixel."""
    threshold: int
    """Saturation above which a pixel was called tissue."""
    is_pale: bool
    """Whether tissue was found only after the threshold had been lowered."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) tissue without its holes."""
        return self.outer & ~self.holes

    @property
    def area_mm2(self) -> float:
        """Area of the tissue in square millimetres."""
        return float(np.count_nonzero(self.mask)) * (self.um_px / 1000) ** 2


def find_tissue(overview: NDArray[np.uint8], *, um_px: float, preset: TissuePreset) -> Tissue:
    """Find the tissue of a slide.

    Parameters
    ----------
    overview
        (H, W, 3) uint8 RGB, the whole slide at about ``OVERVIEW_UM_PX``.
    um_px
        Resolution of the overview in micrometres per pixel.
    preset
        One of ``PRESETS`` or the site's own.

    Returns
    -------
    Tissue
        A slide without tissue is a result, not an error: ``finding`` says what it shows.

    Raises
    ------
    ImageError
        If the overview is not an RGB image.
    SlideError
        If the resolution is not positive.
    """
    check_image(overview)
    if not 0 < um_px < np.inf:
        raise SlideError(f"an overview cannot have {um_px} um/px")
    dark, ink = find_dark(overview), find_ink(overview, um_px=um_px)
    saturation = cv2.cvtColor(balance_glass(overview), cv2.COLOR_RGB2HSV)[..., 1]
    saturation = cv2.medianBlur(saturation, preset.median_px)
    saturation[dark | ink] = 0
    threshold = _threshold(saturation, preset)
    unit_px = (REFERENCE_UM / um_px) ** 2
    parts = _find_parts(saturation, threshold, unit_px, preset, ink)
    is_pale = False
    if not _is_enough(parts) and threshold > MIN_THRESHOLD:
        lower = max(MIN_THRESHOLD, threshold // 2)
        paler = _find_parts(saturation, lower, unit_px, preset, ink)
        if _is_enough(paler):
            parts, threshold, is_pale = paler, lower, True
    if not _is_enough(parts):
        parts = _Parts(np.zeros_like(dark), np.zeros_like(dark), ())
    return Tissue(
        finding=_finding(parts, dark, ink),
        outer=parts.outer,
        holes=parts.holes,
        ink=ink,
        outlines=parts.outlines,
        um_px=um_px,
        threshold=threshold,
        is_pale=is_pale,
    )


@dataclass(frozen=True)
class _Parts:
    outer: NDArray[np.bool_]
    holes: NDArray[np.bool_]
    outlines: tuple[NDArray[np.int32], ...]


def _is_enough(parts: _Parts) -> bool:
    return bool((parts.outer & ~parts.holes).mean() >= MIN_TISSUE_SHARE)


def _finding(parts: _Parts, dark: NDArray[np.bool_], ink: NDArray[np.bool_]) -> TissueFinding:
    if parts.outlines:
        return TissueFinding.TISSUE
    if dark.mean() > 0.5:
        return TissueFinding.DARK
    if (ink & ~dark).mean() >= MIN_TISSUE_SHARE:
        return TissueFinding.INK_ONLY
    return TissueFinding.BLANK


def balance_glass(overview: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make the glass neutral: tinted glass is saturated, and CLAM takes it for tissue.

    Parameters
    ----------
    overview
        (H, W, 3) uint8 RGB.

    Returns
    -------
    ndarray
        Each channel scaled so that the median of the brightest pixels is grey; the overview
        itself where these are too dark or too colourful to be glass.
    """
    level = overview.min(axis=2)
    brightest = overview[level >= np.percentile(level, GLASS_PERCENTILE)]
    glass = np.median(brightest, axis=0)
    saturation = 255 * (glass.max() - glass.min()) / max(glass.max(), 1)
    if glass.max() < MIN_GLASS_LEVEL or saturation > MAX_GLASS_SATURATION:
        return overview
    levels = np.arange(256)[:, np.newaxis] * (glass.max() / np.maximum(glass, 1))
    table = np.minimum(levels.round(), 255).astype(np.uint8)
    return np.asarray(cv2.LUT(overview, table[np.newaxis]), np.uint8)


def find_dark(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Scanner background and padding: almost black and without colour, (H, W) bool."""
    high = overview.max(axis=2)
    return np.asarray((high <= CLOSE_TO_BLACK) & (_chroma(overview) <= NEUTRAL_CHROMA))


def find_ink(overview: NDArray[np.uint8], *, um_px: float) -> NDArray[np.bool_]:
    """Pen and marking dye by colour and darkness, with a rim around it.

    Parameters
    ----------
    overview
        (H, W, 3) uint8 RGB.
    um_px
        Its resolution in micrometres per pixel.

    Returns
    -------
    ndarray
        (H, W) bool; specks below ``MIN_INK_MM2`` are debris, not ink.

    Notes
    -----
    Green by hue; blue and red by hue and a saturation that stains do not reach; black by darkness
    without the colour that nuclei, blood and melanin keep, unless it touches the border as padding
    does. Brown and orange pens cannot be told
    from DAB and melanin and are not found.
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(overview, cv2.COLOR_RGB2HSV))
    green = (hue >= GREEN_HUES[0]) & (hue <= GREEN_HUES[1]) & (saturation > GREEN_SATURATION)
    blue = (hue >= BLUE_HUES[0]) & (hue <= BLUE_HUES[1]) & (saturation > BLUE_SATURATION)
    is_red = (hue <= RED_HUES[0]) | (hue >= RED_HUES[1])
    red = is_red & (saturation > RED_SATURATION) & (value > RED_VALUE)
    black = (value < DARK_INK) & (_chroma(overview) < DARK_INK_CHROMA)
    coloured = (green | blue | red) & (value > CLOSE_TO_BLACK)
    found = (coloured | (black & ~_scanner_background(overview))).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(found)
    is_mark = statistics[:, cv2.CC_STAT_AREA] >= MIN_INK_MM2 * (1000 / um_px) ** 2
    is_mark[0] = False
    ink = is_mark[labels].astype(np.uint8)
    side = 2 * INK_GROWTH_PX + 1
    rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(ink, rim), np.bool_)


def _scanner_background(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Dark areas that touch the border: padding, not a pen."""
    count, labels = cv2.connectedComponents(find_dark(overview).astype(np.uint8))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.zeros(count, np.bool_)
    touching[np.unique(border)] = True
    touching[0] = False
    return np.asarray(touching[labels])


def _chroma(image: NDArray[np.uint8]) -> NDArray[np.int16]:
    spread: NDArray[np.int16] = np.ptp(image.astype(np.int16), axis=2)
    return spread


def _threshold(saturation: cv2.typing.MatLike, preset: TissuePreset) -> int:
    if not preset.use_otsu:
        return preset.saturation_threshold
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return max(MIN_THRESHOLD, int(otsu))  # on bare glass Otsu parts noise from noise


def _find_parts(
    saturation: cv2.typing.MatLike,
    threshold: int,
    unit_px: float,
    preset: TissuePreset,
    ink: NDArray[np.bool_],
) -> _Parts:
    """Threshold, close, and filter contours and their holes by area (CLAM's ``segmentTissue``)."""
    side = max(preset.close_px, 1)
    kernel = np.ones((side, side), np.uint8)
    above = (saturation > threshold).astype(np.uint8)
    binary = cv2.morphologyEx(above, cv2.MORPH_CLOSE, kernel).astype(np.uint8)
    contours, tree = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer, holes = np.zeros_like(binary), np.zeros_like(binary)
    areas = [cv2.contourArea(contour) for contour in contours]
    parents = [int(row[3]) for row in tree[0]] if contours else []
    inner: dict[int, list[int]] = defaultdict(list)
    for number, parent in enumerate(parents):
        inner[parent].append(number)
    demand = min(preset.min_area * unit_px, MAX_AREA_DEMAND * binary.size)
    kept = []
    for number in inner[-1]:
        area = areas[number] - sum(areas[i] for i in inner[number])
        if area <= demand or _is_stroke(contours[number], ink):
            continue
        kept.append((area, number))
        cv2.drawContours(outer, [contours[number]], -1, 1, thickness=cv2.FILLED)
        for hole in sorted(inner[number], key=lambda i: -areas[i])[: preset.max_holes]:
            if areas[hole] > preset.min_hole_area * unit_px:
                _fill_hole(holes, contours[hole])
    kept.sort(key=lambda pair: -pair[0])
    return _Parts(
        outer.astype(np.bool_),
        holes.astype(np.bool_),
        tuple(np.asarray(contours[number].reshape(-1, 2), np.int32) for _, number in kept),
    )


def _fill_hole(holes: NDArray[np.uint8], contour: cv2.typing.MatLike) -> None:
    """Fill inside a hole's contour; the contour itself runs on tissue and stays tissue."""
    x, y, width, height = cv2.boundingRect(contour)
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, [contour], -1, 1, thickness=cv2.FILLED, offset=(-x, -y))
    cv2.drawContours(filled, [contour], -1, 0, thickness=1, offset=(-x, -y))
    holes[y : y + height, x : x + width] |= filled


def _is_stroke(contour: cv2.typing.MatLike, ink: NDArray[np.bool_]) -> bool:
    """Whether a part is what is left of a pen stroke: too much of its box is ink."""
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, thickness=cv2.FILLED, offset=(-x, -y))
    near = ink[y : y + height, x : x + width]
    return bool(near[inside > 0].mean() > MAX_INK_SHARE)
