"""Result kind of ``change_detection``: what became of each lesion since its earlier images."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.change.pair import Growth
from models.results import LesionRegion, ModelIdentity

Linkage = Literal["tracking_uid", "tracking_id", "body_site"]
"""What makes two images ones of the same lesion; a body site makes a candidate only, which the
registration must confirm."""

GOOD_INLIERS = 30
"""Matches that agree from which a registration counts as good."""
GOOD_INLIER_SHARE = 0.1
"""Share of the matches that then agree at least."""
GOOD_OVERLAP = 0.6
"""Share of the earlier image that is then covered at least."""
MIN_SEQUENCE = 3
"""Images from which a lesion has a sequence."""


class Reason(StrEnum):
    """Why a lesion, or a pair of its images, was not assessed; the value is its code."""

    NO_PRIOR = "NO_PRIOR"
    """The record and the PACS hold no earlier image of the lesion."""
    PRIORS_UNKNOWN = "PRIORS_UNKNOWN"
    """The PACS could not be asked for earlier images."""
    UNDECODABLE = "UNDECODABLE"
    """An image cannot be decoded."""
    QUALITY = "QUALITY"
    """An image's quality, or its distance to the training data, forbids it."""
    NO_LESION = "NO_LESION"
    """No lesion was outlined in an image."""
    SCALE = "SCALE"
    """The images were not taken with comparable magnification."""
    KEY_POINTS = "KEY_POINTS"
    """An image shows too few landmarks for a registration."""
    NOT_REGISTERED = "NOT_REGISTERED"
    """Too few landmarks agree: another lesion, a mirrored or a very different image."""
    MIRRORED = "MIRRORED"
    """One image is the mirror image of the other."""
    OVERLAP = "OVERLAP"
    """The images show too little of the same skin."""
    OTHER_LESION = "OTHER_LESION"
    """Nothing but the body site links the images, and the registration does not confirm it."""


@dataclass(frozen=True, kw_only=True)
class NotAssessed:
    """A reason with its readable text."""

    reason: Reason
    text: str
    """One sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class TimePoint:
    """One image of a lesion."""

    sop_instance_uid: str
    days: int | None
    """Days from the oldest image; None where an image has no date."""
    linkage: Linkage | None
    """What links it to the current image; None for the current image itself."""
    region: LesionRegion | None = None
    """The lesion; None when none was outlined."""
    malignancy_prob: float | None = None
    """Of the diagnosis model; None when not assessed."""
    is_suspicious: bool | None = None
    """Malignancy at or above the diagnosis model's operating point."""
    problem: NotAssessed | None = None
    """What speaks against comparing it; None when it can be compared."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How well two images were brought together."""

    inliers: int
    """Landmarks that agree on one motion."""
    matches: int
    """Landmarks that were matched."""
    residual_px: float
    """Root mean square distance of those that agree, in working pixels."""
    overlap: float
    """Share of the earlier image that the later one covers."""
    rotation_deg: float

    @property
    def is_good(self) -> bool:
        """Whether a registration is beyond doubt."""
        return (
            self.inliers >= GOOD_INLIERS
            and self.inliers >= GOOD_INLIER_SHARE * self.matches
            and self.overlap >= GOOD_OVERLAP
        )


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Two originals in one frame: only moved, turned and resized, nothing painted."""

    before: NDArray[np.uint8]
    """(h, w, 3) RGB, the earlier image."""
    after: NDArray[np.uint8]
    """(h, w, 3) RGB, the later image in the earlier one's frame; black where it shows nothing."""
    before_mask: NDArray[np.bool_]
    """(h, w) the lesion in ``before``."""
    after_mask: NDArray[np.bool_]
    """(h, w) the lesion in ``after``."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two images of one lesion compared, or the reason why they were not."""

    before: TimePoint
    after: TimePoint
    change_prob: float | None = None
    """Calibrated probability of change in [0, 1]; None when not assessed."""
    is_changed: bool | None = None
    """Probability at or above the model's threshold; None when not assessed."""
    growth: Growth | None = None
    """Change of the lesion's area; None when not assessed."""
    alignment: Alignment | None = None
    """The registration; None without one."""
    frames: Frames | None = None
    """Both images in one frame; None without a registration or where none were asked for."""
    not_assessed: NotAssessed | None = None
    remarks: tuple[str, ...] = ()
    """What a reader should know of the pair, e.g. that hair was taken out of a copy."""

    @property
    def days(self) -> int | None:
        """Days between the images; None where an image has no date."""
        if self.before.days is None or self.after.days is None:
            return None
        return self.after.days - self.before.days


@dataclass(frozen=True, kw_only=True)
class LesionChange:
    """One lesion of the study."""

    time_points: tuple[TimePoint, ...]
    """Oldest first; the last one is the image of the study."""
    comparison: Comparison | None
    """The current image against the newest earlier one that could be compared; the failure of the
    newest where none could. None without an earlier image."""
    sequence: tuple[Comparison, ...] = ()
    """With three images or more: each against the one before, then the last against the first."""
    not_assessed: NotAssessed | None = None
    """Why there is no comparison; None when the comparison was assessed."""

    @property
    def current(self) -> TimePoint:
        """The image of the study."""
        return self.time_points[-1]

    @property
    def changed_points(self) -> frozenset[str]:
        """SOP Instance UIDs of the images of a sequence that changed since the one before."""
        steps = self.sequence[: len(self.time_points) - 1]
        return frozenset(pair.after.sop_instance_uid for pair in steps if pair.is_changed)

    @property
    def first_suspicious(self) -> TimePoint | None:
        """The oldest time point that is suspicious of malignancy, or changed since the one before.

        None where there is no sequence, or nothing suspicious in it.
        """
        if len(self.time_points) < MIN_SEQUENCE:
            return None
        for point in self.time_points:
            if point.is_suspicious or point.sop_instance_uid in self.changed_points:
                return point
        return None


@dataclass(frozen=True, kw_only=True)
class ChangeResult:
    """Result kind of ``change_detection``."""

    model: ModelIdentity
    segmentation: ModelIdentity
    """The model that outlined the lesions and judged each image."""
    encoder: ModelIdentity
    threshold: float
    """Probability of change from which a lesion is called changed."""
    threshold_meaning: str
    operating_point: float
    """Malignancy from which an image is called suspicious."""
    lesions: tuple[LesionChange, ...] = field(default=())
