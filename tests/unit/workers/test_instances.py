"""Decoding: what comes out is the image that was sent, or a reason why not."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import compress
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.unit.workers.instance_builder import (
    changed,
    encapsulated,
    instance,
    jpeg,
    jpeg_of_components,
    jpeg_without_jfif,
    picture,
    rgb_jpeg,
    with_app14,
    write,
)
from workers.adapters.instances import SpoolInstances
from workers.errors import InstanceMissing, StorageUnavailable, Undecodable


def decode(folder: Path, ds: Dataset) -> NDArray[np.uint8]:
    pixels = SpoolInstances(folder).pixels(write(folder, ds))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels


def distance(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


class TestNative:
    def test_rgb_is_taken_as_it_is(self, tmp_path: Path) -> None:
        assert np.array_equal(decode(tmp_path, instance()), picture())

    def test_planar_configuration_1_is_interleaved(self, tmp_path: Path) -> None:
        ds = instance(PlanarConfiguration=1)
        ds.PixelData = picture().transpose(2, 0, 1).tobytes()
        assert np.array_equal(decode(tmp_path, ds), picture())

    @pytest.mark.parametrize("rows", [3, 4])
    @pytest.mark.parametrize("representation", ["OB", "OW"])
    def test_big_endian_bytes_come_in_the_right_order(
        self, tmp_path: Path, rows: int, representation: str
    ) -> None:
        pixels = picture(rows, 3)
        ds = instance(pixels)
        data = ds.PixelData
        if representation == "OW":
            data = np.frombuffer(data, "u2").byteswap().tobytes()
        ds.PixelData = data
        ds["PixelData"].VR = representation
        name = write(tmp_path, changed_syntax(ds, ExplicitVRBigEndian))
        # pydicom writes bytes as they are: what is on disk is what a big-endian writer makes.
        assert np.array_equal(SpoolInstances(tmp_path).pixels(name), pixels)

    def test_big_endian_16_bit_samples(self, tmp_path: Path) -> None:
        samples = picture().astype(np.uint16) * 257
        ds = changed_syntax(instance(samples), ExplicitVRBigEndian)
        ds.PixelData = samples.astype(">u2").tobytes()
        assert np.array_equal(decode(tmp_path, ds), picture())

    def test_implicit_vr(self, tmp_path: Path) -> None:
        assert np.array_equal(
            decode(tmp_path, changed_syntax(instance(), ImplicitVRLittleEndian)), picture()
        )

    def test_ybr_full_is_converted(self, tmp_path: Path) -> None:
        ybr = np.asarray(Image.fromarray(picture()).convert("YCbCr"))
        found = decode(tmp_path, instance(ybr, PhotometricInterpretation="YBR_FULL"))
        assert np.abs(found.astype(int) - picture()).max() <= 3

    def test_ybr_full_422_has_half_the_chrominance(self, tmp_path: Path) -> None:
        ybr = np.asarray(Image.fromarray(picture()).convert("YCbCr"))
        packed = np.empty((48, 32, 4), np.uint8)
        packed[..., 0], packed[..., 1] = ybr[:, 0::2, 0], ybr[:, 1::2, 0]
        packed[..., 2], packed[..., 3] = ybr[:, 0::2, 1], ybr[:, 0::2, 2]
        ds = instance(PhotometricInterpretation="YBR_FULL_422")
        ds.PixelData = packed.tobytes()
        assert distance(decode(tmp_path, ds), picture()) < 6

    def test_only_the_first_frame_is_read(self, tmp_path: Path) -> None:
        ds = instance(NumberOfFrames=3)
        other = 255 - picture()
        ds.PixelData = picture().tobytes() + other.tobytes() * 2
        assert np.array_equal(decode(tmp_path, ds), picture())

    @pytest.mark.parametrize(
        "keyword", ["PlanarConfiguration", "BitsStored", "PixelRepresentation", "HighBit"]
    )
    def test_missing_attribute_with_an_obvious_value_is_supplied(
        self, tmp_path: Path, keyword: str
    ) -> None:
        assert np.array_equal(decode(tmp_path, instance(**{keyword: None})), picture())

    @pytest.mark.parametrize("photometric", [None, "MONOCHROME2", ""])
    def test_three_samples_that_are_not_declared_colour_are_rgb(
        self, tmp_path: Path, photometric: str | None
    ) -> None:
        ds = instance(PhotometricInterpretation=photometric)
        assert np.array_equal(decode(tmp_path, ds), picture())


def changed_syntax(ds: Dataset, transfer_syntax_uid: str) -> Dataset:
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return ds


class TestGrey:
    def test_8_bit_is_repeated_in_three_channels(self, tmp_path: Path) -> None:
        grey = picture()[..., 0]
        found = decode(tmp_path, instance(np.ascontiguousarray(grey)))
        assert np.array_equal(found, np.repeat(grey[..., None], 3, axis=2))

    def test_monochrome1_is_inverted(self, tmp_path: Path) -> None:
        grey = np.ascontiguousarray(picture()[..., 0])
        found = decode(tmp_path, instance(grey, PhotometricInterpretation="MONOCHROME1"))
        assert np.array_equal(found[..., 0], 255 - grey)

    def test_12_of_16_bits_use_their_own_range(self, tmp_path: Path) -> None:
        grey = np.array([[0, 2048, 4095]], np.uint16)
        found = decode(tmp_path, instance(grey, BitsStored=12, HighBit=11))
        assert found[0, :, 0].tolist() == [0, 128, 255]

    def test_signed_samples(self, tmp_path: Path) -> None:
        grey = np.array([[-32768, 0, 32767]], np.int16)
        assert decode(tmp_path, instance(grey))[0, :, 0].tolist() == [0, 128, 255]

    def test_window_is_applied_after_the_rescale(self, tmp_path: Path) -> None:
        grey = np.array([[0, 100, 150, 200, 65535]], np.uint16)
        ds = instance(
            grey, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[200, 1], WindowWidth=[201, 1]
        )
        # PS3.3 C.11.2.1.2.1: x = 2 v - 100; y = ((x - 199.5) / 200 + 0.5) * 255
        expected = [0, round((0.5 + (100 - 199.5) / 200) * 255), 128, 255, 255]
        assert decode(tmp_path, ds)[0, :, 0].tolist() == expected

    def test_one_sample_declared_rgb_is_grey(self, tmp_path: Path) -> None:
        grey = np.ascontiguousarray(picture()[..., 0])
        found = decode(tmp_path, instance(grey, PhotometricInterpretation="RGB"))
        assert np.array_equal(found[..., 1], grey)


class TestPalette:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_colours_are_looked_up(self, tmp_path: Path, bits: int) -> None:
        indices = np.array([[0, 1], [2, 1]], np.uint8)
        ds = instance(indices, PhotometricInterpretation="PALETTE COLOR")
        colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 128]])
        for channel, name in enumerate(("Red", "Green", "Blue")):
            values = colours[:, channel] * (257 if bits == 16 else 1)
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [3, 0, bits])
            data = values.astype("<u2" if bits == 16 else "u1").tobytes()
            setattr(ds, f"{name}PaletteColorLookupTableData", data + b"\0" * (len(data) % 2))
        assert np.array_equal(decode(tmp_path, ds), colours[indices])

    def test_missing_palette_has_a_reason(self, tmp_path: Path) -> None:
        ds = instance(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR")
        with pytest.raises(Undecodable, match="palette"):
            decode(tmp_path, ds)


class TestJpeg:
    @pytest.mark.parametrize("declared", ["YBR_FULL_422", "YBR_FULL", "RGB", None])
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_jfif_is_ycbcr_whatever_is_declared(
        self, tmp_path: Path, declared: str | None, subsampling: int
    ) -> None:
        ds = encapsulated(
            jpeg(picture(), subsampling=subsampling), PhotometricInterpretation=declared
        )
        assert distance(decode(tmp_path, ds), picture()) < 2

    @pytest.mark.parametrize("declared", ["YBR_FULL_422", "RGB"])
    def test_subsampled_without_a_marker_is_ycbcr(self, tmp_path: Path, declared: str) -> None:
        frame = jpeg_without_jfif(jpeg(picture(), subsampling=2))
        ds = encapsulated(frame, PhotometricInterpretation=declared)
        assert distance(decode(tmp_path, ds), picture()) < 2

    def test_unmarked_components_follow_the_declaration(self, tmp_path: Path) -> None:
        frame = rgb_jpeg(picture())
        assert (
            distance(
                decode(tmp_path, encapsulated(frame, PhotometricInterpretation="RGB")), picture()
            )
            < 2
        )
        frame = jpeg_without_jfif(jpeg(picture(), subsampling=0))
        ds = encapsulated(frame, PhotometricInterpretation="YBR_FULL")
        assert distance(decode(tmp_path, ds), picture()) < 2

    @pytest.mark.parametrize("declared", ["YBR_FULL_422", "RGB"])
    def test_adobe_marker_wins(self, tmp_path: Path, declared: str) -> None:
        frame = with_app14(rgb_jpeg(picture()), transform=0)
        ds = encapsulated(frame, PhotometricInterpretation=declared)
        assert distance(decode(tmp_path, ds), picture()) < 2
        frame = with_app14(jpeg_without_jfif(jpeg(picture(), subsampling=0)), transform=1)
        ds = encapsulated(frame, PhotometricInterpretation=declared)
        assert distance(decode(tmp_path, ds), picture()) < 2

    def test_exif_orientation_is_ignored(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        found = decode(tmp_path, encapsulated(jpeg(picture(), exif=exif)))
        assert distance(found, picture()) < 2

    def test_progressive(self, tmp_path: Path) -> None:
        assert (
            distance(decode(tmp_path, encapsulated(jpeg(picture(), progressive=True))), picture())
            < 2
        )

    def test_grey_jpeg_in_a_colour_header(self, tmp_path: Path) -> None:
        grey = picture()[..., 1]
        stream = jpeg_of_components(Image.fromarray(np.ascontiguousarray(grey)))
        found = decode(tmp_path, encapsulated(stream))
        assert distance(found[..., 2], grey) < 2

    def test_frame_in_several_fragments(self, tmp_path: Path) -> None:
        frame = jpeg(picture())
        ds = encapsulated(frame)
        ds.PixelData = encapsulate([frame], fragments_per_frame=3)
        assert distance(decode(tmp_path, ds), picture()) < 2

    def test_first_of_several_frames(self, tmp_path: Path) -> None:
        ds = encapsulated(jpeg(picture()), NumberOfFrames=2)
        ds.PixelData = encapsulate([jpeg(picture()), jpeg(255 - picture())])
        assert distance(decode(tmp_path, ds), picture()) < 2

    def test_truncated_image_is_refused(self, tmp_path: Path) -> None:
        frame = jpeg(picture(480, 640))
        ds = encapsulated(frame[: len(frame) // 2], Rows=480, Columns=640)
        with pytest.raises(Undecodable, match="incomplete"):
            decode(tmp_path, ds)

    def test_size_that_contradicts_the_header_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Undecodable, match="48 x 64 pixels, its header says 47 x 64"):
            decode(tmp_path, encapsulated(jpeg(picture()), Rows=47))

    @pytest.mark.parametrize(
        "frame", [b"\xff\xd8\xff\xd9", b"\0" * 100, b"\xff\xd8\xff\xc0\0\x03\x08", b"hello"]
    )
    def test_bytes_that_are_no_jpeg_are_refused(self, tmp_path: Path, frame: bytes) -> None:
        with pytest.raises(Undecodable):
            decode(tmp_path, encapsulated(frame))

    def test_cmyk_is_refused(self, tmp_path: Path) -> None:
        stream = jpeg_of_components(Image.new("CMYK", (64, 48)))
        with pytest.raises(Undecodable, match="4 components"):
            decode(tmp_path, encapsulated(stream))


class TestOtherCodecs:
    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
    def test_lossless_colour_is_exact(self, tmp_path: Path, syntax: Any) -> None:
        ds = instance()
        options = {"jls_error": None} if syntax is None else {}
        compress(ds, syntax, generate_instance_uid=False, **options)
        assert np.array_equal(decode(tmp_path, ds), picture())

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
    def test_lossless_16_bit_grey(self, tmp_path: Path, syntax: Any) -> None:
        grey = picture()[..., 0].astype(np.uint16) * 257
        ds = instance(grey)
        compress(ds, syntax, generate_instance_uid=False)
        assert np.array_equal(decode(tmp_path, ds)[..., 0], picture()[..., 0])

    @pytest.mark.parametrize("declared", ["YBR_RCT", "YBR_ICT", "RGB", "YBR_FULL"])
    def test_jpeg_2000_with_a_component_transform_is_rgb(
        self, tmp_path: Path, declared: str
    ) -> None:
        stream = io.BytesIO()
        Image.fromarray(picture()).save(stream, "JPEG2000", mct=1, no_jp2=True)
        ds = encapsulated(stream.getvalue(), JPEG2000, PhotometricInterpretation=declared)
        assert distance(decode(tmp_path, ds), picture()) < 1

    @pytest.mark.parametrize("declared", ["YBR_FULL", "RGB"])
    def test_jpeg_2000_without_one_follows_the_declaration(
        self, tmp_path: Path, declared: str
    ) -> None:
        mode = "YCbCr" if declared == "YBR_FULL" else "RGB"
        components = np.asarray(Image.fromarray(picture()).convert(mode))
        stream = io.BytesIO()
        Image.fromarray(components).save(stream, "JPEG2000", mct=0, no_jp2=True)
        ds = encapsulated(stream.getvalue(), JPEG2000, PhotometricInterpretation=declared)
        assert distance(decode(tmp_path, ds), picture()) < 2

    def test_rle_in_ybr_full(self, tmp_path: Path) -> None:
        ybr = np.asarray(Image.fromarray(picture()).convert("YCbCr"))
        ds = instance(ybr, PhotometricInterpretation="YBR_FULL")
        compress(ds, RLELossless, generate_instance_uid=False)
        assert distance(decode(tmp_path, ds), picture()) < 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"Rows": None}, "Rows"),
            ({"Columns": 0}, "Columns"),
            ({"BitsAllocated": 32}, "Bits Allocated"),
            ({"SamplesPerPixel": 4}, "4 samples"),
            ({"PhotometricInterpretation": "HSV"}, "HSV"),
            ({"Rows": 65535, "Columns": 65535}, "too large"),
            ({"Rows": 49}, "ends early"),
            ({"PixelData": None}, "no pixel data"),
        ],
    )
    def test_header_that_describes_no_image_we_read(
        self, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(Undecodable, match=reason):
            decode(tmp_path, changed(instance(), **changes))

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InstanceMissing):
            SpoolInstances(tmp_path).pixels("gone.dcm")
        with pytest.raises(InstanceMissing):
            SpoolInstances(tmp_path).header("gone.dcm")

    def test_disk_that_does_not_answer_is_passing(self, tmp_path: Path) -> None:
        (tmp_path / "folder.dcm").mkdir()
        with pytest.raises(StorageUnavailable):
            SpoolInstances(tmp_path).header("folder.dcm")

    def test_file_that_is_no_dicom(self, tmp_path: Path) -> None:
        (tmp_path / "a.dcm").write_bytes(b"hello" * 100)
        with pytest.raises(Undecodable):
            SpoolInstances(tmp_path).header("a.dcm")

    def test_reason_holds_no_attribute_value(self, tmp_path: Path) -> None:
        with pytest.raises(Undecodable) as caught:
            decode(tmp_path, instance(PixelData=b"\0\0"))
        assert "canary" not in str(caught.value).lower()

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
    def test_damage_is_undecodable_or_an_image_never_another_error(
        self, tmp_path: Path, position: int, value: int, cut: bool
    ) -> None:
        name = write(tmp_path, encapsulated(jpeg(picture())))
        content = bytearray((tmp_path / name).read_bytes())
        position = 132 + position % (len(content) - 132)
        if cut:
            del content[position:]
        else:
            content[position] = value
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(Undecodable):  # anything else fails the test
            assert SpoolInstances(tmp_path).pixels(name).ndim == 3


def test_header_has_everything_but_the_pixels(tmp_path: Path) -> None:
    header = SpoolInstances(tmp_path).header(write(tmp_path, instance()))
    assert header.PatientID == "CANARY-ID"
    assert "PixelData" not in header
