"""Whatever the listener takes of a photograph, the workers read; what lies, they refuse."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import compress
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from gateway.listener import acceptance
from tests.unit.workers.instance_builder import encapsulated, instance, picture, write
from workers.adapters.instances import SpoolInstances
from workers.adapters.jpeg_xl import read_jpeg_xl_size
from workers.errors import Undecodable

Pixels = NDArray[np.uint8]


def _rle(pixels: Pixels) -> bytes:
    ds = instance(pixels)
    compress(ds, RLELossless, generate_instance_uid=False)
    return get_frame(ds.PixelData, 0, number_of_frames=1)


def _recompressed(pixels: Pixels) -> bytes:
    return imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(pixels, level=95))


ENCODERS: dict[str, Callable[[Pixels], bytes]] = {
    acceptance.JPEG_BASELINE: lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95),
    acceptance.JPEG_EXTENDED: lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95),
    acceptance.JPEG_LOSSLESS: lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True),
    acceptance.JPEG_LOSSLESS_SV1: lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True),
    acceptance.JPEG_LS_LOSSLESS: imagecodecs.jpegls_encode,
    acceptance.JPEG_LS_NEAR_LOSSLESS: lambda pixels: imagecodecs.jpegls_encode(pixels, level=2),
    acceptance.JPEG_2000_LOSSLESS: lambda pixels: imagecodecs.jpeg2k_encode(
        pixels, level=0, codecformat="j2k"
    ),
    acceptance.JPEG_2000: lambda pixels: imagecodecs.jpeg2k_encode(
        pixels, level=60, codecformat="j2k"
    ),
    acceptance.HTJ2K_LOSSLESS: imagecodecs.htj2k_encode,
    acceptance.HTJ2K_LOSSLESS_RPCL: imagecodecs.htj2k_encode,
    acceptance.HTJ2K: imagecodecs.htj2k_encode,
    acceptance.JPEG_XL_LOSSLESS: lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True),
    acceptance.JPEG_XL_JPEG_RECOMPRESSION: _recompressed,
    acceptance.JPEG_XL: lambda pixels: imagecodecs.jpegxl_encode(pixels, distance=1.0),
    acceptance.RLE_LOSSLESS: _rle,
}
UNCOMPRESSED = (*acceptance.NATIVE_SYNTAXES, *acceptance.DEFLATED_SYNTAXES)
REVERSIBLE = (*acceptance.REVERSIBLE_SYNTAXES, *UNCOMPRESSED, acceptance.JPEG_XL_LOSSLESS)


def sent_as(syntax: str, pixels: Pixels) -> Dataset:
    if syntax in UNCOMPRESSED:
        ds = instance(pixels)
        ds.file_meta.TransferSyntaxUID = syntax
        return ds
    is_ycbcr = syntax in (acceptance.JPEG_BASELINE, acceptance.JPEG_EXTENDED)
    return encapsulated(
        ENCODERS[syntax](pixels),
        syntax,
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        SamplesPerPixel=3 if pixels.ndim == 3 else 1,
        PhotometricInterpretation="MONOCHROME2"
        if pixels.ndim == 2
        else ("YBR_FULL_422" if is_ycbcr else "RGB"),
    )


def filed(folder: Path, ds: Dataset) -> str:
    """Write an instance; JPEG XL, whose names pydicom does not know, under a UID as long."""
    syntax = str(ds.file_meta.TransferSyntaxUID)
    if syntax not in acceptance.JPEG_XL_SYNTAXES:
        return write(folder, ds)
    ds.file_meta.TransferSyntaxUID = acceptance.HTJ2K
    name = write(folder, ds)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(acceptance.HTJ2K.encode(), syntax.encode(), 1))
    return name


@pytest.mark.parametrize("is_colour", [True, False])
@pytest.mark.parametrize("syntax", acceptance.IMAGE_SYNTAXES)
def test_every_syntax_that_is_taken_is_read(tmp_path: Path, syntax: str, is_colour: bool) -> None:
    pixels = picture() if is_colour else np.ascontiguousarray(picture()[..., 1])
    found = SpoolInstances(tmp_path).pixels(filed(tmp_path, sent_as(syntax, pixels)))
    wanted = pixels if is_colour else np.repeat(pixels[..., None], 3, axis=2)
    assert found.shape == wanted.shape
    error = np.abs(found.astype(int) - wanted).mean()
    assert error == 0 if syntax in REVERSIBLE else error < 3


def test_a_deflated_image_of_16_bits_is_read(tmp_path: Path) -> None:
    ds = instance(picture()[..., 0].astype(np.uint16) * 257)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found = SpoolInstances(tmp_path).pixels(write(tmp_path, ds))
    assert np.array_equal(found[..., 0], picture()[..., 0])


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_deflated_image_that_ends_early_is_refused(tmp_path: Path, kept: float) -> None:
    ds = sent_as(DeflatedExplicitVRLittleEndian, picture())
    name = write(tmp_path, ds)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(Undecodable):
        SpoolInstances(tmp_path).pixels(name)


def test_a_deflated_header_without_an_image_says_so(tmp_path: Path) -> None:
    ds = sent_as(DeflatedExplicitVRLittleEndian, picture())
    del ds.PixelData
    with pytest.raises(Undecodable, match="no pixel data"):
        SpoolInstances(tmp_path).pixels(write(tmp_path, ds))


class TestTwelveBitJpeg:
    @staticmethod
    def sent(frame: bytes) -> Dataset:
        return encapsulated(
            frame,
            acceptance.JPEG_EXTENDED,
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            BitsAllocated=16,
            BitsStored=12,
            HighBit=11,
        )

    @staticmethod
    def frame() -> bytes:
        grey = picture()[..., 0].astype(np.uint16) * 16
        return imagecodecs.jpeg8_encode(grey, level=98, bitspersample=12)

    @pytest.mark.parametrize("padding", [b"", b"\0", b"\xff"], ids=["none", "0", "ff"])
    def test_grey_is_read(self, tmp_path: Path, padding: bytes) -> None:
        frame = self.frame() + padding
        found = SpoolInstances(tmp_path).pixels(write(tmp_path, self.sent(frame)))
        assert np.abs(found[..., 0].astype(int) - picture()[..., 0]).max() <= 3

    @pytest.mark.parametrize("damage", [lambda f: f[: len(f) // 2], lambda f: f[:-1]], ids=[0, 1])
    def test_damage_is_refused(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        with pytest.raises(Undecodable):
            SpoolInstances(tmp_path).pixels(write(tmp_path, self.sent(damage(self.frame()))))


class TestJpegXl:
    @pytest.mark.parametrize(
        "shape", [(8, 8), (256, 256), (48, 64), (17, 4000), (600, 450), (3, 70_000), (120, 100)]
    )
    def test_size_is_read_without_decoding(self, shape: tuple[int, int]) -> None:
        frame = imagecodecs.jpegxl_encode(np.zeros((*shape, 3), np.uint8), effort=1)
        assert read_jpeg_xl_size(frame) == shape
        contained = imagecodecs.jpegxl_encode(
            np.zeros((*shape, 3), np.uint8), effort=1, usecontainer=True
        )
        assert contained != frame
        assert read_jpeg_xl_size(contained) == shape

    def test_more_than_the_header_announced_is_not_decoded(self, tmp_path: Path) -> None:
        frame = imagecodecs.jpegxl_encode(np.zeros((6000, 6000, 3), np.uint8), effort=1)
        name = filed(tmp_path, encapsulated(frame, acceptance.JPEG_XL))
        tracemalloc.start()
        with pytest.raises(Undecodable, match="6000 x 6000 pixels, its header says 48 x 64"):
            SpoolInstances(tmp_path).pixels(name)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda f: f[:1],
            lambda f: f[:3],
            lambda f: f[: len(f) // 2],
            lambda f: b"\0" * len(f),
            lambda f: b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 40,
            lambda f: b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x08free",
            lambda f: f[:20] + bytes(255 - byte for byte in f[20:]),
        ],
        ids=range(7),
    )
    def test_damage_is_refused(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        frame = ENCODERS[acceptance.JPEG_XL_LOSSLESS](picture())
        name = filed(tmp_path, encapsulated(damage(frame), acceptance.JPEG_XL_LOSSLESS))
        with pytest.raises(Undecodable):
            SpoolInstances(tmp_path).pixels(name)
