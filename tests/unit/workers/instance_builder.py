"""Builds image instances in every shape that a camera or a careless converter writes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.7"


def picture(rows: int = 48, columns: int = 64, seed: int = 7) -> NDArray[np.uint8]:
    """Return a smooth colour image, so that lossy codecs change it little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(30, 226, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC))


def instance(pixels: NDArray[Any] | None = None, **changes: Any) -> Dataset:
    """Return an uncompressed instance of (H, W, 3) RGB or (H, W) grey; ``None`` deletes."""
    if pixels is None:
        pixels = picture()
    bits = 8 * pixels.dtype.itemsize
    ds = Dataset()
    ds.SOPClassUID = DERMOSCOPIC_PHOTOGRAPHY
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.10.511.9.1"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.10.511.9.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.511.9.3"
    ds.Modality = "DMS"
    ds.PatientName = "Canary^Patient"
    ds.PatientID = "CANARY-ID"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = bits
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = padded(pixels.tobytes())
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    return changed(ds, **changes)


def encapsulated(
    frame: bytes, transfer_syntax_uid: str = JPEGBaseline8Bit, **changes: Any
) -> Dataset:
    """Return an instance of ``picture()``'s size that holds one compressed frame."""
    ds = instance()
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.PhotometricInterpretation = "YBR_FULL_422"
    return changed(ds, **changes)


def changed(ds: Dataset, **changes: Any) -> Dataset:
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def padded(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    """Return a JFIF file as Pillow writes it: YCbCr, quality 95."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **{"quality": 95, **options})
    return stream.getvalue()


def jpeg_without_jfif(frame: bytes) -> bytes:
    """Remove the APP0 segment, the only thing that says which colour space the frame has."""
    assert frame[2:4] == b"\xff\xe0"
    length = int.from_bytes(frame[4:6], "big")
    return frame[:2] + frame[4 + length :]


def rgb_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return a JPEG whose components are R, G and B, without a marker that says so."""
    return jpeg_without_jfif(
        jpeg_of_components(Image.merge("YCbCr", Image.fromarray(pixels).split()))
    )


def jpeg_of_components(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def with_app14(frame: bytes, transform: int) -> bytes:
    """Insert an Adobe marker after SOI."""
    segment = b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return frame[:2] + b"\xff\xee" + (len(segment) + 2).to_bytes(2, "big") + segment + frame[2:]


def write(folder: Path, ds: Dataset, name: str = "a.dcm") -> str:
    """Write an instance; return its path relative to the folder."""
    dcmwrite(folder / name, ds, enforce_file_format=True)
    return name
