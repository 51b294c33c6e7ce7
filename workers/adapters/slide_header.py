"""What the header of a whole-slide instance says: read without its list of frames, and checked."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from gateway.dicom.elements import ByteSource, read_element
from gateway.dicom.file_meta import encoding_of, read_meta
from gateway.errors import InstanceError
from workers.adapters.slide_codecs import FrameFormat
from workers.errors import StorageUnavailable, Undecodable

PYRAMID = "VOLUME"
"""Value 3 of Image Type of what belongs to the pyramid (PS3.3 C.8.12.4.1.1)."""
MAX_FRAME_PX = 1 << 26
"""Largest frame that is decoded: 200 MB."""
MAX_FRAMES = 50_000_000

_PER_FRAME_GROUPS = 0x52009230
_OPTICAL_PATHS = 0x00480105
_MAX_VALUE_BYTES = 1 << 20
_MAX_OPTICAL_BYTES = 1 << 25  # ICC profiles of 14 MB are met
_MAX_HEADER_BYTES = 1 << 26

# What pydicom raises for values that cannot be read; there is no common base class.
_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    EOFError,
    struct.error,
    InvalidDicomError,
    BytesLengthException,
    InstanceError,
)


# OSError of pydicom, which has no number, and of offsets that no file has.
_NOT_THE_DISK = (None, errno.EINVAL, errno.EOVERFLOW)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Translate what readers raise for damaged input into ``Undecodable``.

    Raises
    ------
    Undecodable
        With ``what`` as the readable reason.
    StorageUnavailable
        The disk does not answer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom remarks on every odd header
            yield
    except OSError as exc:
        if exc.errno in _NOT_THE_DISK:
            raise Undecodable(f"{what} ({type(exc).__name__})") from exc
        raise StorageUnavailable(f"the spool cannot be read ({exc.strerror})") from exc
    except _FAULTS as exc:
        raise Undecodable(f"{what} ({type(exc).__name__})") from exc


@dataclass(frozen=True, kw_only=True)
class SlideHeader:
    """One instance's attributes, without what takes megabytes."""

    dataset: Dataset
    """Attributes up to the list of frames; no ICC profile, no private bulk."""
    transfer_syntax_uid: str
    is_implicit: bool
    rest_offset: int
    """Byte at which the list of frames and the pixel data follow."""

    @property
    def flavour(self) -> str:
        """``VOLUME``, ``LABEL``, ``OVERVIEW``, ``THUMBNAIL``; empty where it is not stated."""
        with reading("its header cannot be read"):
            values = self.dataset.get("ImageType") or ()
            values = (values,) if isinstance(values, str) else tuple(values)
            return str(values[2]).strip().upper() if len(values) > 2 else ""


def read_slide_header(descriptor: int) -> SlideHeader:
    """Read the header of an open file.

    Raises
    ------
    Undecodable
        It is no DICOM file that can be read.
    StorageUnavailable
        The disk does not answer.
    """
    with reading("it cannot be read as DICOM"):
        source = ByteSource(descriptor)
        meta = read_meta(source)
        encoding = encoding_of(meta.transfer_syntax_uid)
        position, kept = meta.data_set_offset, []
        while position + 8 <= source.size:
            head, order = source.peek(position, 4), encoding.byte_order
            tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:], order)
            if tag >= _PER_FRAME_GROUPS:
                break
            element = read_element(source, position, encoding)
            limit = _MAX_OPTICAL_BYTES if tag == _OPTICAL_PATHS else _MAX_VALUE_BYTES
            if element.end - position <= limit:
                kept.append((position, element.end - position))
            position = element.end
        if sum(length for _, length in kept) > _MAX_HEADER_BYTES:
            raise Undecodable("its header is too large")
        content = b"".join(os.pread(descriptor, length, start) for start, length in kept)
        dataset = read_dataset(
            io.BytesIO(content), encoding.is_implicit, encoding.byte_order == "little"
        )
        for path in dataset.get("OpticalPathSequence") or ():
            path.pop("ICCProfile", None)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = UID(meta.sop_class_uid)
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(meta.sop_instance_uid)
        dataset.file_meta.TransferSyntaxUID = UID(meta.transfer_syntax_uid)
        return SlideHeader(
            dataset=dataset,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            is_implicit=encoding.is_implicit,
            rest_offset=position,
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The part of a header that decides how its pixels are read."""

    width: int
    """Total Pixel Matrix Columns."""
    height: int
    """Total Pixel Matrix Rows."""
    form: FrameFormat
    frames: int
    organisation: str
    """``TILED_FULL``, ``TILED_SPARSE``, or what else is stated."""
    spacing_um: tuple[float | None, float | None]
    """Micrometres per pixel along a row and along a column."""
    planes: int
    """Focal planes of a TILED_FULL instance."""
    paths: int
    """Optical paths of a TILED_FULL instance."""
    concatenation: str
    """Concatenation UID; empty without one."""
    first_frame: int | None
    """Concatenation Frame Offset Number."""
    part: int
    """In-concatenation Number."""


def layout_of(dataset: Dataset) -> Layout:
    """Check the attributes that decide how pixels are read.

    Raises
    ------
    Undecodable
        One is missing, impossible or asks for what is not read.
    """
    with reading("its header cannot be read"):
        if _count(dataset, "SamplesPerPixel") != 3:
            raise Undecodable("it is not a colour slide")
        if (_count(dataset, "BitsAllocated"), _count(dataset, "BitsStored", 8)) != (8, 8):
            raise Undecodable("its samples have more than 8 bits")
        form = FrameFormat(
            rows=_count(dataset, "Rows"),
            columns=_count(dataset, "Columns"),
            photometric=str(dataset.get("PhotometricInterpretation") or "RGB").strip().upper(),
            is_planar=dataset.get("PlanarConfiguration") == 1,
        )
        if form.rows * form.columns > MAX_FRAME_PX:
            raise Undecodable(f"frames of {form.columns} x {form.rows} pixels are too large")
        frames = _count(dataset, "NumberOfFrames", 1)
        if frames > MAX_FRAMES:
            raise Undecodable(f"{frames} frames are more than a slide has")
        offset = dataset.get("ConcatenationFrameOffsetNumber")
        return Layout(
            width=_count(dataset, "TotalPixelMatrixColumns"),
            height=_count(dataset, "TotalPixelMatrixRows"),
            form=form,
            frames=frames,
            organisation=str(dataset.get("DimensionOrganizationType") or "").strip().upper(),
            spacing_um=_spacing_um(dataset),
            planes=_count(dataset, "TotalPixelMatrixFocalPlanes", 1),
            paths=_count(dataset, "NumberOfOpticalPaths", 1),
            concatenation=str(dataset.get("ConcatenationUID") or ""),
            first_frame=None if offset is None else int(offset),
            part=_count(dataset, "InConcatenationNumber", 1),
        )


def _count(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None and default is not None:
        return default
    try:
        found = int(value)
    except (TypeError, ValueError):
        found = 0
    if found < 1:
        raise Undecodable(f"its header has no valid {keyword}")
    return found


def _spacing_um(dataset: Dataset) -> tuple[float | None, float | None]:
    """Pixel Spacing (down a column, along a row; millimetres) as (x, y) in micrometres."""
    for groups in dataset.get("SharedFunctionalGroupsSequence") or ():
        for measures in groups.get("PixelMeasuresSequence") or ():
            spacing = measures.get("PixelSpacing")
            if spacing is not None and len(spacing) == 2:
                y_um, x_um = (float(value) * 1000 for value in spacing)
                return x_um, y_um
    return None, None


def volume_um(dataset: Dataset) -> tuple[float, float] | None:
    """Imaged Volume Width and Height in micrometres; None where they are not stated."""
    try:
        with reading("its header cannot be read"):
            width = float(dataset.get("ImagedVolumeWidth") or 0) * 1000
            height = float(dataset.get("ImagedVolumeHeight") or 0) * 1000
    except Undecodable:
        return None
    is_stated = bool(np.isfinite([width, height]).all()) and min(width, height) > 0
    return (width, height) if is_stated else None
