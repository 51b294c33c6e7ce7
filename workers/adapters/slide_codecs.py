"""Decodes the frames of slides to 8-bit RGB, through imagecodecs.

What a codestream says of its size is compared with the header before anything is decoded, so that
no frame asks for memory that its slide did not announce. ICC profiles are not applied.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from workers.adapters.jpeg import JpegFacts, has_j2k_component_transform, read_jpeg_facts
from workers.adapters.slide_elements import Buffer
from workers.errors import Undecodable

# PS3.6 Table A-1
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LS_LOSSLESS, JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
HTJ2K_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))
RAW = (IMPLICIT_LITTLE, EXPLICIT_LITTLE)

_EOI = b"\xff\xd9"
_TAIL_BYTES = 64  # more padding than this after a frame has not been met
_HEAD_BYTES = 64 * 1024
_SOS = b"\xff\xda"
_SIZ = b"\xff\x4f\xff\x51"  # ISO 15444-1 A.5.1
_LS_FRAME = b"\xff\xf7"  # ISO 14495-1 C.1.1

_Encoded = Buffer | bytes
# imagecodecs' annotations know bytes only; it takes any buffer.
Decode = Callable[[_Encoded], NDArray[np.uint8]]
"""Encoded frame -> (h, w, 3) uint8 RGB, at most of the frame's size; raises ``Undecodable``."""

_FAULTS = (
    imagecodecs.Jpeg8Error,
    imagecodecs.Jpeg2kError,
    imagecodecs.JpeglsError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    cv2.error,
)


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """What a header says of its frames; they have three samples of 8 bits."""

    rows: int
    columns: int
    photometric: str
    """Photometric Interpretation."""
    is_planar: bool
    """Planar Configuration 1: all of red, then green, then blue."""

    @property
    def raw_bytes(self) -> int:
        """Size of a frame without compression."""
        return self.rows * self.columns * 3


def decoder(transfer_syntax_uid: str, form: FrameFormat) -> Decode:
    """Return what decodes the frames of one instance.

    Raises
    ------
    Undecodable
        The transfer syntax is not one that slides are read in.
    """
    if transfer_syntax_uid in RAW:
        if form.photometric not in ("RGB", "YBR_FULL"):
            raise Undecodable(f"uncompressed frames of {form.photometric} are not read")
        return lambda frame: _raw(frame, form)
    if transfer_syntax_uid in (JPEG_BASELINE, JPEG_EXTENDED):  # 12 bits are told frame by frame
        return JpegDecoder(form)
    # High-Throughput JPEG 2000 (ISO 15444-15) changes the coding of blocks; OpenJPEG reads both.
    if transfer_syntax_uid in (JPEG_2000_LOSSLESS, JPEG_2000, *HTJ2K_SYNTAXES):
        return lambda frame: _jpeg_2000(frame, form)
    if transfer_syntax_uid in (JPEG_LS_LOSSLESS, JPEG_LS_NEAR_LOSSLESS):
        return lambda frame: _jpeg_ls(frame, form)
    raise Undecodable("its transfer syntax is not one that slides are read in")


class JpegDecoder:
    """Decodes 8-bit JPEG frames; what their common head says is looked at once.

    What the codestream says of its colours wins: converters write RGB over frames that are JFIF,
    which holds YCbCr only (ITU-T T.871).
    """

    def __init__(self, form: FrameFormat) -> None:
        self._form = form
        # One assignment each time: frames are decoded in several threads.
        self._known: tuple[bytes, str | None] = (b"", None)

    def __call__(self, frame: _Encoded) -> NDArray[np.uint8]:
        """Return (h, w, 3) RGB."""
        if not bytes(frame[-_TAIL_BYTES:]).rstrip(b"\0\xff").endswith(_EOI):
            # libjpeg fills what is missing with grey and says nothing.
            raise Undecodable("a JPEG frame ends early")
        head, colours = self._known
        if not head or bytes(frame[: len(head)]) != head:
            head, colours = self._known = self._read_head(bytes(frame[:_HEAD_BYTES]))
        try:
            pixels: NDArray[np.uint8] = imagecodecs.jpeg8_decode(
                cast(bytes, frame), colorspace=colours, outcolorspace=colours
            )
        except _FAULTS as exc:
            raise Undecodable("a JPEG frame is damaged") from exc
        return pixels

    def _read_head(self, start: bytes) -> tuple[bytes, str | None]:
        facts = read_jpeg_facts(start)
        if facts is None or not facts.is_8_bit_dct or len(facts.component_ids) != 3:
            raise Undecodable("a frame is no 8-bit colour JPEG")
        _check_size(facts.rows, facts.columns, self._form)
        head = start[: start.find(_SOS) + 2]
        # The bytes of SOS may occur in a table too: then this head is too short to be relied on.
        is_whole = read_jpeg_facts(head) == facts
        return head if is_whole else b"", "rgb" if self._is_rgb(facts) else None

    def _is_rgb(self, facts: JpegFacts) -> bool:
        return (
            self._form.photometric == "RGB"
            and not facts.has_jfif
            and facts.adobe_transform is None
            and not facts.is_subsampled
        )


def _check_size(rows: int, columns: int, form: FrameFormat) -> None:
    """Accept frames of the announced size, and smaller ones, which some write at the edges."""
    if not (0 < rows <= form.rows and 0 < columns <= form.columns):
        raise Undecodable(
            f"a frame has {columns} x {rows} pixels, its header says {form.columns} x {form.rows}"
        )


def _raw(frame: _Encoded, form: FrameFormat) -> NDArray[np.uint8]:
    samples = np.frombuffer(frame, np.uint8)
    if form.is_planar:
        pixels = np.moveaxis(samples.reshape(3, form.rows, form.columns), 0, -1)
    else:
        pixels = samples.reshape(form.rows, form.columns, 3)
    return _from_ybr(pixels) if form.photometric == "YBR_FULL" else pixels.copy()


def _jpeg_2000(frame: _Encoded, form: FrameFormat) -> NDArray[np.uint8]:
    start = bytes(frame[:_HEAD_BYTES])
    at = start.find(_SIZ)
    try:
        if at < 0:
            raise Undecodable("a frame is no JPEG 2000 image")
        x1, y1, x0, y0 = struct.unpack_from(">4I", start, at + 8)
        (components,) = struct.unpack_from(">H", start, at + 40)
        depths = start[at + 42 : at + 42 + 3 * components : 3]
    except struct.error as exc:
        raise Undecodable("a JPEG 2000 frame ends early") from exc
    _check_size(y1 - y0, x1 - x0, form)
    if components != 3 or set(depths) != {7}:
        raise Undecodable("a frame is no 8-bit colour JPEG 2000 image")
    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpeg2k_decode(cast(bytes, frame))
    except _FAULTS as exc:
        raise Undecodable("a JPEG 2000 frame is damaged or ends early") from exc
    if pixels.shape != (y1 - y0, x1 - x0, 3) or pixels.dtype != np.uint8:
        raise Undecodable("a JPEG 2000 frame has an unusual layout")
    is_ybr = form.photometric.startswith("YBR_FULL") and not has_j2k_component_transform(start)
    return _from_ybr(pixels) if is_ybr else pixels


def _jpeg_ls(frame: _Encoded, form: FrameFormat) -> NDArray[np.uint8]:
    start = bytes(frame[:_HEAD_BYTES])
    at = start.find(_LS_FRAME)
    try:
        depth, rows, columns, components = struct.unpack_from(">BHHB", start, at + 4)
    except struct.error as exc:
        raise Undecodable("a JPEG-LS frame ends early") from exc
    if at < 0 or depth != 8 or components != 3:
        raise Undecodable("a frame is no 8-bit colour JPEG-LS image")
    _check_size(rows, columns, form)
    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpegls_decode(cast(bytes, frame))
    except _FAULTS as exc:
        raise Undecodable("a JPEG-LS frame is damaged or ends early") from exc
    if pixels.shape != (rows, columns, 3):
        raise Undecodable("a JPEG-LS frame has an unusual layout")
    return _from_ybr(pixels) if form.photometric == "YBR_FULL" else pixels


def _from_ybr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range Y, Cb, Cr to RGB (PS3.3 C.7.6.3.1.2, YBR_FULL)."""
    return np.asarray(
        cv2.cvtColor(np.ascontiguousarray(pixels[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB), np.uint8
    )
