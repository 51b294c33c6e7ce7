"""Whole-slide instances for tests, drawn and written here: any tiling, codec and offset table."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, generate_uid

WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
GLASS, PINK, PURPLE, GREEN = (243, 243, 244), (205, 130, 180), (120, 70, 150), (30, 160, 60)
SYNTAXES = {
    "raw": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "planar": "1.2.840.10008.1.2.1",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg-rgb": "1.2.840.10008.1.2.4.50",
    "j2k": "1.2.840.10008.1.2.4.90",
    "j2k-ybr": "1.2.840.10008.1.2.4.90",
    "jpegls": "1.2.840.10008.1.2.4.80",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
STUDY, SERIES, FRAME_OF_REFERENCE = (f"1.2.826.0.1.3680043.10.511.7.{n}" for n in (1, 2, 3))


def section(width: int, height: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Glass with a block of soft two-coloured tissue in the middle."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), GLASS, np.uint8)
    inside = picture[height // 4 : -height // 4, width // 4 : -width // 4]
    coarse = rng.random((-(-inside.shape[0] // 8), -(-inside.shape[1] // 8))) < 0.3
    nuclei = coarse.repeat(8, axis=0).repeat(8, axis=1)[: inside.shape[0], : inside.shape[1]]
    inside[:] = np.where(nuclei[..., np.newaxis], PURPLE, PINK)
    return picture


def cut(picture: NDArray[np.uint8], tile: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Tiles of a picture, row by row; what lies beyond its edge is grey, never seen."""
    (height, width), (across, down) = picture.shape[:2], tile
    rows, columns = -(-height // down), -(-width // across)
    padded = np.full((rows * down, columns * across, 3), 99, np.uint8)
    padded[:height, :width] = picture
    return [
        padded[r * down : (r + 1) * down, c * across : (c + 1) * across]
        for r in range(rows)
        for c in range(columns)
    ]


def encode(tile: NDArray[np.uint8], codec: str) -> bytes:
    """One encoded frame."""
    if codec in ("raw", "implicit"):
        return tile.tobytes()
    if codec == "planar":
        return np.ascontiguousarray(np.moveaxis(tile, -1, 0)).tobytes()
    if codec == "jpeg":
        return imagecodecs.jpeg8_encode(tile, level=90, subsampling="422")
    if codec == "jpeg-rgb":
        return imagecodecs.jpeg8_encode(tile, level=90, colorspace="rgb", outcolorspace="rgb")
    if codec == "jpegls":
        return imagecodecs.jpegls_encode(tile)
    if codec == "htj2k":
        return imagecodecs.htj2k_encode(tile)
    return imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", mct=codec == "j2k")


@dataclass(kw_only=True)
class Level:
    """One instance of a pyramid; what is not given is an ordinary TILED_FULL level."""

    picture: NDArray[np.uint8]
    um_px: float | None = 0.5
    tile: tuple[int, int] = (256, 256)
    codec: str = "jpeg"
    photometric: str = ""
    table: str = "basic"
    """``basic``, ``extended``, ``none``, or ``wrong``."""
    fragments: int = 1
    """Fragments of each frame."""
    places: Sequence[tuple[int, int]] | None = None
    """(column, row) of the frames of a TILED_SPARSE instance, 0-based."""
    frames: list[bytes] | None = None
    """Encoded frames in place of those cut from the picture."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Attributes to set; None to delete."""

    def write(self, path: Path) -> Path:
        """Write the instance."""
        frames = self.frames if self.frames is not None else self._frames()
        dataset = self._header(path, len(frames))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES[self.codec])
        for keyword, value in self.changes.items():
            if value is None:
                dataset.pop(keyword, None)
            elif keyword == "TransferSyntaxUID":
                dataset.file_meta.TransferSyntaxUID = UID(value)
            else:
                setattr(dataset, keyword, value)
        is_raw = self.codec in ("raw", "planar", "implicit")
        dataset.PixelData = b"".join(frames) if is_raw else self._encapsulated(dataset, frames)
        dataset["PixelData"].VR = "OW" if self.codec == "implicit" else "OB"
        dataset["PixelData"].is_undefined_length = not is_raw
        dataset.save_as(path, enforce_file_format=True)
        return path

    def _frames(self) -> list[bytes]:
        if self.places is None:
            return [encode(tile, self.codec) for tile in cut(self.picture, self.tile)]
        across, down = self.tile
        width, height = self.picture.shape[1], self.picture.shape[0]
        padded = np.full((height + 2 * down, width + 2 * across, 3), 99, np.uint8)
        padded[down : down + height, across : across + width] = self.picture
        return [
            encode(
                padded[row + down : row + 2 * down, column + across : column + 2 * across],
                self.codec,
            )
            for column, row in self.places
        ]

    def _encapsulated(self, dataset: Dataset, frames: Sequence[bytes]) -> bytes:
        items, offsets, position = [], [], 0
        for frame in frames:
            offsets.append(position)
            step = -(-len(frame) // self.fragments // 2) * 2 + 2
            if self.fragments == 1:
                step = max(len(frame), 1)
            for start in range(0, max(len(frame), 1), step):
                piece = frame[start : start + step]
                piece += b"\0" * (len(piece) % 2)
                items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece)
                position += len(items[-1])
        table = b""
        if self.table in ("basic", "wrong"):
            shift = 2 if self.table == "wrong" else 0
            table = struct.pack(f"<{len(offsets)}I", *(each + shift for each in offsets))
        if self.table == "extended":
            dataset.ExtendedOffsetTable = struct.pack(f"<{len(offsets)}Q", *offsets)
            lengths = [len(frame) for frame in frames]
            dataset.ExtendedOffsetTableLengths = struct.pack(f"<{len(lengths)}Q", *lengths)
        # pydicom adds the delimiter.
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table + b"".join(items)

    def _header(self, path: Path, frames: int) -> Dataset:
        height, width = self.picture.shape[:2]
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = WSI_CLASS, generate_uid(entropy_srcs=[path.name])
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
        ds.FrameOfReferenceUID, ds.Modality = FRAME_OF_REFERENCE, "SM"
        ds.PatientID, ds.PatientName = "1", "Test"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        ds.Rows, ds.Columns = self.tile[1], self.tile[0]
        ds.NumberOfFrames = frames
        ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
        ds.TotalPixelMatrixFocalPlanes = ds.NumberOfOpticalPaths = 1
        ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 1 if self.codec == "planar" else 0
        ds.PhotometricInterpretation = self.photometric or _photometric(self.codec)
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.ContainerIdentifier = "S1"
        ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        ds.TotalPixelMatrixOriginSequence = Items(
            [_item(XOffsetInSlideCoordinateSystem=10.0, YOffsetInSlideCoordinateSystem=20.0)]
        )
        light = _item(
            CodeValue="111744", CodingSchemeDesignator="DCM", CodeMeaning="Brightfield illumination"
        )
        ds.OpticalPathSequence = Items(
            [
                _item(
                    OpticalPathIdentifier="1",
                    ICCProfile=b"profile!",
                    IlluminationTypeCodeSequence=Items([light]),
                )
            ]
        )
        shared = Dataset()
        if self.um_px is not None:
            shared.PixelMeasuresSequence = Items(
                [_item(PixelSpacing=[self.um_px / 1000] * 2, SliceThickness=0.001)]
            )
            ds.ImagedVolumeWidth = width * self.um_px / 1000
            ds.ImagedVolumeHeight = height * self.um_px / 1000
        ds.SharedFunctionalGroupsSequence = Items([shared])
        ds.DimensionOrganizationType = "TILED_FULL" if self.places is None else "TILED_SPARSE"
        if self.places is not None:
            ds.PerFrameFunctionalGroupsSequence = Items(map(_place, self.places))
        return ds


def _photometric(codec: str) -> str:
    return {"jpeg": "YBR_FULL_422", "j2k": "YBR_RCT", "htj2k": "YBR_RCT"}.get(codec, "RGB")


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _place(place: tuple[int, int]) -> Dataset:
    plane = _item(
        XOffsetInSlideCoordinateSystem=0.0,
        YOffsetInSlideCoordinateSystem=0.0,
        ZOffsetInSlideCoordinateSystem=0.0,
        ColumnPositionInTotalImagePixelMatrix=place[0] + 1,
        RowPositionInTotalImagePixelMatrix=place[1] + 1,
    )
    return _item(
        FrameContentSequence=Items([_item(DimensionIndexValues=[1, 1])]),
        PlanePositionSlideSequence=Items([plane]),
        OpticalPathIdentificationSequence=Items([_item(OpticalPathIdentifier="1")]),
    )


def reduced(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The next coarser level of a picture whose sides the factor divides."""
    height, width = picture.shape[:2]
    blocks = picture.reshape(height // factor, factor, width // factor, factor, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def names(paths: Iterable[Path]) -> list[str]:
    """Paths as the spool knows them."""
    return [path.name for path in paths]
