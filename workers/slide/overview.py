"""The picture of a whole slide on which its tissue is sought. Pure over its ports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.slide.reading import read_overview
from workers.errors import Undecodable
from workers.ports import Checkpoint
from workers.slide.source import Slide

MAX_LOST_SHARE = 0.05
"""Share of the overview, or of the tiles, that may be lost to damaged frames."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The whole slide at a low resolution."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    um_px: float
    """Its resolution in micrometres per pixel."""
    remarks: tuple[str, ...]
    """Readable remarks on what could not be read."""


class _Salvaging:
    """The finer levels of a slide, white where they are damaged."""

    def __init__(self, slide: Slide, levels: int, checkpoint: Checkpoint) -> None:
        self._slide = slide
        self._checkpoint = checkpoint
        self.um_px = slide.um_px
        self.sizes = slide.sizes[:levels]
        self.level = 0
        self._lost_px, self._read_px = 0, 0

    @property
    def lost_share(self) -> float:
        """Share of what was read that could not be decoded."""
        return self._lost_px / max(self._read_px, 1)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a rectangle of a level."""
        self._checkpoint()
        pixels, lost_px = self._slide.salvage(level, x, y, width, height)
        self.level = level
        self._lost_px += lost_px
        self._read_px += width * height
        return pixels


def read_slide_overview(slide: Slide, checkpoint: Checkpoint) -> Overview:
    """Read the overview from the coarsest level that is fine enough and not damaged.

    Raises
    ------
    SlideError
        The spacing is missing or implausible.
    Undecodable
        Every level that could serve is damaged.
    """
    levels = len(slide.sizes)
    remarks: list[str] = []
    while levels:
        reader = _Salvaging(slide, levels, checkpoint)
        pixels, um_px = read_overview(reader)
        if not reader.lost_share:
            return Overview(pixels=pixels, um_px=um_px, remarks=tuple(remarks))
        width, height = slide.sizes[reader.level]
        remarks.append(
            f"{reader.lost_share:.1%} of the level of {width} x {height} px cannot be decoded"
        )
        if reader.lost_share <= MAX_LOST_SHARE:
            return Overview(pixels=pixels, um_px=um_px, remarks=tuple(remarks))
        levels = reader.level
    raise Undecodable("the slide is damaged: " + "; ".join(remarks))
