"""Slide files behind one protocol: DICOM by wsidicom, SVS, TIFF and the rest by OpenSlide.

Readers answer in pixels of one level and never hold more than was asked for. What a file does not
say (its spacing) is not guessed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import cv2
import numpy as np
import openslide
import wsidicom.errors
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError
from PIL import Image
from wsidicom import WsiDicom

from models.slide.reading import WHITE, SlideReader
from models.slide.tiles import check_spacing
from training.errors import SlideFileError

_FILE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    OpenSlideError,
    wsidicom.errors.WsiDicomBotOverflow,
    wsidicom.errors.WsiDicomError,
    wsidicom.errors.WsiDicomFileError,
    wsidicom.errors.WsiDicomMatchError,
    wsidicom.errors.WsiDicomNoResolutionError,
    wsidicom.errors.WsiDicomNotFoundError,
    wsidicom.errors.WsiDicomNotSupportedError,
    wsidicom.errors.WsiDicomOutOfBoundsError,
    wsidicom.errors.WsiDicomStrictRequirementError,
    wsidicom.errors.WsiDicomUidDuplicateError,
)
"""What the readers' libraries raise on damaged files, as seen on truncated and altered ones."""


class SlideFile(SlideReader, Protocol):
    """A slide in a file that is open."""

    def close(self) -> None:
        """Release the file."""


class _FileReader:
    """What both file readers share: spacing given by hand, clipping, closing."""

    _spacing: tuple[float | None, float | None]
    _override: float | None
    sizes: tuple[tuple[int, int], ...]

    @property
    def um_px(self) -> float:
        """Resolution of level 0 in micrometres per pixel."""
        if self._override is not None:
            return check_spacing(self._override, self._override)
        return check_spacing(*self._spacing)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a rectangle of a level; what lies off the slide is white."""
        found = np.full((height, width, 3), WHITE, np.uint8)
        across, down = self.sizes[level]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, across), min(y + height, down)
        if x0 < x1 and y0 < y1:
            try:
                pixels = self._read_inside(level, x0, y0, x1 - x0, y1 - y0)
            except _FILE_ERRORS as exc:
                raise SlideFileError(
                    f"level {level} cannot be decoded: {type(exc).__name__}"
                ) from exc
            found[y0 - y : y1 - y, x0 - x : x1 - x] = pixels
        return found

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        raise NotImplementedError

    def close(self) -> None:
        """Release the file."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DicomSlide(_FileReader):
    """VL Whole Slide Microscopy instances of one slide.

    Some converters write Photometric Interpretation RGB over frames that are JFIF, which can only
    hold YCbCr (ITU-T T.871): there the frames are believed.

    Parameters
    ----------
    files
        All instances of the slide, or one.
    um_px
        Resolution to use in place of the one in the file.

    Raises
    ------
    SlideFileError
        If no pyramid of colour images can be read.
    """

    def __init__(self, files: Iterable[Path], *, um_px: float | None = None) -> None:
        self._override = um_px
        try:
            self._slide = WsiDicom.open(list(files))
            levels = list(self._slide.pyramids[0])
            self.sizes = tuple((level.size.width, level.size.height) for level in levels)
            self._numbers = [level.level for level in levels]
            spacing = levels[0].mpp
            self._spacing = (
                (float(spacing.width), float(spacing.height)) if spacing else (None, None)
            )
            data = levels[0].default_instance.image_data
            samples = data.samples_per_pixel
            self._is_mislabelled = data.photometric_interpretation == "RGB" and is_jfif(
                self._slide.read_encoded_tile(self._numbers[0], (0, 0))
            )
        except _FILE_ERRORS as exc:
            reason = type(exc).__name__
            raise SlideFileError(f"no whole-slide pyramid can be read: {reason}") from exc
        if samples != 3:
            self.close()
            raise SlideFileError(f"{samples} samples a pixel, colour slides have 3")

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        found = self._slide.read_region((x, y), self._numbers[level], (width, height), threads=1)
        pixels = np.asarray(found, np.uint8)
        if self._is_mislabelled:  # decoded as its header says, so still Y, Cb, Cr
            pixels = np.asarray(cv2.cvtColor(pixels[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)
        return pixels

    def close(self) -> None:
        """Release the files."""
        self._slide.close()


class OpenSlideSlide(_FileReader):
    """A file that OpenSlide reads: SVS, tiled TIFF, NDPI, MRXS and others.

    Parameters
    ----------
    path
        The file.
    um_px
        Resolution to use in place of the one in the file.

    Raises
    ------
    SlideFileError
        If OpenSlide cannot open it.
    """

    def __init__(self, path: Path, *, um_px: float | None = None) -> None:
        self._override = um_px
        try:
            self._slide = OpenSlide(path)
            self.sizes = tuple((width, height) for width, height in self._slide.level_dimensions)
        except _FILE_ERRORS as exc:
            reason = type(exc).__name__
            raise SlideFileError(f"no slide that OpenSlide reads: {reason}") from exc
        names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        x_um_px, y_um_px = (self._property(name) for name in names)
        self._spacing = (x_um_px, y_um_px)

    def _property(self, name: str) -> float | None:
        text = self._slide.properties.get(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            return None

    def _read_inside(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        scale = self._slide.level_downsamples[level]
        found = self._slide.read_region(
            (round(x * scale), round(y * scale)), level, (width, height)
        )
        white = Image.new("RGBA", found.size, (WHITE,) * 4)
        return np.asarray(Image.alpha_composite(white, found).convert("RGB"), np.uint8)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()


def open_slide(path: Path, *, um_px: float | None = None) -> DicomSlide | OpenSlideSlide:
    """Open a slide: a folder of DICOM instances, one DICOM file, or any file OpenSlide knows.

    Parameters
    ----------
    path
        File or folder. DICOM is recognised by its preamble, not by its name.
    um_px
        Resolution of level 0 in micrometres per pixel, for files that do not state it or state
        it wrongly.

    Raises
    ------
    SlideFileError
        If the path does not exist or nothing can read it.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file)]
        if not files:
            raise SlideFileError(f"{path.name} holds no DICOM file")
        return DicomSlide(files, um_px=um_px)
    if not path.is_file():
        raise SlideFileError(f"{path.name} does not exist")
    return DicomSlide([path], um_px=um_px) if is_dicom(path) else OpenSlideSlide(path, um_px=um_px)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as PS3.10 section 7.1 says: 128 bytes, then ``DICM``."""
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError as exc:
        raise SlideFileError(f"{path.name} cannot be read: {exc.strerror}") from exc


def is_jfif(frame: bytes) -> bool:
    """Whether a frame is a JPEG in JFIF: its first segment is APP0 and says so."""
    return frame[:4] == b"\xff\xd8\xff\xe0" and frame[6:11] == b"JFIF\0"
