"""Rigid registration of two dermoscopic images of one lesion, or the reason why there is none.

AKAZE key points, mutual nearest neighbours in Hamming distance, and a RANSAC search for a rotation
and a shift (PanDerm, Nature Medicine 2025, methods, "Short-term change detection", step 3). Scale
is not searched: it comes from the pixel spacing, or from the assumption of one field of view.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

AKAZE_DESCRIPTOR_SIZE = 0  # full length (paper)
AKAZE_THRESHOLD = 9e-5  # paper
AKAZE_OCTAVES = 4  # paper
MIN_DETECTION_SIDE_PX = 512
"""Smaller images are enlarged before key points are sought: at 256 px a lesion that grew by a fifth
leaves too few on the skin around it (8 of 12 simulated ones were then refused, else 3)."""


@dataclass(frozen=True, kw_only=True)
class RegistrationSettings:
    """What counts as a registration; the paper states none of these."""

    residual_px: float = 3.0
    """Largest distance of an inlier, in pixels of the image in which key points are sought."""
    trials: int = 2000
    """Most random pairs of matches that are tried."""
    confidence: float = 0.999
    """The search ends early once a better motion is less likely than this leaves room for."""
    min_inliers: int = 8
    """Matches that must agree on one motion."""
    min_inlier_share: float = 0.05
    """Share of the matches that must agree."""
    min_overlap: float = 0.3
    """Share of the first image that the second must cover."""
    seed: int = 0
    """Seed of the random pairs: the same images give the same answer."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.residual_px <= 0 or self.trials < 1 or self.min_inliers < 3:
            raise ValueError("residual_px and trials must be positive, min_inliers at least 3")
        if not (0 < self.confidence < 1 and 0 <= self.min_inlier_share <= 1):
            raise ValueError("confidence and min_inlier_share must lie between 0 and 1")
        if not 0 <= self.min_overlap <= 1:
            raise ValueError("min_overlap must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A motion that brings the second image onto the first."""

    matrix: NDArray[np.float64]
    """(2, 3) from (x, y) pixels of the second image to those of the first."""
    rotation_deg: float
    """Angle of the motion, in (-180, 180]."""
    inliers: int
    """Matches that agree."""
    matches: int
    """Mutual matches in all."""
    residual_px: float
    """Root mean square distance of the inliers, in pixels of the first image."""
    overlap: float
    """Share of the first image that the second covers."""


@dataclass(frozen=True, kw_only=True)
class RegistrationFailure:
    """Why two images were not brought together."""

    reason: Literal["too few key points", "too few inliers", "too little overlap"]
    inliers: int
    """Matches that agreed on the best motion."""
    matches: int
    """Mutual matches in all."""


RegistrationOutcome: TypeAlias = Registration | RegistrationFailure


def register(
    first: NDArray[np.uint8], second: NDArray[np.uint8], settings: RegistrationSettings
) -> RegistrationOutcome:
    """Find the rotation and shift from the second image to the first.

    Parameters
    ----------
    first, second
        (H, W, 3) uint8 RGB at one scale, possibly of different sizes.
    settings
        Tolerances and guards.

    Returns
    -------
    Registration or RegistrationFailure
        A mirrored image, another lesion or a blank one end in a failure.
    """
    longest = max(*first.shape[:2], *second.shape[:2])
    enlargement = max(1.0, MIN_DETECTION_SIDE_PX / longest)
    first_points, first_codes = detect(first, enlargement)
    second_points, second_codes = detect(second, enlargement)
    if min(len(first_points), len(second_points)) < settings.min_inliers:
        return RegistrationFailure(reason="too few key points", inliers=0, matches=0)
    pairs = match_codes(first_codes, second_codes)
    target, source = first_points[pairs[:, 0]], second_points[pairs[:, 1]]
    tolerance = dataclasses.replace(settings, residual_px=settings.residual_px / enlargement)
    found = find_motion(source, target, tolerance)
    inliers = 0 if found is None else int(found[1].sum())
    needed = max(settings.min_inliers, settings.min_inlier_share * len(pairs))
    if found is None or inliers < needed:
        return RegistrationFailure(reason="too few inliers", inliers=inliers, matches=len(pairs))
    matrix, is_inlier = found
    covered = overlap_share(matrix, first.shape[:2], second.shape[:2])
    if covered < settings.min_overlap:
        return RegistrationFailure(reason="too little overlap", inliers=inliers, matches=len(pairs))
    distances = _residuals(matrix, source[is_inlier], target[is_inlier])
    return Registration(
        matrix=matrix,
        rotation_deg=float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))),
        inliers=inliers,
        matches=len(pairs),
        residual_px=float(np.sqrt(np.mean(distances**2))),
        overlap=covered,
    )


def detect(
    image: NDArray[np.uint8], enlargement: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """AKAZE key points (N, 2) as (x, y) of the image itself, and their binary codes (N, 61)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if enlargement > 1:
        grey = cv2.resize(grey, None, fx=enlargement, fy=enlargement, interpolation=cv2.INTER_CUBIC)
    akaze = cv2.AKAZE.create(
        descriptor_size=AKAZE_DESCRIPTOR_SIZE,
        threshold=AKAZE_THRESHOLD,
        nOctaves=AKAZE_OCTAVES,
    )
    points, codes = akaze.detectAndCompute(grey, None)
    if len(points) == 0:
        return np.empty((0, 2)), np.empty((0, 61), np.uint8)
    places = np.array([point.pt for point in points], np.float64)
    # Pixel centres, not corners, stay where they are.
    return (places + 0.5) / enlargement - 0.5, np.asarray(codes, np.uint8)


def match_codes(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Mutual nearest neighbours in Hamming distance, (M, 2) numbers into both."""
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    found = matcher.match(first, second)
    return np.array([(m.queryIdx, m.trainIdx) for m in found], np.intp).reshape(-1, 2)


def fit_motion(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation and shift with the least squared distance, (2, 3).

    Parameters
    ----------
    source, target
        (N, 2) matched points, N >= 2, (x, y).

    References
    ----------
    Arun, Huang and Blostein, Least-squares fitting of two 3-D point sets, IEEE TPAMI 9, 1987; in
    the plane the rotation is one angle.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    >>> fit_motion(square, square + [3, 4]).round(6).tolist()
    [[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]]
    """
    centre_s, centre_t = source.mean(axis=0), target.mean(axis=0)
    s, t = source - centre_s, target - centre_t
    angle = np.arctan2(
        (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum(), (s[:, 0] * t[:, 0] + s[:, 1] * t[:, 1]).sum()
    )
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([rotation, centre_t - rotation @ centre_s])


def _residuals(
    matrix: NDArray[np.float64], source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    moved = source @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(np.hypot(*(moved - target).T))


def find_motion(
    source: NDArray[np.float64], target: NDArray[np.float64], settings: RegistrationSettings
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """RANSAC for a rotation and a shift.

    Parameters
    ----------
    source, target
        (N, 2) matched points, many of them wrong.

    Returns
    -------
    tuple or None
        Matrix (2, 3) refitted on all inliers, and which matches are inliers; None with fewer
        than two matches.

    References
    ----------
    Fischler and Bolles, Random sample consensus, Communications of the ACM 24, 1981.
    """
    count = len(source)
    if count < 2:
        return None
    rng = np.random.default_rng(settings.seed)
    best = np.zeros(count, np.bool_)
    trial, needed = 0, settings.trials
    while trial < needed:
        trial += 1
        pair = rng.choice(count, 2, replace=False)
        spans = [np.hypot(*(p[pair[0]] - p[pair[1]])) for p in (source, target)]
        # A rigid motion keeps lengths, and points close together fix no angle.
        if (
            abs(spans[0] - spans[1]) > 2 * settings.residual_px
            or spans[0] < 5 * settings.residual_px
        ):
            continue
        matrix = fit_motion(source[pair], target[pair])
        is_inlier = _residuals(matrix, source, target) <= settings.residual_px
        if is_inlier.sum() > best.sum():
            best = is_inlier
            needed = min(settings.trials, _trials_needed(best.mean(), settings.confidence))
    if best.sum() < 2:
        return None
    return _polish(source, target, best, settings.residual_px)


def _trials_needed(share: float, confidence: float) -> int:
    """Trials after which a clean pair was drawn with this confidence."""
    miss = 1 - share**2
    return 1 if miss <= 0 else int(np.ceil(np.log(1 - confidence) / np.log(miss)))


def _polish(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    is_inlier: NDArray[np.bool_],
    residual_px: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Refit on the inliers until they stay the same."""
    matrix = fit_motion(source[is_inlier], target[is_inlier])
    for _ in range(10):
        again = _residuals(matrix, source, target) <= residual_px
        if again.sum() < 2 or (again == is_inlier).all():
            break
        is_inlier = again
        matrix = fit_motion(source[is_inlier], target[is_inlier])
    return matrix, is_inlier


def overlap_share(
    matrix: NDArray[np.float64], first_shape: tuple[int, ...], second_shape: tuple[int, ...]
) -> float:
    """Share of the first image's area that the moved second one covers."""
    height, width = second_shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    moved = (corners @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    height, width = first_shape[:2]
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    area, _ = cv2.intersectConvexConvex(frame, moved)
    return float(min(1.0, area / (height * width)))
