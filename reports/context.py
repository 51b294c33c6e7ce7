"""What an encoder knows besides the result: sources, time, installation, predecessors."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reports.errors import ContextError


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """One instance that the result speaks of."""

    header: Dataset
    """All attributes of the source instance but Pixel Data, as read."""
    pixels: NDArray[np.uint8] | None
    """(H, W, 3) RGB; None if the pixel data could not be decoded."""


@dataclass(frozen=True, kw_only=True)
class PredecessorReport:
    """The SR of an earlier generation, which the new one supersedes (PS3.3 C.17.2)."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """Everything that goes into the objects and is not the analysis' to say.

    Raises
    ------
    ContextError
        When ``created_at`` has no timezone or ``generation`` is below 1.
    """

    sources: tuple[SourceImage, ...]
    """The source instances; matched to the result by SOP Instance UID."""
    generation: int
    """Study generation, 1-based."""
    analysis: str
    """Name of the analysis, e.g. ``diagnosis``."""
    created_at: datetime.datetime
    """Timezone-aware; the date of content, series and instance. A re-run passes the same value."""
    software_version: str
    """Version of Lentigo."""
    device_serial: str
    """Identifier of this installation."""
    predecessors: tuple[PredecessorReport, ...] = ()
    """The SRs of earlier generations that this result supersedes."""

    def __post_init__(self) -> None:
        if self.created_at.utcoffset() is None:
            raise ContextError("created_at has no timezone")
        if self.generation < 1:
            raise ContextError("generation is below 1")


@dataclass(frozen=True, kw_only=True)
class ReportObject:
    """One DICOM object of a result."""

    role: str
    """``sr``, ``seg-1``, ``overview-1`` and so on; unique within a result."""
    dataset: Dataset
    """The object with its File Meta Information, ready to be written or sent."""
