"""Received instances as headers and 8-bit RGB arrays, through pydicom and OpenCV.

Tolerant of what other good readers accept, strict about what would show another image than was
sent: an image that is truncated or contradicts its header is *undecodable*, not guessed at. ICC
profiles are not applied.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from gateway.faults import failpoint
from gateway.listener.acceptance import JPEG_XL_SYNTAXES
from workers.adapters.jpeg import (
    decode_8_bit,
    decode_12_bit,
    has_j2k_component_transform,
    read_jpeg_facts,
)
from workers.adapters.jpeg_xl import decode_jpeg_xl
from workers.adapters.photometric import to_rgb
from workers.errors import InstanceMissing, StorageUnavailable, Undecodable

MAX_PIXELS = 200_000_000
"""Largest image that is decoded: 600 MB as RGB. A header can promise 4,294,836,225 pixels."""

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_PIXEL_DATA_TAG = 0x7FE00010
_LONG_VR = (b"OB", b"OW", b"UN", b"OL", b"OV", b"OD", b"OF")

# What pydicom and the codecs under it raise for damaged input; there is no common base class.
_DECODER_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    cv2.error,
    InvalidDicomError,
    BytesLengthException,
)


class SpoolInstances:
    """Reads instances from the spool; implements ``workers.ports.InstanceSource``."""

    def __init__(self, spool: Path, *, max_pixels: int = MAX_PIXELS) -> None:
        self._spool = spool
        self._max_pixels = max_pixels

    def header(self, path: str) -> Dataset:
        """Return every attribute but Pixel Data."""
        with self._open(path) as stream:
            return _read_header(stream)

    def pixels(self, path: str) -> NDArray[np.uint8]:
        """Return the first frame as (H, W, 3) uint8 RGB."""
        with self._open(path) as stream:
            header = _read_header(stream)
            # Not only decoding fails: a damaged header shows when a value of it is looked at.
            with _translated(f"its {_syntax_name(header)} pixel data cannot be decoded"):
                failpoint("worker.input_read")
                _complete(header)
                _check_size(header, self._max_pixels)
                value, value_representation = _pixel_data(stream, header)
                frame = _first_frame(value, header)
                pixels = _decode(frame, header, value_representation)
                expected = (header.Rows, header.Columns, 3)
        if pixels.shape != expected:
            raise Undecodable(
                f"its pixel data has shape {pixels.shape}, its header says {expected}"
            )
        return pixels

    def _open(self, path: str) -> BinaryIO:
        try:
            return (self._spool / path).open("rb")
        except FileNotFoundError as exc:
            raise InstanceMissing("a received file is not in the spool any more") from exc
        except OSError as exc:
            raise StorageUnavailable(f"the spool cannot be read ({exc.strerror})") from exc


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on every odd header
            yield
    except _DECODER_FAULTS as exc:
        if isinstance(exc, OSError) and exc.errno:  # the disk's; those of decoders have no number
            raise StorageUnavailable(f"the spool cannot be read ({exc.strerror})") from exc
        raise Undecodable(f"{what} ({type(exc).__name__})") from exc


def _read_header(stream: BinaryIO) -> Dataset:
    """Read up to Pixel Data; the stream is left at its tag."""
    with _translated("it cannot be read as DICOM"):
        header = dcmread(stream, stop_before_pixels=True)
        if not isinstance(header.file_meta.get("TransferSyntaxUID"), UID):
            raise Undecodable("its transfer syntax is missing")
    return header


def _syntax_name(header: Dataset) -> str:
    name: str = header.file_meta.TransferSyntaxUID.name
    return name if name[:1].isalpha() else "unknown"  # an unknown UID is its own name


def _complete(header: Dataset) -> None:
    """Supply the defaults that careless writers leave out, or say what cannot be supplied."""
    for keyword in ("Rows", "Columns"):
        value = header.get(keyword)
        if not isinstance(value, int) or value < 1:
            raise Undecodable(f"its header has no valid {keyword}")
    if header.get("BitsAllocated") not in (8, 16):
        raise Undecodable("its header has no Bits Allocated of 8 or 16")
    samples = header.get("SamplesPerPixel") or 1
    if samples not in (1, 3):
        raise Undecodable(f"images of {samples} samples per pixel are not read")
    header.SamplesPerPixel = samples
    if not isinstance(header.get("BitsStored"), int):
        header.BitsStored = header.BitsAllocated
    if header.get("PixelRepresentation") not in (0, 1):
        header.PixelRepresentation = 0
    photometric = str(header.get("PhotometricInterpretation") or "").strip().upper()
    if samples == 1 and photometric not in ("MONOCHROME1", "PALETTE COLOR"):
        photometric = "MONOCHROME2"
    if samples == 3 and photometric in ("", "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        photometric = "RGB"
    header.PhotometricInterpretation = photometric
    if samples == 3 and header.get("PlanarConfiguration") not in (0, 1):
        header.PlanarConfiguration = 0


def _check_size(header: Dataset, max_pixels: int) -> None:
    if header.Rows * header.Columns > max_pixels:
        raise Undecodable(
            f"an image of {header.Rows} x {header.Columns} pixels is too large to be decoded"
        )


def _frames(header: Dataset) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def _pixel_data(stream: BinaryIO, header: Dataset) -> tuple[BinaryIO, str]:
    """Return a stream that is at the value of Pixel Data, and its VR."""
    syntax: UID = header.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        # One stream holds the whole data set (PS3.5 A.5); the listener has bounded its size.
        stream.seek(0)
        element = dcmread(stream).get(_PIXEL_DATA_TAG)
        if element is None:
            raise Undecodable("it holds no pixel data")
        return io.BytesIO(element.value), str(element.VR)
    return stream, _seek_value(stream, syntax)


def _seek_value(stream: BinaryIO, syntax: UID) -> str:
    """Go from the tag of Pixel Data, where pydicom stopped, to its value; return its VR."""
    start = stream.read(12)
    tag = start[:4] if syntax != ExplicitVRBigEndian else start[1::-1] + start[3:1:-1]
    if tag != _PIXEL_DATA:
        raise Undecodable("it holds no pixel data")
    is_explicit = syntax != ImplicitVRLittleEndian and start[4:6] in _LONG_VR
    if not is_explicit:
        stream.seek(-4, 1)  # the header of this element has 8 bytes
    # PS3.5 A.1: implicit VR means OW.
    return "OB" if is_explicit and start[4:6] == b"OB" else "OW"


def _first_frame(stream: BinaryIO, header: Dataset) -> bytes:
    """Return the bytes of the first frame, encoded as they are; nothing beyond it is read."""
    if _is_compressed(header.file_meta.TransferSyntaxUID):
        try:
            frame: bytes = get_frame(
                stream,
                0,
                number_of_frames=_frames(header),
                extended_offsets=_extended_offsets(header),
            )
        except (ValueError, IndexError, EOFError, struct.error, KeyError, StopIteration) as exc:
            raise Undecodable("its compressed pixel data is damaged or incomplete") from exc
        return frame
    bits = header.Rows * header.Columns * header.SamplesPerPixel * header.BitsAllocated
    if header.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    length = (bits + 7) // 8
    # Whole 16-bit words: a big-endian file has them swapped, the last byte's too (PS3.5 8.1.1).
    frame = stream.read(length + length % 2)
    if len(frame) < length:
        raise Undecodable("its pixel data ends early")
    return frame


def _is_compressed(syntax: UID) -> bool:
    return syntax in JPEG_XL_SYNTAXES or syntax.is_compressed


def _extended_offsets(header: Dataset) -> tuple[bytes, bytes] | None:
    offsets, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths else None


def _decode(frame: bytes, header: Dataset, value_representation: str) -> NDArray[np.uint8]:
    syntax: UID = header.file_meta.TransferSyntaxUID
    photometric = str(header.PhotometricInterpretation)
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        pixels = _decode_dct(frame, header)
        if pixels is not None:
            return pixels if pixels.ndim == 3 else to_rgb(pixels, photometric, header)
    if syntax in JPEG_XL_SYNTAXES:
        return to_rgb(
            decode_jpeg_xl(frame, header.Rows, header.Columns),
            photometric if header.SamplesPerPixel == 1 else "RGB",
            header,
        )
    single = _single_frame(frame, header, value_representation)
    options = as_pixel_options(single, view_only=True)
    samples, properties = get_decoder(syntax).as_array(single, index=0, raw=True, **options)
    if samples.ndim == 3:
        photometric = str(properties["photometric_interpretation"])
    if samples.ndim == 3 and syntax in JPEG2000TransferSyntaxes:
        is_ybr = photometric.startswith("YBR_FULL") and not has_j2k_component_transform(frame)
        photometric = "YBR_FULL" if is_ybr else "RGB"
    return to_rgb(samples, photometric, header)


def _decode_dct(frame: bytes, header: Dataset) -> NDArray[Any] | None:
    """Decode an 8-bit JPEG, or a grey one of 12 bits; None when it is of another kind."""
    facts = read_jpeg_facts(frame)
    if facts is None or not (facts.is_8_bit_dct or facts.is_12_bit_grey_dct):
        return None
    # Rows of 0 mean that a DNL segment gives the height after the first scan.
    if facts.rows and (facts.rows, facts.columns) != (header.Rows, header.Columns):
        raise Undecodable(
            f"its JPEG image has {facts.rows} x {facts.columns} pixels, its header says "
            f"{header.Rows} x {header.Columns}"
        )
    count = len(facts.component_ids)
    if count not in (1, 3):
        raise Undecodable(f"JPEG images of {count} components are not read")
    if facts.is_12_bit_grey_dct:
        return decode_12_bit(frame)
    is_rgb = header.PhotometricInterpretation == "RGB"
    return decode_8_bit(frame, facts, declared_rgb=is_rgb)


def _single_frame(frame: bytes, header: Dataset, value_representation: str) -> Dataset:
    """Return a data set that holds this frame alone, so that nothing else is decoded."""
    syntax: UID = header.file_meta.TransferSyntaxUID
    single = Dataset()
    for element in header.group_dataset(0x0028):
        single.add(element)
    single.file_meta = header.file_meta
    single.NumberOfFrames = 1
    single.set_original_encoding(
        is_implicit_vr=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian
    )
    single.PixelData = encapsulate([frame]) if syntax.is_compressed else frame
    single["PixelData"].VR = "OB" if syntax.is_compressed else value_representation
    return single
