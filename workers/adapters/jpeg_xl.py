"""JPEG XL frames (PS3.5 8.2 and A.4), which pydicom 3.0 neither names nor decodes.

What a codestream says of its size is read before anything is decoded: a hundred bytes can promise
four thousand megapixels.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from workers.errors import Undecodable

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZE_BITS = (9, 13, 18, 30)


class _Bits:
    """Reads from the least significant bit on, as JPEG XL writes."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise Undecodable("the JPEG XL image ends early")
        self._left -= count
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def read_jpeg_xl_size(frame: bytes) -> tuple[int, int]:
    """Return (rows, columns) that a codestream, bare or in its container, says it has.

    Raises
    ------
    Undecodable
        It is no JPEG XL image, or ends within its size.

    References
    ----------
    ISO/IEC 18181-1, SizeHeader; 18181-2, boxes.
    """
    start = _codestream(frame)
    if not start.startswith(_CODESTREAM):
        raise Undecodable("a frame is no JPEG XL image")
    bits = _Bits(start[2:14])
    is_small = bool(bits.take(1))

    def length() -> int:
        return 8 * (bits.take(5) + 1) if is_small else bits.take(_SIZE_BITS[bits.take(2)]) + 1

    rows = length()
    ratio = bits.take(3)
    if ratio == 0:
        return rows, length()
    over, under = _RATIOS[ratio]
    return rows, rows * over // under


def _codestream(frame: bytes) -> bytes:
    """Return the first bytes of the codestream; those of ``frame`` where no container holds it."""
    if not frame.startswith(_CONTAINER):
        return frame[:14]
    position = 0
    while position + 8 <= len(frame):
        length, kind = int.from_bytes(frame[position : position + 4], "big"), frame[position + 4 :]
        head = 8
        if length == 1:
            length, head = int.from_bytes(frame[position + 8 : position + 16], "big"), 16
        if kind.startswith((b"jxlc", b"jxlp")):
            at = position + head + (4 if kind.startswith(b"jxlp") else 0)
            return frame[at : at + 14]
        if length < head:
            break
        position += length
    raise Undecodable("a JPEG XL container holds no image")


def decode_jpeg_xl(frame: bytes, rows: int, columns: int) -> NDArray[Any]:
    """Return (rows, columns) or (rows, columns, 3) samples; colours are RGB.

    Raises
    ------
    Undecodable
        The codestream is damaged, or of another size than the header says.
    """
    found = read_jpeg_xl_size(frame)
    if found != (rows, columns):
        raise Undecodable(
            f"its JPEG XL image has {found[0]} x {found[1]} pixels, its header says "
            f"{rows} x {columns}"
        )
    try:
        samples: NDArray[Any] = np.asarray(imagecodecs.jpegxl_decode(frame))
    except (imagecodecs.JpegxlError, ValueError, RuntimeError) as exc:
        raise Undecodable("the JPEG XL image is damaged or ends early") from exc
    if samples.shape not in ((rows, columns), (rows, columns, 3)):
        raise Undecodable("the JPEG XL image has an unusual layout")
    return samples
