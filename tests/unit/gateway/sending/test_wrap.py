"""``lentigo wrap``: pictures of every kind become valid instances, or say why not."""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from gateway.dicom.part10 import inspect
from gateway.errors import WrapError
from gateway.sending import wrap as wrap_module
from gateway.sending.wrap import Kind, StudyIdentity, save, wrap
from tests.servers import require

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
# dciodvfy of 2022 asks for a module that the Dermoscopic Photography IOD does not have any more.
FALSE_ALARMS = ("Module=<FrameOfReference>",)


def colours(rows: int = 32, columns: int = 48) -> Image.Image:
    """A picture without symmetry, smooth enough for JPEG."""
    row, column = np.mgrid[:rows, :columns]
    channels = [row * 255 // rows, column * 255 // columns, (row + column) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def read_back(ds: Dataset, tmp_path: Path) -> Dataset:
    path = tmp_path / "wrapped.dcm"
    save(ds, path)
    assert inspect(path).sop_instance_uid == ds.SOPInstanceUID
    return dcmread(path)


def stream_of(ds: Dataset) -> bytes:
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    return frame


def notes_of(path: Path, kind: Kind = Kind.DERMOSCOPY) -> tuple[Dataset, list[str]]:
    notes: list[str] = []
    return wrap(path, kind, on_note=notes.append), notes


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_is_kept_byte_for_byte(tmp_path: Path, subsampling: int) -> None:
    path = saved(colours(), tmp_path / "a.jpg", subsampling=subsampling, quality=90)
    wrapped, notes = notes_of(path)
    ds = read_back(wrapped, tmp_path)
    content = path.read_bytes()
    assert notes == []
    assert ds.file_meta.TransferSyntaxUID == JPEG_BASELINE
    assert stream_of(ds)[: len(content)] == content
    assert len(stream_of(ds)) - len(content) in (0, 1)
    assert ds.PhotometricInterpretation == "YBR_FULL_422"
    assert (ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration) == (32, 48, 3, 0)
    assert ds.LossyImageCompression == "01"
    assert ds.LossyImageCompressionMethod == "ISO_10918_1"
    assert float(ds.LossyImageCompressionRatio) == pytest.approx(
        32 * 48 * 3 / len(content), abs=0.01
    )
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY"]


def test_a_grey_jpeg_is_kept_as_monochrome(tmp_path: Path) -> None:
    path = saved(colours().convert("L"), tmp_path / "a.jpg")
    ds = read_back(wrap(path, Kind.CLINICAL), tmp_path)
    assert (ds.PhotometricInterpretation, ds.SamplesPerPixel) == ("MONOCHROME2", 1)
    assert "PlanarConfiguration" not in ds
    assert stream_of(ds).startswith(path.read_bytes()[:-2])


def test_what_follows_the_end_of_a_jpeg_is_left_out(tmp_path: Path) -> None:
    path = saved(colours(), tmp_path / "a.jpg")
    content = path.read_bytes()
    path.write_bytes(content + b"a clip of a second" * 50)
    assert stream_of(wrap(path, Kind.CLINICAL)).rstrip(b"\0") == content.rstrip(b"\0")


def extended(content: bytes) -> bytes:
    """The same stream under the SOF marker of the extended process, which 8-bit Huffman fits."""
    return content.replace(b"\xff\xc0", b"\xff\xc1", 1)


def test_an_extended_jpeg_has_its_own_transfer_syntax(tmp_path: Path) -> None:
    path = saved(colours(), tmp_path / "a.jpg")
    path.write_bytes(extended(path.read_bytes()))
    ds = wrap(path, Kind.CLINICAL)
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.51"


DECODED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "progressive": (lambda p: saved(colours(), p / "a.jpg", progressive=True), "progressive"),
    "turned": (lambda p: saved(colours(), p / "a.jpg", exif=with_orientation(6)), "orientation 6"),
    "RGB inside": (lambda p: saved(colours(), p / "a.jpg", keep_rgb=True), "cannot be kept"),
}


@pytest.mark.parametrize("name", DECODED)
def test_a_jpeg_that_cannot_be_kept_is_decoded_and_says_so(tmp_path: Path, name: str) -> None:
    make, word = DECODED[name]
    path = make(tmp_path)
    wrapped, notes = notes_of(path)
    ds = read_back(wrapped, tmp_path)
    assert len(notes) == 1
    assert word in notes[0]
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    if name == "turned":
        expected = np.rot90(expected, -1)  # Exif 6: the row on top is the right-hand side
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    np.testing.assert_array_equal(ds.pixel_array, expected)
    assert ds.LossyImageCompression == "01"  # once lossy, always lossy


def test_every_orientation_comes_out_upright(tmp_path: Path) -> None:
    upright = np.asarray(colours())
    lying = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for number, pixels in lying.items():
        path = saved(
            Image.fromarray(np.ascontiguousarray(pixels)),
            tmp_path / f"{number}.png",
            exif=with_orientation(number),
        )
        np.testing.assert_array_equal(wrap(path, Kind.CLINICAL).pixel_array, upright)


def opaque(value: int) -> Image.Image:
    image = colours()
    image.putalpha(value)
    return image


def on_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


PNGS: dict[str, tuple[Image.Image, str, str]] = {
    "colour": (colours(), "RGB", ""),
    "odd size": (colours(31, 47), "RGB", ""),
    "grey": (colours().convert("L"), "MONOCHROME2", ""),
    "odd grey": (colours(31, 47).convert("L"), "MONOCHROME2", ""),
    "palette": (colours().convert("P"), "RGB", ""),
    "black and white": (colours().convert("1"), "MONOCHROME2", ""),
    "opaque": (opaque(255), "RGB", ""),
    "half transparent": (opaque(128), "RGB", "white"),
    "grey with alpha": (colours().convert("LA"), "MONOCHROME2", ""),
    "16 bit": (
        Image.fromarray(np.asarray(colours().convert("L")).astype(np.uint16) * 257),
        "MONOCHROME2",
        "16 bits",
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_of_any_mode_is_kept_without_loss(tmp_path: Path, name: str) -> None:
    image, photometric_interpretation, word = PNGS[name]
    path = saved(image, tmp_path / "a.png")
    wrapped, notes = notes_of(path)
    ds = read_back(wrapped, tmp_path)
    assert ds.PhotometricInterpretation == photometric_interpretation
    if name == "16 bit":
        expected = np.asarray(colours().convert("L"))
    elif photometric_interpretation == "RGB":
        expected = on_white(image)
    else:
        expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(ds.pixel_array, expected)
    assert len(ds.PixelData) % 2 == 0
    assert ds.LossyImageCompression == "00"
    assert [word in note for note in notes] == ([True] if word else [])
    assert ds.ImageType[0] == ("DERIVED" if word else "ORIGINAL")
    assert ("DerivationDescription" in ds) == bool(word)


def test_transparency_of_a_palette_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    path = saved(image, tmp_path / "a.png", transparency=0)
    ds, notes = notes_of(path)
    assert ds.pixel_array[0, 0].tolist() == [255, 255, 255]
    assert ds.pixel_array[1, 3].tolist() == [10, 20, 30]
    assert notes == ["transparent parts laid on white"]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_embedded_profile_becomes_one_of_an_input_device(tmp_path: Path, suffix: str) -> None:
    path = saved(colours(), tmp_path / f"a.{suffix}", icc_profile=srgb())
    profile = wrap(path, Kind.DERMOSCOPY).ICCProfile
    assert profile[12:16] == b"scnr"  # PS3.3 C.11.15
    assert profile[84:100] == bytes(16)
    assert len(profile) == len(srgb())
    transform = ImageCms.buildTransform(io.BytesIO(profile), io.BytesIO(srgb()), "RGB", "RGB")
    converted = ImageCms.applyTransform(colours(), transform)
    assert converted is not None
    assert np.abs(np.asarray(converted).astype(int) - np.asarray(colours())).max() <= 1


def test_no_profile_is_made_up(tmp_path: Path) -> None:
    assert "ICCProfile" not in wrap(saved(colours(), tmp_path / "a.png"), Kind.CLINICAL)
    assert "ICCProfile" not in wrap(saved(colours(), tmp_path / "a.jpg"), Kind.CLINICAL)


def test_a_picture_that_says_srgb_gets_its_profile(tmp_path: Path) -> None:
    content = saved(colours(), tmp_path / "a.png").read_bytes()
    path = tmp_path / "b.png"
    path.write_bytes(content[:33] + chunk(b"sRGB", b"\0") + content[33:])
    assert wrap(path, Kind.CLINICAL).ICCProfile[12:20] == b"scnrRGB "


def test_a_profile_that_is_not_for_rgb_is_left_out_and_told(tmp_path: Path) -> None:
    odd = srgb()[:16] + b"GRAY" + srgb()[20:]
    ds, notes = notes_of(saved(colours(), tmp_path / "a.jpg", icc_profile=odd))
    assert "ICCProfile" not in ds
    assert notes == ["its ICC profile is not one for RGB and was left out"]


def test_the_camera_is_named_when_the_picture_names_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Acme", "Back\\slash 3"
    exif.get_ifd(0x8769)[0x9003] = "2025:03:04 05:06:07"
    ds = wrap(saved(colours(), tmp_path / "a.jpg", exif=exif), Kind.CLINICAL)
    assert (ds.Manufacturer, ds.ManufacturerModelName) == ("Acme", "Backslash 3")
    assert ds.AcquisitionDateTime == "20250304050607"
    assert (ds.StudyDate, ds.ContentTime) == ("20250304", "050607")


def test_an_unknown_camera_is_said_to_be_unknown(tmp_path: Path) -> None:
    ds = wrap(saved(colours(), tmp_path / "a.png"), Kind.DERMOSCOPY)
    assert ds.Manufacturer == ds.ManufacturerModelName == ds.DeviceSerialNumber == "UNKNOWN"
    assert "AcquisitionDateTime" not in ds


def test_the_kind_decides_the_class(tmp_path: Path) -> None:
    path = saved(colours(), tmp_path / "a.png")
    dermoscopic, clinical = wrap(path, Kind.DERMOSCOPY), wrap(path, "clinical")
    assert dermoscopic.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.7"
    assert (dermoscopic.Modality, dermoscopic.RecognizableVisualFeatures) == ("DMS", "NO")
    assert clinical.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.4"
    assert clinical.Modality == "XC"
    assert "RecognizableVisualFeatures" not in clinical
    with pytest.raises(WrapError, match="dermoscopy, clinical"):
        wrap(path, "x-ray")


def test_two_pictures_share_nothing_unless_told(tmp_path: Path) -> None:
    path = saved(colours(), tmp_path / "a.png")
    first, second = wrap(path, Kind.CLINICAL), wrap(path, Kind.CLINICAL)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert first[keyword].value != second[keyword].value
        if keyword.endswith("UID"):
            assert UID(first[keyword].value).is_valid
    assert first.PatientName == ""


def test_an_identity_is_written_as_given(tmp_path: Path) -> None:
    identity = StudyIdentity(
        patient_id="P-1",
        patient_name="M\u00fcller^J\u00fcrgen",
        patient_birth_date="19700131",
        patient_sex="O",
        accession_number="A-1",
        study_description="Follow-up",
        study_instance_uid="1.2.3",
        instance_number=4,
    )
    path = saved(colours(), tmp_path / "a.png")
    ds = read_back(wrap(path, Kind.CLINICAL, identity=identity), tmp_path)
    assert (ds.PatientID, str(ds.PatientName)) == ("P-1", "M\u00fcller^J\u00fcrgen")
    assert (ds.PatientBirthDate, ds.PatientSex) == ("19700131", "O")
    assert (ds.AccessionNumber, ds.StudyDescription) == ("A-1", "Follow-up")
    assert (ds.StudyInstanceUID, ds.InstanceNumber) == ("1.2.3", 4)


@pytest.mark.parametrize(
    "values",
    [
        {"patient_id": ""},
        {"patient_id": "a\\b"},
        {"patient_id": "x" * 65},
        {"patient_name": "line\nbreak"},
        {"patient_birth_date": "31.01.1970"},
        {"patient_birth_date": "19700231"},
        {"patient_sex": "x"},
        {"accession_number": "x" * 17},
        {"study_instance_uid": "1..2"},
    ],
)
def test_an_identity_that_cannot_be_written_names_its_attribute(values: dict[str, str]) -> None:
    with pytest.raises(WrapError, match=next(iter(values))):
        StudyIdentity(**values)  # type: ignore[arg-type]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


GOOD_JPEG, GOOD_PNG = encoded(colours(), "JPEG"), encoded(colours(), "PNG")
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"hello, this is no picture", "neither JPEG nor PNG"),
    "random.png": (os.urandom(5000).lstrip(b"\xff\x89"), "neither JPEG nor PNG"),
    "half.jpg": (GOOD_JPEG[: len(GOOD_JPEG) // 2], "truncated"),
    "half.png": (GOOD_PNG[: len(GOOD_PNG) // 2], "truncated"),
    "start.jpg": (GOOD_JPEG[:20], "truncated|neither"),
    "start.png": (GOOD_PNG[:8], "truncated|neither"),
    "no end.jpg": (GOOD_JPEG[:-2], "truncated"),
    "bomb.png": (png_of_size(60000, 60000), "too many"),
    "wide.png": (png_of_size(70000, 10), "too many"),
    "hollow.png": (png_of_size(0, 10), "damaged|neither"),
    "cmyk.jpg": (encoded(colours().convert("CMYK"), "JPEG"), "CMYK"),
    "cmyk odd.jpg": (encoded(colours().convert("CMYK"), "JPEG", icc_profile=srgb()), "CMYK"),
    "moving.png": (
        encoded(colours(), "PNG", save_all=True, append_images=[colours().rotate(90)]),
        "animated",
    ),
    "picture.gif": (encoded(colours(), "GIF"), "neither JPEG nor PNG"),
    "picture.tif": (encoded(colours(), "TIFF"), "neither JPEG nor PNG"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_wrapped_names_the_file_and_the_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WrapError, match=f"{name}: .*({reason})"):
        wrap(path, Kind.CLINICAL)


@pytest.mark.parametrize("name", ["gone.jpg", "."])
def test_what_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrapError):
        wrap(tmp_path / name, Kind.CLINICAL)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)
@given(data=st.data())
def test_damage_never_raises_anything_but_our_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([GOOD_JPEG, GOOD_PNG])))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        ds = wrap(path, Kind.CLINICAL)
    except WrapError:
        return
    save(ds, tmp_path / "a.dcm")
    assert inspect(tmp_path / "a.dcm").rows == ds.Rows


def validate(path: Path) -> list[str]:
    """Return the errors of dciodvfy but its known false alarms."""
    done = subprocess.run(
        ["dciodvfy", "-new", path], capture_output=True, text=True, errors="replace", check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert any("Image" in line for line in lines)  # it knew the IOD
    return [
        line
        for line in lines
        if line.startswith("Error") and not any(each in line for each in FALSE_ALARMS)
    ]


@pytest.mark.parametrize("kind", Kind)
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: Kind) -> None:
    require("dciodvfy")
    paths = [saved(image, tmp_path / f"{name}.png") for name, (image, *_) in PNGS.items()]
    paths += [
        saved(colours(), tmp_path / f"{subsampling}.jpg", subsampling=subsampling)
        for subsampling in range(3)
    ]
    paths.append(saved(colours().convert("L"), tmp_path / "grey.jpg"))
    paths.append(saved(colours(), tmp_path / "progressive.jpg", progressive=True))
    paths.append(saved(colours(), tmp_path / "rgb.jpg", keep_rgb=True))
    paths.append(saved(colours(), tmp_path / "profile.jpg", icc_profile=srgb()))
    paths.append(saved(colours(), tmp_path / "turned.jpg", exif=with_orientation(3)))
    for path in paths:
        target = tmp_path / "out" / f"{path.name}.dcm"
        save(wrap(path, kind), target)
        assert validate(target) == [], path.name


def command_line(*words: object) -> int:
    parser = argparse.ArgumentParser()
    wrap_module.add_arguments(parser)
    return wrap_module.run(parser.parse_args([str(word) for word in words]))


def test_the_command_wraps_the_good_ones_and_fails_for_the_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = saved(colours(), tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_text("hello")
    out = tmp_path / "out"
    assert command_line(bad, good, "--out", out, "--kind", "clinical") == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out / "good.dcm")]
    assert "bad.jpg: neither JPEG nor PNG" in said.err
    assert [path.name for path in out.iterdir()] == ["good.dcm"]
    assert command_line(good, "--out", out, "--kind", "clinical") == 0


def test_the_command_takes_folders_and_keeps_equal_stems_apart(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    saved(colours(), folder / "a.png")
    saved(colours(), folder / "a.jpg")
    (folder / "notes.txt").write_text("hello")
    assert command_line(folder, "--out", out, "--kind", "dermoscopy") == 0
    assert sorted(path.name for path in out.iterdir()) == ["a-2.dcm", "a.dcm"]


@pytest.mark.parametrize(
    ("options", "studies", "patients"),
    [
        ((), 2, 2),
        (("--patient-id", "P-1"), 2, 1),
        (("--same-study",), 1, 1),
        (("--study-uid", "1.2.3"), 1, 1),
    ],
)
def test_options_decide_what_pictures_share(
    tmp_path: Path, options: tuple[str, ...], studies: int, patients: int
) -> None:
    paths = [saved(colours(), tmp_path / f"{name}.png") for name in "ab"]
    out = tmp_path / "out"
    assert command_line(*paths, "--out", out, "--kind", "clinical", *options) == 0
    datasets = [dcmread(path) for path in sorted(out.iterdir())]
    assert len({ds.StudyInstanceUID for ds in datasets}) == studies
    assert len({ds.PatientID for ds in datasets}) == patients
    assert len({ds.SOPInstanceUID for ds in datasets}) == 2
    if studies == 1:
        assert [ds.InstanceNumber for ds in datasets] == [1, 2]
        assert len({ds.SeriesInstanceUID for ds in datasets}) == 1


def test_options_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    path = saved(colours(), tmp_path / "a.png")
    out = ("--out", tmp_path / "out", "--kind", "clinical")
    with pytest.raises(WrapError, match="study_instance_uid"):
        command_line(path, *out, "--study-uid", "nonsense")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrapError, match="no JPEG or PNG"):
        command_line(tmp_path / "empty", *out)


def test_a_target_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    ds = wrap(saved(colours(), tmp_path / "a.png"), Kind.CLINICAL)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WrapError, match="file"):
        save(ds, tmp_path / "file" / "a.dcm")
