"""JPEG and JPEG 2000 codestreams: what they say of themselves, and 8-bit JPEG decoding.

Received files often declare another colour space than their codestream has. What the codestream
says wins, as in libjpeg and the readers built on it; the declaration decides where it says nothing.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from workers.errors import Undecodable

_SOF_HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive (ISO 10918-1 Table B.1)
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_SOS, _EOI = 0xDA, b"\xff\xd9"
_J2K_SOC_SIZ = b"\xff\x4f\xff\x51"  # ISO 15444-1 A.4.1, A.5.1
_J2K_COD, _J2K_SOT = 0xFF52, 0xFF90


@dataclass(frozen=True, kw_only=True)
class JpegFacts:
    """The frame header of a JPEG codestream and its application markers."""

    process: int
    """Second byte of the SOF marker."""
    precision: int
    """Bits per sample."""
    rows: int
    columns: int
    component_ids: tuple[int, ...]
    is_subsampled: bool
    has_jfif: bool
    adobe_transform: int | None
    """Colour transform of the Adobe APP14 marker; None without one."""

    @property
    def is_8_bit_dct(self) -> bool:
        """True for what every JPEG library decodes to 8 bits."""
        return self.precision == 8 and self.process in _SOF_HUFFMAN_DCT

    @property
    def is_12_bit_grey_dct(self) -> bool:
        """True for JPEG Extended as radiographs use it."""
        is_grey = len(self.component_ids) == 1
        return self.precision == 12 and self.process in _SOF_HUFFMAN_DCT and is_grey


def read_jpeg_facts(frame: bytes) -> JpegFacts | None:
    """Return what a JPEG codestream says of itself; None when it has no frame header.

    References
    ----------
    ISO/IEC 10918-1 B.2.2 (frame header); 10918-5 (JFIF); 10918-6 6.5.3 (APP14).
    """
    has_jfif, adobe_transform = False, None
    position = 2
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker == 0xFF or marker in _STANDALONE:  # fill byte, or a marker without a segment
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(frame[position + 2 : position + 4], "big")
        segment = frame[position + 4 : position + 2 + length]
        if marker in _SOF:
            return _frame_header(marker, segment, has_jfif, adobe_transform)
        if marker == _SOS or length < 2:
            return None
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            has_jfif = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_transform = segment[11]
        position += 2 + length
    return None


def _frame_header(
    marker: int, segment: bytes, has_jfif: bool, adobe_transform: int | None
) -> JpegFacts | None:
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        return None
    precision, rows, columns, count = struct.unpack(">BHHB", segment[:6])
    components = [segment[6 + 3 * index : 9 + 3 * index] for index in range(count)]
    return JpegFacts(
        process=marker,
        precision=precision,
        rows=rows,
        columns=columns,
        component_ids=tuple(component[0] for component in components),
        is_subsampled=len({component[1] for component in components}) > 1,
        has_jfif=has_jfif,
        adobe_transform=adobe_transform,
    )


def decode_8_bit(frame: bytes, facts: JpegFacts, *, declared_rgb: bool) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB or (H, W) grey of an 8-bit JPEG frame.

    Parameters
    ----------
    declared_rgb
        The header declares RGB: decides where the codestream has neither a JFIF nor an Adobe
        marker, and is not subsampled, which RGB never is.

    Raises
    ------
    Undecodable
        If the codestream is broken or ends early.
    """
    is_colour = len(facts.component_ids) == 3
    is_unmarked = not facts.has_jfif and facts.adobe_transform is None
    # OpenCV fills what is missing with grey and says nothing; Pillow refuses it.
    is_complete = frame.rstrip(b"\0").endswith(_EOI)
    if is_colour and is_unmarked and declared_rgb and not facts.is_subsampled:
        return _decode_with_pillow(frame, as_stored=True)
    if not is_complete:
        return _decode_with_pillow(frame, as_stored=False)
    flag = cv2.IMREAD_COLOR_RGB if is_colour else cv2.IMREAD_GRAYSCALE
    try:
        # An Exif orientation inside a DICOM file has no meaning: rows and columns are the header's.
        image: Any = cv2.imdecode(
            np.frombuffer(frame, dtype=np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as exc:
        raise Undecodable("the JPEG image is damaged") from exc
    if image is None:
        return _decode_with_pillow(frame, as_stored=False)
    pixels: NDArray[np.uint8] = image
    return pixels


def decode_12_bit(frame: bytes) -> NDArray[np.uint16]:
    """Return (H, W) grey of a 12-bit JPEG frame.

    Raises
    ------
    Undecodable
        If the codestream is broken or ends early.
    """
    if not frame.rstrip(b"\0\xff").endswith(_EOI):  # padded with either
        raise Undecodable("the JPEG image ends early")
    try:
        pixels: NDArray[np.uint16] = imagecodecs.jpeg8_decode(frame)
    except (imagecodecs.Jpeg8Error, ValueError, RuntimeError) as exc:
        raise Undecodable("the JPEG image is damaged") from exc
    return pixels


def _decode_with_pillow(frame: bytes, *, as_stored: bool) -> NDArray[np.uint8]:
    # Not Image.open: its guard against large images stops at 89 megapixels.
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(frame))
        if as_stored and image.mode == "RGB":
            image.draft("YCbCr", image.size)  # the components as they are, without a transform
        pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error, IndexError) as exc:
        raise Undecodable("the JPEG image is damaged or incomplete") from exc
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise Undecodable("the JPEG image has an unusual layout")
    return pixels


def has_j2k_component_transform(frame: bytes) -> bool | None:
    """Return whether a JPEG 2000 codestream has a multiple component transform.

    With one, the decoder's output is RGB whatever the header declares. None when there is no
    coding style segment to read.

    References
    ----------
    ISO/IEC 15444-1 A.6.1 (COD), Table A.15; PS3.5 8.2.4.
    """
    position = frame.find(_J2K_SOC_SIZ)
    if position < 0:
        return None
    position += 2
    while position + 4 <= len(frame):
        marker, length = struct.unpack(">HH", frame[position : position + 4])
        if marker == _J2K_COD and position + 9 <= len(frame):
            return frame[position + 8] == 1
        if marker == _J2K_SOT or length < 2:
            return None
        position += 2 + length
    return None
