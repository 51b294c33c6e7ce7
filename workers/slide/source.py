"""Where the slides of a study come from, as protocols and plain values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.slide.reading import SlideReader
from workers.errors import Undecodable


@dataclass(frozen=True, kw_only=True)
class FoundSlide:
    """The instances of one slide's pyramid; labels and overview photographs are not among them."""

    paths: tuple[str, ...]
    """Relative to the spool, finest level first."""
    headers: tuple[Dataset, ...]
    """Their attributes without Pixel Data, Per-Frame Functional Groups, ICC profiles and private
    bulk, which take megabytes and which no report needs."""


@dataclass(frozen=True, kw_only=True)
class FoundSlides:
    """The slides of a study, in the order of their instances."""

    slides: tuple[FoundSlide, ...]
    others: tuple[Dataset, ...] = ()
    """Headers of labels, overview photographs, thumbnails, and of what does not say what it is.
    Their pixels are never decoded: a label shows a name."""
    unreadable: tuple[str, ...] = ()
    """One readable reason for each instance whose header cannot be read."""


class Slide(SlideReader, Protocol):
    """A slide whose files are open; levels that cannot be used are left out of ``sizes``."""

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """Headers of the instances that are used, finest level first."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Readable remarks: levels left out, attributes that contradict each other."""

    def digest(self, level: int) -> str:
        """Hexadecimal digest of the bytes that hold a level's pixels."""

    def salvage(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[NDArray[np.uint8], int]:
        """Read a rectangle as ``read`` does; what cannot be decoded is white.

        Returns
        -------
        pixels
            (height, width, 3) uint8 RGB.
        lost_px
            Number of its pixels that could not be decoded.
        """

    def close(self) -> None:
        """Release the files."""


class SlideSource(Protocol):
    """Finds and opens slides among received instances."""

    def find(self, paths: Sequence[str]) -> FoundSlides:
        """Sort instances into slides by their headers.

        Raises
        ------
        InstanceMissing, StorageUnavailable
            A file is gone, or the disk does not answer.
        """

    def open(self, found: FoundSlide) -> Slide:
        """Open one slide; its ``read`` raises ``Undecodable`` for damaged frames.

        Raises
        ------
        Undecodable
            No level of it can be read; the message is the readable reason.
        InstanceMissing, StorageUnavailable
            A file is gone, or the disk does not answer.
        """


class NoSlides:
    """A source without slides, for analyses of photographs; implements ``SlideSource``."""

    def find(self, paths: Sequence[str]) -> FoundSlides:
        """Find nothing."""
        return FoundSlides(slides=())

    def open(self, found: FoundSlide) -> Slide:
        """Refuse: there is nothing to open."""
        raise Undecodable("there is no source of slides here")
